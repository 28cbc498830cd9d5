import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ChatClient } from '../src/client';
import { Pictures } from '../src/files';
import { memoryShelf, type Shelf } from '../src/outbox';
import { parseFrame, type MessageFrame, type ServerFrame } from '../src/protocol';
import { EventParser, Refusal, type Endpoint, type Events, type Transport } from '../src/transport';

const AT = '2026-03-01T10:00:00Z';

/** A server's end of one connection, moved by hand. */
class Line implements Transport {
  sent: { id: string; text: string }[] = [];
  stops = 0;
  open = true;
  refusal: Refusal | null = null;
  constructor(
    readonly kind: 'socket' | 'events',
    readonly endpoint: Endpoint,
    readonly events: Events,
  ) {}
  send(id: string, text: string): Promise<void> {
    this.sent.push({ id, text });
    return this.refusal ? Promise.reject(this.refusal) : Promise.resolve();
  }
  stop(): void {
    this.stops += 1;
  }
  close(): void {
    this.open = false;
  }
  probe(): void {}
  tell(...frames: ServerFrame[]): void {
    for (const frame of frames) this.events.frame(frame);
  }
  ready(): void {
    this.tell({ type: 'ready', cursor: '' });
  }
  break(reason: Refusal | null = null): void {
    this.events.closed(reason);
  }
}

let lines: Line[];
let shelf: Shelf;
let clients: ChatClient[];
let session: () => Response;

function message(key: string, text: string, extra: Partial<MessageFrame> = {}): MessageFrame {
  return { type: 'message', cursor: `c-${key}`, key, role: key.startsWith('i') ? 'user' : 'assistant', text, at: AT, ...extra };
}

async function start(): Promise<ChatClient> {
  const add = (kind: 'socket' | 'events') => (endpoint: Endpoint, events: Events) => {
    const line = new Line(kind, endpoint, events);
    lines.push(line);
    return line;
  };
  const client = new ChatClient({
    channelKey: 'wk_test',
    shelf,
    changed: () => {},
    random: () => 1,
    openSocket: add('socket'),
    openEvents: add('events'),
  });
  clients.push(client);
  client.start();
  await settle();
  return client;
}
const settle = () => vi.advanceTimersByTimeAsync(0);
const line = (): Line => lines[lines.length - 1] as Line;
const texts = (client: ChatClient) => client.timeline.entries.map((entry) => entry.text);

function setOnline(online: boolean): void {
  vi.spyOn(navigator, 'onLine', 'get').mockReturnValue(online);
  dispatchEvent(new Event(online ? 'online' : 'offline'));
}

