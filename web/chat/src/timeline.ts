/**
 * What the visitor sees, as a pure state machine over frames and local messages.
 *
 * Every entry has a stable `id` for the lifetime of the page: an optimistic bubble keeps it when the
 * server confirms the message, and a streamed reply keeps it when the stored one arrives, so nothing
 * on the screen jumps or is drawn twice.
 */
import { applyDelta, resetPreview, startPreview, type Preview } from './preview';
import type { Part } from './parts';
import type { AcceptedFrame, DeltaFrame, HeardFrame, MessageFrame, Role } from './protocol';

export type SendState = 'queued' | 'sending' | 'sent' | 'failed';

export interface Entry {
  id: string;
  role: Role;
  text: string;
  /** What a stored message is made of, if that is more than the text. */
  parts?: Part[];
  at: string;
  /** Set once the server has stored the message. */
  key?: string;
  clientId?: string;
  turn?: string;
  send?: SendState;
  /** Code of the refusal when `send` is `failed`. */
  failure?: string;
  streaming?: boolean;
}

/** A visitor's message older than this is no longer said to be awaiting an answer. */
const AWAIT_MS = 10 * 60_000;

export class Timeline {
  entries: Entry[] = [];
  cursor = '';
  #keys = new Set<string>();
  #finished = new Set<string>();
  #preview: Preview | null = null;
  #thinking = false;
  #stopped = false;

  /** Whether a reply is being written or is owed. */
  isBusy(now: number): boolean {
    if (this.#stopped) return false;
    if (this.#thinking || this.#preview) return true;
    const last = this.#last();
    return last?.role === 'user' && last.send !== 'sending' && now - Date.parse(last.at) < AWAIT_MS;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  #last(): Entry | undefined {
    return this.entries.findLast((entry) => entry.send !== 'failed' && entry.send !== 'queued');
  }

  /** Adds an optimistic bubble. */
  addLocal(clientId: string, text: string, at: string, send: SendState, failure?: string): void {
    if (this.entries.some((entry) => entry.clientId === clientId)) return;
    const entry: Entry = { id: `c:${clientId}`, role: 'user', text, at, clientId, send };
    if (failure !== undefined) entry.failure = failure;
    this.entries = [...this.entries, entry];
  }

  markSend(clientId: string, send: SendState, failure?: string): void {
    this.#update(
      (entry) => entry.clientId === clientId && entry.key === undefined,
      (entry) => {
        const { failure: _, ...rest } = entry;
        return failure === undefined ? { ...rest, send } : { ...rest, send, failure };
      },
    );
  }

  removeLocal(clientId: string): void {
    this.entries = this.entries.filter((entry) => entry.clientId !== clientId || entry.key !== undefined);
  }

  accepted(frame: Pick<AcceptedFrame, 'id' | 'key'>): void {
    this.#stopped = false;
    if (this.#keys.has(frame.key)) {
      this.removeLocal(frame.id);
      return;
    }
    if (!this.entries.some((entry) => entry.clientId === frame.id)) return;
    this.#keys.add(frame.key);
    this.#update(
      (entry) => entry.clientId === frame.id,
      ({ failure: _, ...entry }) => ({ ...entry, key: frame.key, send: 'sent' }),
    );
  }

  message(frame: MessageFrame): void {
    this.cursor = frame.cursor;
    if (frame.role === 'user') this.#userMessage(frame);
    else this.#outbound(frame);
  }

