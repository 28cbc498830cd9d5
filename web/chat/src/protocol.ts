/** The JSON frames that the chat page and the server exchange, on the WebSocket and on SSE alike. */

import { readParts, type Part } from './parts';

export type Role = 'user' | 'assistant' | 'notice';

export interface MessageFrame {
  type: 'message';
  cursor: string;
  /** Names the message for ever: `i:<seq>` for what the visitor wrote, `o:<seq>` for what was answered. */
  key: string;
  role: Role;
  text: string;
  parts?: Part[];
  client_id?: string | null;
  turn?: string | null;
  at: string;
}

export interface AcceptedFrame {
  type: 'accepted';
  id: string;
  key: string;
  duplicate: boolean;
}

export interface DeltaFrame {
  type: 'delta';
  turn: string;
  epoch: number;
  /** Where `text` starts in the reply, in UTF-16 code units: what `length` of a string counts. */
  offset: number;
  text: string;
}

/** What is said in a voice message, once it is known. */
export interface HeardFrame {
  type: 'heard';
  /** The message's place among the visitor's own: the number in its key. */
  seq: number;
  /** Which of its parts. */
  place: number;
  words: string;
}

export interface ErrorFrame {
  type: 'error';
  code: string;
  detail: string;
  id?: string | null;
  /** Seconds after which it may be tried again. */
  retry_after?: number;
}

export type ServerFrame =
  | { type: 'ready'; cursor: string }
  | MessageFrame
  | AcceptedFrame
  | DeltaFrame
  | { type: 'reset'; turn: string; epoch: number }
  | HeardFrame
  | { type: 'status'; state: 'thinking' | 'stopped' }
  | ErrorFrame
  /** The node is shutting down: connect again. */
  | { type: 'reconnect' }
  | { type: 'pong' };

export interface ChannelInfo {
  name: string;
  assistant: string;
  locale: string;
  greeting: string;
  /** Visitors may send files. */
  uploads?: boolean;
  /** Visitors may speak; absent in what an older server said. */
  voice?: boolean;
}

type Fields = Record<string, 'string' | 'number' | 'boolean'>;

const FRAMES: Record<ServerFrame['type'], Fields> = {
  ready: { cursor: 'string' },
  message: { cursor: 'string', key: 'string', role: 'string', text: 'string' },
  accepted: { id: 'string', key: 'string' },
  delta: { turn: 'string', epoch: 'number', offset: 'number', text: 'string' },
  reset: { turn: 'string', epoch: 'number' },
  heard: { seq: 'number', place: 'number', words: 'string' },
  status: { state: 'string' },
  error: { code: 'string' },
  reconnect: {},
  pong: {},
};

/** Reads one frame; `null` for what this version does not know, so that a newer server may add frames. */
export function parseFrame(json: string): ServerFrame | null {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  const record = value as Record<string, unknown>;
  const type = record['type'];
  if (typeof type !== 'string' || !Object.hasOwn(FRAMES, type)) return null;
  const fields = FRAMES[type as ServerFrame['type']];
  for (const [name, kind] of Object.entries(fields)) {
    if (typeof record[name] !== kind) return null;
  }
  if (type === 'message' && !['user', 'assistant', 'notice'].includes(record['role'] as string)) return null;
  if (type === 'message') record['parts'] = readParts(record['parts']);
  return record as unknown as ServerFrame;
}