beforeEach(() => {
  vi.useFakeTimers({ now: Date.parse(AT) });
  lines = [];
  clients = [];
  shelf = memoryShelf();
  let tokens = 0;
  session = () =>
    Response.json({ token: `vt_${++tokens}`, channel: { name: 'Shop', assistant: 'Ada', locale: 'en', greeting: '' } });
  vi.stubGlobal('fetch', vi.fn(() => Promise.resolve(session())));
});
afterEach(() => {
  for (const client of clients) client.dispose();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

describe('session', () => {
  it('keeps its token over visits', async () => {
    await start();
    await start();
    expect(lines.map((one) => one.endpoint.token)).toEqual(['vt_1', 'vt_1']);
  });

  it('an unknown channel is explained and not tried again', async () => {
    session = () => Response.json({ code: 'not_found', detail: '' }, { status: 404 });
    const client = await start();
    expect(client.closedBy).toBe('not_found');
    await vi.advanceTimersByTimeAsync(120_000);
    expect(fetch).toHaveBeenCalledTimes(1);
  });

  it('a refused token is replaced by a new one', async () => {
    await start();
    line().break(new Refusal(401, 'invalid_credentials', ''));
    await vi.advanceTimersByTimeAsync(1000);
    expect(line().endpoint.token).toBe('vt_2');
  });
});

describe('sending', () => {
  it('a message is kept until it is accepted and then sent once', async () => {
    const client = await start();
    client.send('hi');
    expect(line().sent).toEqual([]);
    line().ready();
    expect(line().sent).toHaveLength(1);
    expect(shelf.keys().some((key) => key.includes('.out.'))).toBe(true);
    line().tell({ type: 'accepted', id: line().sent[0]!.id, key: 'i:1', duplicate: false });
    expect(shelf.keys().some((key) => key.includes('.out.'))).toBe(false);
    expect(line().sent).toHaveLength(1);
    expect(client.timeline.entries[0]).toMatchObject({ send: 'sent', key: 'i:1' });
  });

  it('messages leave one at a time in the order of typing', async () => {
    const client = await start();
    line().ready();
    const typed = Array.from({ length: 12 }, (_, index) => `message ${index}`);
    for (const text of typed) client.send(text);
    for (let count = 1; count <= typed.length; count += 1) {
      expect(line().sent.map((item) => item.text)).toEqual(typed.slice(0, count));
      line().tell({ type: 'accepted', id: line().sent[count - 1]!.id, key: `i:${count}`, duplicate: false });
    }
  });

  it('a line that dies before the answer repeats the message with the same id', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    const first = line().sent[0]!;
    line().break();
    expect(client.timeline.entries[0]?.send).toBe('queued');
    await vi.advanceTimersByTimeAsync(1000);
    line().ready();
    expect(line().sent).toEqual([first]);
    line().tell({ type: 'accepted', id: first.id, key: 'i:1', duplicate: true });
    expect(texts(client)).toEqual(['hi']);
  });

  it('what the history already holds is not sent again', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    const { id } = line().sent[0]!;
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    line().tell(message('i:1', 'hi', { client_id: id }), { type: 'ready', cursor: 'c-i:1' });
    expect(line().sent).toEqual([]);
    expect(texts(client)).toEqual(['hi']);
  });

  it('nothing is sent before the history has been told, after a reconnect too', async () => {
    const client = await start();
    line().ready();
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    line().tell(message('i:1', 'from another tab'));
    client.send('mine');
    expect(line().sent).toEqual([]);
    line().ready();
    expect(line().sent.map((item) => item.text)).toEqual(['mine']);
  });

  it('a silent server is left after a while and the message goes out on the next line', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    await vi.advanceTimersByTimeAsync(17_000);
    expect(lines).toHaveLength(2);
    line().ready();
    expect(line().sent).toEqual(lines[0]!.sent);
  });

  it('messages typed offline survive a reload and are sent once when the line is back', async () => {
    const client = await start();
    line().ready();
    setOnline(false);
    client.send('kept');
    expect(client.connection).toBe('offline');
    client.dispose();

    const reloaded = await start();
    expect(lines).toHaveLength(1);
    expect(reloaded.timeline.entries[0]).toMatchObject({ text: 'kept', send: 'queued' });
    setOnline(true);
    await settle();
    line().ready();
    expect(line().sent.map((item) => item.text)).toEqual(['kept']);
    line().tell({ type: 'accepted', id: line().sent[0]!.id, key: 'i:1', duplicate: false });
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    line().ready();
    expect(line().sent).toEqual([]);
  });

  it('an empty wallet marks the message, keeps it over a reload, and a retry uses the same id', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    const { id } = line().sent[0]!;
    line().tell({ type: 'error', code: 'insufficient_credits', detail: '', id });
    expect(client.timeline.entries[0]).toMatchObject({ send: 'failed', failure: 'insufficient_credits' });
    client.dispose();

    const reloaded = await start();
    line().ready();
    expect(line().sent).toEqual([]);
    reloaded.retry(id);
    expect(line().sent).toEqual([{ id, text: 'hi' }]);
  });

  it('too many requests are tried again by themselves, three times at most', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    const { id } = line().sent[0]!;
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      expect(line().sent).toHaveLength(attempt);
      line().tell({ type: 'error', code: 'rate_limited', detail: '', id });
      await vi.advanceTimersByTimeAsync(5000);
    }
    expect(line().sent).toHaveLength(3);
    expect(client.timeline.entries[0]).toMatchObject({ send: 'failed', failure: 'rate_limited' });
  });

  it('a refused message does not hold back the next', async () => {
    const client = await start();
    line().ready();
    client.send('bad');
    client.send('good');
    line().tell({ type: 'error', code: 'validation_failed', detail: '', id: line().sent[0]!.id });
    expect(line().sent.map((item) => item.text)).toEqual(['bad', 'good']);
  });

  it('a closed channel ends the conversation in words and keeps the text', async () => {
    const client = await start();
    line().ready();
    client.send('hi');
    line().tell({ type: 'error', code: 'channel_closed', detail: '', id: line().sent[0]!.id });
    expect(client.closedBy).toBe('channel_closed');
    expect(client.timeline.entries[0]).toMatchObject({ text: 'hi', send: 'failed' });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(lines).toHaveLength(1);
  });

  it('a channel that closed is still readable for who was there, and opens again on request', async () => {
    (await start()).dispose();
    const open = session;
    session = () => Response.json({ code: 'channel_closed', detail: '' }, { status: 409 });
    const client = await start();
    line().tell(message('i:1', 'long ago'), { type: 'ready', cursor: 'c-i:1' });
    expect(texts(client)).toEqual(['long ago']);
    client.send('now');
    expect(client.closedBy).toBe('channel_closed');
    expect(line().sent).toEqual([]);
    session = open;
    client.reconnectNow();
    await settle();
    line().ready();
    expect(client.closedBy).toBeNull();
    expect(line().sent.map((item) => item.text)).toEqual(['now']);
  });

  it('a cursor that the server does not know is given up for the beginning', async () => {
    const client = await start();
    line().tell(message('i:1', 'hi'), { type: 'ready', cursor: 'c-i:1' });
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    line().tell({ type: 'error', code: 'invalid_cursor', detail: '' });
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    expect(line().endpoint.cursor).toBe('');
    line().tell(message('i:1', 'hi'), { type: 'ready', cursor: 'c-i:1' });
    expect(texts(client)).toEqual(['hi']);
  });

  it('a refusal over POST is the same as one on the socket', async () => {
    const client = await start();
    lines[0]!.break();
    await vi.advanceTimersByTimeAsync(1000);
    lines[1]!.break();
    await vi.advanceTimersByTimeAsync(2000);
    expect(line().kind).toBe('events');
    line().refusal = new Refusal(402, 'insufficient_credits', '');
    line().ready();
    client.send('hi');
    await settle();
    expect(client.timeline.entries[0]).toMatchObject({ send: 'failed', failure: 'insufficient_credits' });
  });
});

