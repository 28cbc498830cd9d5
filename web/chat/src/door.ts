/** How a visitor comes to a channel: where its endpoints are, and under which token they are asked. */
import type { Shelf } from './outbox';
import type { ChannelInfo } from './protocol';
import { request } from './transport';

export interface Door {
  /** Where the endpoints begin: a path of this site, or an address. */
  readonly base: string;
  /** The visitor was here before and may have a history. */
  readonly returning: boolean;
  /** The token for the next connection; `null` if one has to be asked for. */
  token(): string | null;
  /** Learns the channel, and gets a token if there is none. */
  enter(): Promise<ChannelInfo>;
  /** The server does not take the token. Answers whether the visitor is a stranger from now on. */
  refused(): boolean;
}

/** The door of the chat page: one token, made once and kept. */
export class PageDoor implements Door {
  readonly base: string;
  readonly returning: boolean;
  #shelf: Shelf;
  #name: string;
  #token: string | null;

  constructor(channelKey: string, shelf: Shelf) {
    this.base = `/v1/web/${encodeURIComponent(channelKey)}`;
    this.#shelf = shelf;
    this.#name = `qudao.${channelKey}.token`;
    this.#token = shelf.get(this.#name);
    this.returning = this.#token !== null;
  }

  token(): string | null {
    return this.#token;
  }

  async enter(): Promise<ChannelInfo> {
    const response = await request({ base: this.base, token: this.#token }, '/session', { method: 'POST' });
    const session = (await response.json()) as { token: string; channel: ChannelInfo; uploads: boolean };
    if (this.#token === null) {
      // Another tab may have taken a token in the meantime: one visitor, one conversation.
      this.#token = this.#shelf.get(this.#name) ?? session.token;
      this.#shelf.set(this.#name, this.#token);
    }
    return { ...session.channel, uploads: session.uploads };
  }

  refused(): boolean {
    this.#token = null;
    this.#shelf.remove(this.#name);
    return true;
  }
}
