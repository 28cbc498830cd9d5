/** Which messages are new: to the page around, and to a visitor who has closed the chat. */
import type { Shelf } from '../../chat/src/outbox';
import type { Entry } from '../../chat/src/timeline';

export class News {
  #shelf: Shelf;
  #name: string;
  #told: Set<string> | null = null;

  constructor(shelf: Shelf, channelKey: string) {
    this.#shelf = shelf;
    this.#name = `qudao.${channelKey}.seen`;
  }

  /** What was stored since the last call; nothing of what was there before the first. */
  fresh(entries: readonly Entry[], loaded: boolean): Entry[] {
    if (!loaded && this.#told === null) return [];
    const stored = entries.filter((entry) => entry.key !== undefined && entry.streaming !== true);
    const told = this.#told;
    this.#told = new Set([...(told ?? []), ...stored.map((entry) => entry.key as string)]);
    return told === null ? [] : stored.filter((entry) => !told.has(entry.key as string));
  }

  /** Answers that the visitor has not had before their eyes, also of visits before. */
  unread(entries: readonly Entry[]): number {
    const seen = Number(this.#shelf.get(this.#name) ?? '0');
    return entries.filter((entry) => outSeq(entry) > seen).length;
  }

  /** Everything is before the visitor's eyes. */
  seen(entries: readonly Entry[]): void {
    const last = Math.max(0, ...entries.map(outSeq));
    if (last > Number(this.#shelf.get(this.#name) ?? '0')) this.#shelf.set(this.#name, String(last));
  }
}

/** The place of an answer among answers; 0 for what is none. */
function outSeq(entry: Entry): number {
  return entry.key?.startsWith('o:') ? Number(entry.key.slice(2)) : 0;
}