describe('connection', () => {
  it('resumes behind the last message it saw', async () => {
    const client = await start();
    line().tell(message('i:1', 'hi'), message('o:1', 'hello'), { type: 'ready', cursor: 'c-o:1' });
    line().break();
    await vi.advanceTimersByTimeAsync(1000);
    expect(line().endpoint.cursor).toBe('c-o:1');
    line().tell(message('o:1', 'hello'), message('o:2', 'more'), { type: 'ready', cursor: 'c-o:2' });
    expect(texts(client)).toEqual(['hi', 'hello', 'more']);
  });

  it('waits longer after each failure, up to a ceiling', async () => {
    await start();
    const gaps: number[] = [];
    for (let attempt = 0; attempt < 9; attempt += 1) {
      const before = Date.now();
      const opened = lines.length;
      line().break();
      while (lines.length === opened) await vi.advanceTimersByTimeAsync(100);
      gaps.push(Date.now() - before);
    }
    expect(gaps).toEqual([400, 800, 1600, 3200, 6400, 12_800, 20_000, 20_000, 20_000]);
  });

  it('a line that worked makes the waiting short again', async () => {
    await start();
    for (const wait of [400, 800, 1600]) {
      line().break();
      await vi.advanceTimersByTimeAsync(wait);
    }
    line().ready();
    const opened = lines.length;
    line().break();
    await vi.advanceTimersByTimeAsync(400);
    expect(lines).toHaveLength(opened + 1);
  });

  it('two sockets that never opened lead to events, and a socket is tried again later', async () => {
    await start();
    line().break();
    await vi.advanceTimersByTimeAsync(400);
    line().break();
    await vi.advanceTimersByTimeAsync(800);
    expect(lines.map((one) => one.kind)).toEqual(['socket', 'socket', 'events']);
    line().ready();
    await vi.advanceTimersByTimeAsync(11 * 60_000);
    line().break();
    await vi.advanceTimersByTimeAsync(400);
    expect(line().kind).toBe('socket');
  });

  it('a socket that worked and broke is tried as a socket again', async () => {
    await start();
    for (let round = 0; round < 4; round += 1) {
      line().ready();
      line().break();
      await vi.advanceTimersByTimeAsync(1000);
    }
    expect(new Set(lines.map((one) => one.kind))).toEqual(new Set(['socket']));
  });

  it('a node that shuts down is left for another, which goes on where it ended', async () => {
    const client = await start();
    line().tell(message('i:1', 'hi'), { type: 'ready', cursor: 'c-i:1' }, { type: 'reconnect' });
    await vi.advanceTimersByTimeAsync(400);
    expect(lines.map((one) => one.open)).toEqual([false, true]);
    expect(line().endpoint.cursor).toBe('c-i:1');
    line().ready();
    expect(client.connection).toBe('online');
  });

  it('a replaced line is no longer heard', async () => {
    const client = await start();
    line().ready();
    const old = line();
    setOnline(false);
    setOnline(true);
    await settle();
    expect(lines).toHaveLength(2);
    old.tell(message('i:1', 'ghost'));
    old.break();
    expect(texts(client)).toEqual([]);
    expect(line().open).toBe(true);
  });

  it('coming back online connects at once', async () => {
    await start();
    setOnline(false);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(lines).toHaveLength(1);
    setOnline(true);
    await settle();
    expect(lines).toHaveLength(2);
  });

  it('stop asks the server and waits for its word', async () => {
    const client = await start();
    line().ready();
    client.stop();
    expect(line().stops).toBe(1);
    expect(client.stopping).toBe(true);
    line().tell({ type: 'status', state: 'stopped' });
    expect(client.stopping).toBe(false);
  });
});

