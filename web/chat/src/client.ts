/**
 * The conversation of one visitor with one channel: session, connection, outbox and timeline.
 *
 * Rules that keep a message from being lost or doubled:
 * - a message is written to the outbox before anything is sent, and leaves it only when the server
 *   has confirmed it by `accepted` or by showing it in the history;
 * - one message is in flight at a time, so the order of typing is the order of arrival;
 * - every retry carries the same id;
 * - every reconnect resumes behind the last message seen, and messages are recognised by `key`.
 */
import { PageDoor, type Door } from './door';
import { Pictures } from './files';
import { Outbox, type Shelf } from './outbox';
import type { ChannelInfo, ServerFrame } from './protocol';
import { Timeline } from './timeline';
import { openEvents, openSocket, Refusal, request, type Endpoint, type Events, type Transport } from './transport';

export type Connection = 'connecting' | 'online' | 'offline' | 'reconnecting';

export interface ClientOptions {
  channelKey: string;
  shelf: Shelf;
  /** The chat page's own if left out. */
  door?: Door;
  /** Called after any change; the receiver coalesces. */
  changed: () => void;
  random?: () => number;
  openSocket?: (endpoint: Endpoint, events: Events) => Transport;
  openEvents?: (endpoint: Endpoint, events: Events) => Transport;
}

const BACKOFF_FIRST_MS = 400;
const BACKOFF_MAX_MS = 20_000;
/** Socket attempts that end before `ready` until events are tried instead. */
const SOCKET_FAILURES = 2;
/** How long events are used before a socket is tried again. */
const SOCKET_RETRY_MS = 10 * 60_000;
const ACCEPT_MS = 15_000;
const MAX_SERVER_FAILURES = 3;

export class ChatClient {
  readonly timeline = new Timeline();
  readonly pictures = new Pictures((path, init) => this.ask(path, init));
  channel: ChannelInfo | null = null;
  connection: Connection = 'connecting';
  /** Code of the refusal that ended the conversation; reconnecting would not help. */
  closedBy: string | null = null;
  /** The server has told all it knew when we connected. */
  loaded = false;
  stopping = false;
  /** The visitor was here before and may have a history. */
  readonly returning: boolean;

