/** Two ways to the server: a WebSocket, and server-sent events with POST where sockets are blocked. */
import { parseFrame, type ServerFrame } from './protocol';

/** A refusal that the server put into words; `code` is stable. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly retryAfterMs?: number,
  ) {
    super(detail);
  }
}

export interface Events {
  frame(frame: ServerFrame): void;
  /** Called once, also when the connection never opened. */
  closed(reason: Refusal | null): void;
}

export interface Transport {
  readonly kind: 'socket' | 'events';
  /** Resolves or rejects through frames on a socket; through the promise over POST. */
  send(id: string, text: string): Promise<void>;
  stop(): void;
  close(): void;
  /** Asks for a sign of life. */
  probe(): void;
}

export interface Endpoint {
  /** Same-origin path: `/v1/web/<key>`. */
  base: string;
  token: string;
  cursor: string;
}

const PING_MS = 25_000;
const PONG_MS = 10_000;
const OPEN_MS = 10_000;
/** The server writes a comment every 15 s; three missed ones mean that the line is dead. */
const SILENCE_MS = 50_000;

export function openSocket(endpoint: Endpoint, events: Events): Transport {
  const url = new URL(`${endpoint.base}/socket`, location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url);
  let done = false;
  let deadline = setTimeout(finish, OPEN_MS);
  let pinger: ReturnType<typeof setTimeout>;

  function finish(): void {
    if (done) return;
    done = true;
    clearTimeout(deadline);
    clearTimeout(pinger);
    socket.close();
    events.closed(null);
  }
  function ping(): void {
    if (done || socket.readyState !== WebSocket.OPEN) return;
    write({ type: 'ping' });
    clearTimeout(deadline);
    deadline = setTimeout(finish, PONG_MS);
  }
  function heard(): void {
    clearTimeout(deadline);
    clearTimeout(pinger);
    pinger = setTimeout(ping, PING_MS);
  }
  function write(frame: object): void {
    socket.send(JSON.stringify(frame));
  }

  socket.onopen = () => write({ type: 'hello', token: endpoint.token, after: endpoint.cursor });
  socket.onmessage = (event: MessageEvent<unknown>) => {
    if (done) return;
    heard();
    const frame = typeof event.data === 'string' ? parseFrame(event.data) : null;
    if (frame) events.frame(frame);
  };
  socket.onclose = finish;
  socket.onerror = finish;

  return {
    kind: 'socket',
    send: (id, text) => {
      write({ type: 'send', id, text });
      return Promise.resolve();
    },
    stop: () => write({ type: 'stop' }),
    probe: ping,
    close: () => {
      done = true;
      clearTimeout(deadline);
      clearTimeout(pinger);
      socket.close();
    },
  };
}

export function openEvents(endpoint: Endpoint, events: Events): Transport {
  const abort = new AbortController();
  let done = false;
  let silence = setTimeout(() => finish(null), SILENCE_MS);

  function finish(reason: Refusal | null): void {
    if (done) return;
    done = true;
    clearTimeout(silence);
    abort.abort();
    events.closed(reason);
  }
  async function run(): Promise<void> {
    const response = await request(
      endpoint,
      `/events?after=${encodeURIComponent(endpoint.cursor)}`,
      { headers: { accept: 'text/event-stream' }, signal: abort.signal },
    );
    const reader = response.body?.getReader();
    if (!reader) return;
    const decoder = new TextDecoder();
    const parser = new EventParser((data) => {
      const frame = parseFrame(data);
      if (frame && !done) events.frame(frame);
    });
    for (;;) {
      const { value, done: ended } = await reader.read();
      if (ended || done) return;
      clearTimeout(silence);
      silence = setTimeout(() => finish(null), SILENCE_MS);
      parser.write(decoder.decode(value, { stream: true }));
    }
  }
  run().then(
    () => finish(null),
    (error: unknown) => finish(error instanceof Refusal ? error : null),
  );

  return {
    kind: 'events',
    send: async (id, text) => {
      const response = await request(endpoint, '/messages', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ id, text }),
        signal: abort.signal,
      });
      const body = (await response.json()) as { seq: number | string; duplicate?: boolean };
      if (!done) events.frame({ type: 'accepted', id, key: `i:${body.seq}`, duplicate: body.duplicate === true });
    },
    stop: () => void request(endpoint, '/stop', { method: 'POST', signal: abort.signal }).catch(() => {}),
    probe: () => {},
    close: () => {
      done = true;
      clearTimeout(silence);
      abort.abort();
    },
  };
}

/** Splits a byte stream of server-sent events into the `data` of each. */
export class EventParser {
  #buffer = '';
  #data: string[] = [];
  #emit: (data: string) => void;

  constructor(emit: (data: string) => void) {
    this.#emit = emit;
  }

  write(chunk: string): void {
    const lines = (this.#buffer + chunk).split(/\r\n|\n|\r(?!$)/);
    this.#buffer = lines.pop() ?? '';
    for (const line of lines) this.#line(line);
  }

  #line(line: string): void {
    if (line === '') {
      if (this.#data.length > 0) this.#emit(this.#data.join('\n'));
      this.#data = [];
    } else if (line.startsWith('data:')) {
      this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
  }
}

/** A request under the channel's path with the visitor's token; throws a `Refusal` for a status ≥ 400. */
export async function request(
  endpoint: Pick<Endpoint, 'base'> & { token: string | null },
  path: string,
  init: RequestInit,
): Promise<Response> {
  const headers = new Headers(init.headers);
  if (endpoint.token !== null) headers.set('authorization', `Bearer ${endpoint.token}`);
  const response = await fetch(endpoint.base + path, { ...init, headers, cache: 'no-store' });
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response: Response): Promise<Refusal> {
  const problem = (await response.json().catch(() => ({}))) as { code?: unknown; detail?: unknown };
  const code = typeof problem.code === 'string' ? problem.code : `http_${response.status}`;
  const detail = typeof problem.detail === 'string' ? problem.detail : response.statusText;
  const seconds = Number(response.headers.get('retry-after') ?? '');
  return new Refusal(response.status, code, detail, seconds > 0 ? seconds * 1000 : undefined);
}