describe('pictures', () => {
  it('are fetched once with the visitor\'s token, and drawn only if they are pictures', async () => {
    const asked: string[] = [];
    const answers: Record<string, () => Promise<Response>> = {
      '/files/upl_1': () => Promise.resolve(new Response('x', { headers: { 'content-type': 'image/jpeg' } })),
      '/files/upl_2': () => Promise.resolve(new Response('x', { headers: { 'content-type': 'image/svg+xml' } })),
      '/files/upl_3': () => Promise.reject(new Refusal(404, 'not_found', '')),
      '/files/upl_4': () => Promise.reject(new TypeError('offline')),
    };
    const made = vi.fn(() => 'blob:1');
    vi.stubGlobal('URL', Object.assign(URL, { createObjectURL: made }));
    const pictures = new Pictures((path) => {
      asked.push(path);
      return (answers[path] as () => Promise<Response>)();
    });
    expect(await Promise.all([pictures.address('upl_1'), pictures.address('upl_1')])).toEqual(['blob:1', 'blob:1']);
    for (const id of ['upl_2', 'upl_2', 'upl_3', 'upl_3', 'upl_4', 'upl_4']) expect(await pictures.address(id)).toBeNull();
    // What failed on the way is asked for again.
    expect(asked).toEqual(['/files/upl_1', '/files/upl_2', '/files/upl_3', '/files/upl_4', '/files/upl_4']);
    expect(made).toHaveBeenCalledTimes(1);
  });
});

describe('wire', () => {
  it('frames that are broken or unknown are not heard', () => {
    const bad = ['', '{', 'null', '[]', '1', '{}', '{"type":"constructor"}', '{"type":"future"}', '{"type":"delta","turn":"t"}', '{"type":"message","cursor":"1","key":"i:1","role":"root","text":""}'];
    for (const text of bad) expect(parseFrame(text), text).toBeNull();
    expect(parseFrame('{"type":"pong"}')).toEqual({ type: 'pong' });
  });

  it('events are found wherever the stream is cut', () => {
    const stream = ': ping\n\nid: 1.0\ndata: {"a":1}\n\ndata: one\r\ndata: two\r\n\r\nevent: x\ndata:bare\n\n';
    for (let size = 1; size < stream.length; size += 1) {
      const heard: string[] = [];
      const parser = new EventParser((data) => heard.push(data));
      for (let at = 0; at < stream.length; at += size) parser.write(stream.slice(at, at + size));
      expect(heard, `chunks of ${size}`).toEqual(['{"a":1}', 'one\ntwo', 'bare']);
    }
  });
});