  delta(frame: DeltaFrame): void {
    if (this.#finished.has(frame.turn)) return;
    if (this.#preview?.turn !== frame.turn) this.#openPreview(frame.turn, frame.epoch);
    const preview = this.#preview as Preview;
    this.#stopped = false;
    if (!applyDelta(preview, frame)) return;
    this.#showPreview(preview);
  }

  reset(turn: string, epoch: number): void {
    const preview = this.#preview;
    if (preview?.turn !== turn || epoch < preview.epoch) return;
    resetPreview(preview, epoch);
    this.#showPreview(preview);
  }

  /** The words of a voice message stand beside it as soon as they are known. */
  heard(frame: HeardFrame): void {
    const told = (part: Part, place: number): Part => {
      if (place !== frame.place || part.type !== 'file') return part;
      return part.voice ? { ...part, caption: frame.words } : { ...part, name: frame.words };
    };
    this.#update(
      (entry) => entry.key === `i:${frame.seq}`,
      (entry) => (entry.parts ? { ...entry, parts: entry.parts.map(told) } : entry),
    );
  }

  status(state: 'thinking' | 'stopped'): void {
    // The word that a reply is begun may come after the reply itself: they travel apart.
    this.#thinking = state === 'thinking' && this.#last()?.role === 'user';
    this.#stopped = state === 'stopped';
    if (state === 'stopped') this.#endStreaming();
  }

  /** After a reconnect the state of an open turn is unknown until the server speaks of it again. */
  disconnected(): void {
    this.#thinking = false;
  }

  /** The server no longer knows this visitor: what it stored belongs to somebody else now. */
  forget(): void {
    this.entries = this.entries.filter((entry) => entry.send !== undefined && entry.key === undefined);
    this.cursor = '';
    this.#keys.clear();
    this.#preview = null;
  }

  #userMessage(frame: MessageFrame): void {
    const known = this.entries.find(
      (entry) => entry.key === frame.key || (frame.client_id && entry.clientId === frame.client_id),
    );
    const stored: Entry = { id: known?.id ?? frame.key, role: 'user', text: frame.text, at: frame.at, key: frame.key };
    if (frame.client_id) stored.clientId = frame.client_id;
    else if (known?.clientId !== undefined) stored.clientId = known.clientId;
    stored.send = 'sent';
    if (frame.parts?.length) stored.parts = frame.parts;
    if (!this.#keys.has(frame.key)) this.#stopped = false;
    this.#keys.add(frame.key);
    this.#put(stored, known);
  }

  #outbound(frame: MessageFrame): void {
    const turn = frame.turn ?? undefined;
    this.#thinking = false;
    if (turn !== undefined) this.#finished.add(turn);
    const preview = this.#preview;
    const streamed = preview && (turn === undefined || turn === preview.turn) ? `t:${preview.turn}` : undefined;
    if (streamed !== undefined) this.#preview = null;
    const known =
      this.entries.find((entry) => entry.key === frame.key) ?? this.entries.find((entry) => entry.id === streamed);
    this.#keys.add(frame.key);
    const id = known?.id ?? (turn !== undefined && frame.role === 'assistant' ? `t:${turn}` : frame.key);
    const stored: Entry = { id, role: frame.role, text: frame.text, at: frame.at, key: frame.key };
    if (turn !== undefined) stored.turn = turn;
    if (frame.parts?.length) stored.parts = frame.parts;
    this.#put(stored, known);
  }

  #put(stored: Entry, known: Entry | undefined): void {
    if (known) {
      this.#update((entry) => entry === known, () => stored);
      return;
    }
    const at = this.#placeFor(stored);
    this.entries = [...this.entries.slice(0, at), stored, ...this.entries.slice(at)];
  }

  #placeFor(stored: Entry): number {
    // The words of a reply may overtake its question, which another tab wrote.
    const writing = this.entries.findIndex((entry) => entry.streaming === true && entry.key === undefined);
    if (stored.role === 'user' && writing !== -1 && this.entries[writing - 1]?.role !== 'user') return writing;
    // What is not yet stored stays below what is: the server has not given it a place.
    const unsent = this.entries.findIndex((entry) => entry.send !== undefined && entry.key === undefined);
    if (unsent === -1) return this.entries.length;
    // The first words of a reply may also overtake the word that its question is stored: no other is owed.
    const asked = this.entries.findIndex((entry) => entry.send === 'sending' && entry.key === undefined);
    const owed = this.entries.findLast((entry) => entry.key !== undefined)?.role === 'user';
    return stored.streaming === true && asked !== -1 && !owed ? asked + 1 : unsent;
  }

  #openPreview(turn: string, epoch: number): void {
    if (this.#preview) this.#dropPreview(this.#preview);
    this.#preview = startPreview(turn, epoch);
  }

  #dropPreview(preview: Preview): void {
    this.entries = this.entries.filter((entry) => entry.id !== `t:${preview.turn}` || entry.key !== undefined);
    this.#preview = null;
  }

  #showPreview(preview: Preview): void {
    const id = `t:${preview.turn}`;
    const known = this.entries.find((entry) => entry.id === id);
    if (preview.text === '') {
      this.entries = this.entries.filter((entry) => entry !== known);
      return;
    }
    const at = known?.at ?? new Date().toISOString();
    this.#put({ id, role: 'assistant', text: preview.text, at, turn: preview.turn, streaming: true }, known);
  }

  #endStreaming(): void {
    this.#update(
      (entry) => entry.streaming === true,
      (entry) => ({ ...entry, streaming: false }),
    );
  }

  #update(matches: (entry: Entry) => boolean, change: (entry: Entry) => Entry): void {
    this.entries = this.entries.map((entry) => (matches(entry) ? change(entry) : entry));
  }
}