  #options: ClientOptions;
  #door: Door;
  #outbox: Outbox;
  #transport: Transport | null = null;
  /** The line has spoken. */
  #ready = false;
  /** The line has told what was missed; only then is it clear what still has to be sent. */
  #current = false;
  #attempts = 0;
  #socketFailures = 0;
  #socketBlockedAt = -Infinity;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #inFlight: { id: string; timer: ReturnType<typeof setTimeout> } | null = null;
  #serverFailures = new Map<string, number>();
  #pausedUntil = 0;
  #disposed = false;
  #lastAt = 0;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#door = options.door ?? new PageDoor(options.channelKey, options.shelf);
    this.#outbox = new Outbox(options.shelf, options.channelKey);
    this.returning = this.#door.returning;
    this.channel = this.#savedChannel();
    for (const item of this.#outbox.list()) {
      this.timeline.addLocal(item.id, item.text, item.at, item.failure ? 'failed' : 'queued', item.failure);
    }
  }

  start(): void {
    addEventListener('online', this.#wentOnline);
    addEventListener('offline', this.#wentOffline);
    document.addEventListener('visibilitychange', this.#shown);
    void this.#connect();
  }

  dispose(): void {
    this.#disposed = true;
    removeEventListener('online', this.#wentOnline);
    removeEventListener('offline', this.#wentOffline);
    document.removeEventListener('visibilitychange', this.#shown);
    this.#dropTransport();
    clearTimeout(this.#timer);
  }

  send(text: string): void {
    // The outbox is sorted by time, so no two messages of this page may have the same.
    this.#lastAt = Math.max(Date.now(), this.#lastAt + 1);
    const item = { id: clientId(), text, at: new Date(this.#lastAt).toISOString() };
    this.#outbox.put(item);
    this.timeline.addLocal(item.id, text, item.at, 'queued');
    this.#changed();
    this.#flush();
  }

  retry(id: string): void {
    const item = this.#outbox.find(id);
    if (!item) return;
    this.#outbox.put({ id: item.id, text: item.text, at: item.at });
    this.#serverFailures.delete(id);
    this.timeline.markSend(id, 'queued');
    this.#changed();
    if (this.#ready) this.#flush();
    else this.reconnectNow();
  }

  /** Takes back a message that was refused; answers its text so that it can be edited. */
  discard(id: string): string {
    const text = this.#outbox.find(id)?.text ?? '';
    this.#outbox.remove(id);
    this.timeline.removeLocal(id);
    this.#changed();
    return text;
  }

  /** A request of the visitor's beside the conversation. */
  async ask(path: string, init: RequestInit): Promise<Response> {
    if (this.#door.token() === null) await this.#door.enter();
    return request({ base: this.#door.base, token: this.#door.token() }, path, init);
  }

  stop(): void {
    if (!this.#ready) return;
    this.stopping = true;
    this.#transport?.stop();
    this.#changed();
  }

  reconnectNow(): void {
    if (this.#disposed || (this.#ready && this.closedBy === null)) return;
    // Whether the channel is open again is said when the session is opened.
    if (this.closedBy !== null) this.loaded = false;
    this.closedBy = null;
    this.#attempts = 0;
    clearTimeout(this.#timer);
    this.#dropTransport();
    void this.#connect();
  }

  // -- connection ---------------------------------------------------------------------------------

  async #connect(): Promise<void> {
    if (navigator.onLine === false) {
      this.#setConnection('offline');
      return;
    }
    this.#setConnection(this.#attempts === 0 && !this.loaded ? 'connecting' : 'reconnecting');
    try {
      await this.#openSession();
    } catch (error) {
      const reason = error instanceof Refusal ? error : null;
      if (!this.#mayStillRead(reason)) {
        this.#failed(reason);
        return;
      }
      this.closedBy = reason?.code ?? null;
    }
    if (this.#disposed || this.#transport) return;
    this.#openTransport();
  }

  /** Learns the channel, and takes a token the first time; a later visit keeps its own. */
  async #openSession(): Promise<void> {
    if (this.#door.token() !== null && this.channel !== null && this.loaded) return;
    this.channel = await this.#door.enter();
    this.#options.shelf.set(this.#storageKey('channel'), JSON.stringify(this.channel));
    this.#changed();
  }

  /** Who was here before may read on when the channel has closed. */
  #mayStillRead(reason: Refusal | null): boolean {
    return reason?.code === 'channel_closed' && this.#door.token() !== null && this.channel !== null;
  }

  #openTransport(): void {
    const endpoint = { base: this.#door.base, token: this.#door.token() as string, cursor: this.timeline.cursor };
    const viaSocket =
      this.#socketFailures < SOCKET_FAILURES || Date.now() - this.#socketBlockedAt > SOCKET_RETRY_MS;
    const open = viaSocket ? (this.#options.openSocket ?? openSocket) : (this.#options.openEvents ?? openEvents);
    // A transport that has been replaced may still speak; only the current one is heard.
    let mine: Transport | null = null;
    const current = (): boolean => mine !== null && this.#transport === mine;
    mine = open(endpoint, {
      frame: (frame) => current() && this.#frame(frame),
      closed: (reason) => current() && this.#closed(reason),
    });
    this.#transport = mine;
  }

  #closed(reason: Refusal | null): void {
    if (!this.#ready && this.#transport?.kind === 'socket') {
      this.#socketFailures += 1;
      this.#socketBlockedAt = Date.now();
    }
    this.#dropTransport();
    this.#failed(reason);
  }

  #failed(reason: Refusal | null): void {
    this.timeline.disconnected();
    this.stopping = false;
    if (reason && isUnknownVisitor(reason)) this.#forgetToken();
    // From the beginning then: what is shown already is recognised by its key.
    if (reason?.code === 'invalid_cursor') this.timeline.cursor = '';
    if (reason && isFinal(reason)) {
      this.closedBy = reason.code;
      this.#setConnection('offline');
      return;
    }
    const wait = Math.max(this.#backoff(), reason?.retryAfterMs ?? 0);
    this.#attempts += 1;
    this.#setConnection(navigator.onLine === false ? 'offline' : 'reconnecting');
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#connect(), wait);
  }

  /** Exponential with full jitter over the upper half, so that a restart does not meet a stampede. */
  #backoff(): number {
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(this.#attempts, 10));
    return ceiling / 2 + ((this.#options.random ?? Math.random)() * ceiling) / 2;
  }

  #dropTransport(): void {
    const transport = this.#transport;
    this.#transport = null;
    this.#ready = false;
    this.#current = false;
    if (this.#inFlight) {
      clearTimeout(this.#inFlight.timer);
      this.timeline.markSend(this.#inFlight.id, 'queued');
      this.#inFlight = null;
    }
    transport?.close();
  }

  #forgetToken(): void {
    if (!this.#door.refused()) return;
    this.loaded = false;
    this.timeline.forget();
  }

  #wentOnline = (): void => this.reconnectNow();

  #wentOffline = (): void => {
    this.#dropTransport();
    this.timeline.disconnected();
    clearTimeout(this.#timer);
    this.#setConnection('offline');
  };

  /** A phone that slept may hold a dead line without knowing it. */
  #shown = (): void => {
    if (document.visibilityState !== 'visible' || this.closedBy !== null) return;
    if (this.#ready) this.#transport?.probe();
    else this.reconnectNow();
  };

  // -- frames -------------------------------------------------------------------------------------

  #frame(frame: ServerFrame): void {
    if (!this.#ready && frame.type !== 'error') this.#opened();
    switch (frame.type) {
      case 'ready':
        this.#caughtUp();
        break;
      case 'message':
        if (frame.role !== 'user') this.stopping = false;
        if (frame.role === 'user' && frame.client_id) this.#confirm(frame.client_id);
        this.timeline.message(frame);
        break;
      case 'accepted':
        this.timeline.accepted(frame);
        this.#confirm(frame.id);
        break;
      case 'delta':
        this.timeline.delta(frame);
        break;
      case 'reset':
        this.timeline.reset(frame.turn, frame.epoch);
        break;
      case 'heard':
        this.timeline.heard(frame);
        break;
      case 'status':
        if (frame.state === 'stopped') this.stopping = false;
        this.timeline.status(frame.state);
        break;
      case 'error':
        this.#refused(
          frame.id ?? null,
          new Refusal(0, frame.code, frame.detail ?? '', frame.retry_after && frame.retry_after * 1000),
        );
        break;
      case 'reconnect':
        this.#closed(null);
        return;
      case 'pong':
        break;
    }
    this.#changed();
  }

  #opened(): void {
    this.#ready = true;
    this.#attempts = 0;
    if (this.#transport?.kind === 'socket') this.#socketFailures = 0;
    this.#setConnection('online');
  }

  /** History has been replayed, so what it contained of the outbox is not sent again. */
  #caughtUp(): void {
    this.loaded = true;
    this.#current = true;
    this.#flush();
  }

  #confirm(id: string): void {
    this.#outbox.remove(id);
    this.#serverFailures.delete(id);
    if (this.#inFlight?.id !== id) return;
    clearTimeout(this.#inFlight.timer);
    this.#inFlight = null;
    this.#flush();
  }

  // -- sending ------------------------------------------------------------------------------------

  #flush(): void {
    if (!this.#current || this.closedBy !== null || this.#inFlight || !this.#transport) return;
    const pause = this.#pausedUntil - Date.now();
    if (pause > 0) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#flush(), pause);
      return;
    }
    const next = this.#outbox.list().find((item) => item.failure === undefined);
    if (!next) return;
    const transport = this.#transport;
    this.#inFlight = { id: next.id, timer: setTimeout(() => this.#noAnswer(transport), ACCEPT_MS) };
    this.timeline.addLocal(next.id, next.text, next.at, 'sending');
    this.timeline.markSend(next.id, 'sending');
    this.#changed();
    transport.send(next.id, next.text).catch((error: unknown) => {
      if (this.#transport !== transport) return;
      if (error instanceof Refusal) this.#refused(next.id, error);
      else this.#closed(null);
    });
  }

  #noAnswer(transport: Transport): void {
    if (this.#transport === transport) this.#closed(null);
  }

  #refused(id: string | null, reason: Refusal): void {
    const flying = this.#inFlight;
    if (id === null || flying?.id !== id) {
      if (id === null && isFinal(reason)) this.#ended(reason);
      else if (id === null && isUnknownVisitor(reason)) this.#closed(reason);
      else if (id === null && reason.code === 'invalid_cursor') this.timeline.cursor = '';
      return;
    }
    if (isUnknownVisitor(reason)) {
      // The token ended on the way: the message waits for the next one.
      this.#closed(reason);
      return;
    }
    clearTimeout(flying.timer);
    this.#inFlight = null;
    const failures = (this.#serverFailures.get(id) ?? 0) + 1;
    this.#serverFailures.set(id, failures);
    if (isPassing(reason) && failures < MAX_SERVER_FAILURES) {
      this.#pausedUntil = Date.now() + (reason.retryAfterMs ?? this.#pause(failures));
      this.timeline.markSend(id, 'queued');
    } else {
      const item = this.#outbox.find(id);
      if (item) this.#outbox.put({ ...item, failure: reason.code });
      this.timeline.markSend(id, 'failed', reason.code);
      if (isFinal(reason)) this.#ended(reason);
    }
    this.#changed();
    this.#flush();
  }

  #pause(failures: number): number {
    return 1000 * 2 ** failures * (0.5 + (this.#options.random ?? Math.random)() / 2);
  }

  #ended(reason: Refusal): void {
    this.closedBy = reason.code;
    this.#dropTransport();
    this.#setConnection('offline');
  }

  // -- bookkeeping --------------------------------------------------------------------------------

  #savedChannel(): ChannelInfo | null {
    try {
      return JSON.parse(this.#options.shelf.get(this.#storageKey('channel')) ?? 'null') as ChannelInfo | null;
    } catch {
      return null;
    }
  }

  #storageKey(name: string): string {
    return `qudao.${this.#options.channelKey}.${name}`;
  }

  #setConnection(connection: Connection): void {
    this.connection = connection;
    this.#changed();
  }

  #changed(): void {
    if (!this.#disposed) this.#options.changed();
  }
}

/** The channel is gone or closed: trying again changes nothing. */
function isFinal(reason: Refusal): boolean {
  return reason.status === 404 || /^(not_found|channel_closed|origin_refused)$/.test(reason.code);
}

/** The server does not accept the visitor's token: a new one is needed. */
function isUnknownVisitor(reason: Refusal): boolean {
  return reason.status === 401 || /^(unauthenticated|invalid_credentials)$/.test(reason.code);
}

/** The server may well accept the same message a little later. */
function isPassing(reason: Refusal): boolean {
  return reason.status >= 500 || reason.status === 429 || /^(rate_limited|unavailable|internal|overloaded|draining|model_not_ready|model_timeout)$/.test(reason.code);
}

/** Works also on plain-http origins, where `crypto.randomUUID` does not exist. */
export function clientId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
