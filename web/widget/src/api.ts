/** What the page around the widget may ask of it, and hears of it. */
import type { UserToken } from './person';

export interface Happenings {
  open: Record<string, never>;
  close: Record<string, never>;
  message: { role: 'user' | 'assistant' | 'notice'; text: string; key: string };
  unread: { count: number };
}

type Kind = keyof Happenings;
type Listener = (detail: never) => void;

export interface HostApi {
  readonly version: string;
  open(): void;
  close(): void;
  /**
   * Says who the visitor is, by a token that the site's server signed or a function that fetches one.
   * It is shown once the visitor opens the chat, or at once to whoever was here before.
   */
  identify(token: UserToken): Promise<void>;
  /** Has a code sent to an address of the visitor's; answers the claim to show it for. */
  askCode(address: { email: string } | { phone: string }): Promise<string>;
  /** Shows the code: from then on the address is the visitor's. */
  confirmCode(claim: string, code: string): Promise<void>;
  /** Nobody is signed in any more: this browser forgets the conversation. */
  signOut(): Promise<void>;
  /** Answers how to stop hearing. */
  on<K extends Kind>(kind: K, listener: (detail: Happenings[K]) => void): () => void;
}

export class Host {
  #listeners = new Map<Kind, Set<Listener>>();

  on<K extends Kind>(kind: K, listener: (detail: Happenings[K]) => void): () => void {
    const heard = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, heard);
    heard.add(listener as Listener);
    return () => void heard.delete(listener as Listener);
  }

  /** What a listener throws is the page's own business, and no other listener's. */
  tell<K extends Kind>(kind: K, detail: Happenings[K]): void {
    for (const listener of this.#listeners.get(kind) ?? []) {
      try {
        (listener as (detail: Happenings[K]) => void)(detail);
      } catch (error) {
        setTimeout(() => reportError(error));
      }
    }
    dispatchEvent(new CustomEvent(`qudao:${kind}`, { detail }));
  }
}
