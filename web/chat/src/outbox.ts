/**
 * Messages that the server has not confirmed, kept across reloads.
 *
 * Each message has a storage key of its own, so that two tabs of one visitor never overwrite each
 * other's list. Sending one twice is harmless: the server recognises the id.
 */

export interface Outgoing {
  id: string;
  text: string;
  at: string;
  /** Code of the refusal that made it wait for the visitor's retry. */
  failure?: string;
}

/** Where strings are kept; `localStorage`, or memory where the browser forbids it. */
export interface Shelf {
  get(key: string): string | null;
  set(key: string, value: string): void;
  remove(key: string): void;
  keys(): string[];
}

export class Outbox {
  #shelf: Shelf;
  #prefix: string;

  constructor(shelf: Shelf, channelKey: string) {
    this.#shelf = shelf;
    this.#prefix = `qudao.${channelKey}.out.`;
  }

  /** Oldest first. */
  list(): Outgoing[] {
    return this.#shelf
      .keys()
      .filter((key) => key.startsWith(this.#prefix))
      .map((key) => this.#read(key))
      .filter((item) => item !== null)
      .sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : a.id < b.id ? -1 : 1));
  }

  put(item: Outgoing): void {
    this.#shelf.set(this.#prefix + item.id, JSON.stringify(item));
  }

  find(id: string): Outgoing | null {
    return this.#read(this.#prefix + id);
  }

  remove(id: string): void {
    this.#shelf.remove(this.#prefix + id);
  }

  #read(key: string): Outgoing | null {
    try {
      const value = JSON.parse(this.#shelf.get(key) ?? 'null') as Outgoing | null;
      return value && typeof value.id === 'string' && typeof value.text === 'string' ? value : null;
    } catch {
      return null;
    }
  }
}

export function memoryShelf(): Shelf {
  const map = new Map<string, string>();
  return {
    get: (key) => map.get(key) ?? null,
    set: (key, value) => void map.set(key, value),
    remove: (key) => void map.delete(key),
    keys: () => [...map.keys()],
  };
}

/** `localStorage`, or memory in private windows and locked-down frames where touching it throws. */
export function browserShelf(): Shelf {
  const memory = memoryShelf();
  try {
    localStorage.setItem('qudao.probe', '1');
    localStorage.removeItem('qudao.probe');
  } catch {
    return memory;
  }
  return {
    get: (key) => memory.get(key) ?? localStorage.getItem(key),
    set: (key, value) => {
      try {
        localStorage.setItem(key, value);
        memory.remove(key);
      } catch {
        memory.set(key, value);
      }
    },
    remove: (key) => {
      memory.remove(key);
      localStorage.removeItem(key);
    },
    keys: () => [...new Set([...Object.keys(localStorage), ...memory.keys()])],
  };
}
