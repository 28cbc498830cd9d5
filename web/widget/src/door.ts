/**
 * The way in for a page of another site: tokens of a quarter of an hour, bought with the visitor's
 * secret. Nothing is kept in the browser before the visitor opens the chat.
 */
import type { Door } from '../../chat/src/door';
import type { Shelf } from '../../chat/src/outbox';
import type { ChannelInfo } from '../../chat/src/protocol';
import { request } from '../../chat/src/transport';

export interface Face {
  title: string;
  intro: string;
  launcher: string;
  color: string;
  theme: 'auto' | 'light' | 'dark';
  position: 'start' | 'end';
  language: string;
  direction: 'auto' | 'ltr' | 'rtl';
  quick_replies: string[];
  ai_disclosure: boolean;
  csat: boolean;
  uploads: boolean;
  transcript: boolean;
  /** It can also be sent by mail. */
  transcript_mail: boolean;
}

interface Given {
  token: string;
  expires_in: number;
  visitor: string;
  channel: ChannelInfo;
  widget: Face;
}

/** A token is not used for a new connection when it ends this soon. */
const MARGIN_MS = 30_000;

export class WidgetDoor implements Door {
  readonly base: string;
  readonly returning: boolean;
  face: Face | null = null;
  #shelf: Shelf;
  #name: string;
  #visitor: string | null;
  #kept: boolean;
  #token: string | null = null;
  #until = 0;
  #channel: ChannelInfo | null = null;
  #asking: Promise<ChannelInfo> | null = null;
  #now: () => number;

  constructor(server: string, channelKey: string, shelf: Shelf, now: () => number = () => performance.now()) {
    this.base = `${server}/v1/widget/${encodeURIComponent(channelKey)}`;
    this.#shelf = shelf;
    this.#name = `qudao.${channelKey}.visitor`;
    this.#visitor = shelf.get(this.#name);
    this.#kept = this.#visitor !== null;
    this.returning = this.#kept;
    this.#now = now;
  }

  token(): string | null {
    return this.#now() < this.#until - MARGIN_MS ? this.#token : null;
  }

  /** From now on the browser remembers the visitor: they opened the chat. */
  keep(): void {
    if (this.#kept) return;
    this.#kept = true;
    const other = this.#shelf.get(this.#name);
    if (other !== null && other !== this.#visitor) {
      // Another tab was faster: one visitor, one conversation.
      this.#visitor = other;
      this.#until = 0;
    }
    if (this.#visitor !== null) this.#shelf.set(this.#name, this.#visitor);
  }

  enter(): Promise<ChannelInfo> {
    if (this.#channel !== null && this.token() !== null) return Promise.resolve(this.#channel);
    this.#asking ??= this.#ask().finally(() => (this.#asking = null));
    return this.#asking;
  }

  /** The visitor stays who they are: only the token has to be another. */
  refused(): boolean {
    this.#until = 0;
    return false;
  }

  /** Takes everything of this visitor out of the browser. The next token is somebody else's. */
  forget(): void {
    const own = this.#name.replace(/visitor$/, '');
    for (const name of this.#shelf.keys()) if (name.startsWith(own)) this.#shelf.remove(name);
    this.#visitor = null;
    this.#kept = false;
    this.#token = null;
    this.#until = 0;
  }

  async #ask(): Promise<ChannelInfo> {
    const asked = this.#now();
    const response = await request({ base: this.base, token: null }, '/token', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(this.#visitor === null ? {} : { visitor: this.#visitor }),
    });
    const given = (await response.json()) as Given;
    this.#visitor ??= given.visitor;
    if (this.#kept) this.#shelf.set(this.#name, this.#visitor);
    this.#token = given.token;
    // Counted from the question, so that no slow answer makes it last longer.
    this.#until = this.#visitor === given.visitor ? asked + given.expires_in * 1000 : 0;
    this.face = given.widget;
    this.#channel = given.channel;
    return given.channel;
  }
}
