// A small stand-in for the server's web channel, for `npm run dev` and for looking at the page.
// It keeps everything in memory and answers with an echo, or with a sample that uses all Markdown.
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { WebSocketServer } from 'ws';

export const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.html': 'text/html; charset=utf-8' };
const SAMPLE = {
  zh: '当然可以。**渠道（Qudao）** 是一个多租户的 AI 服务平台，我可以这样帮您：\n\n1. **回答问题**：用中文或英文都可以\n2. *润色文字*，例如邮件、公告\n3. 解释代码\n\n```python\ndef 问候(名字: str) -> str:\n    return f"你好，{名字}！"\n```\n\n| 方案 | 速度 | 适合 |\n|---|---|---|\n| 本地模型 | 快 | 日常问答 |\n| 远程模型 | 中 | 复杂推理 |\n\n> 提示：回答可能有误，重要内容请核实。\n\n更多内容见 [文档](https://example.com/docs)。',
  en: 'Happy to. A few things I can do for you:\n\n1. **Answer questions** in English or Chinese\n2. *Polish your writing*, such as mails and notices\n3. Explain code:\n\n```rust\nfn greet(name: &str) -> String {\n    format!("Hello, {name}!")\n}\n```\n\n| Model | Speed | Good for |\n|---|---|---|\n| local | fast | everyday questions |\n| remote | medium | hard reasoning |\n\n> Answers may be wrong: please check what matters.\n\nSee the [guide](https://example.com/guide) for more, or run `qudao doctor`.',
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Conversation {
  inbound = [];
  timeline = [];
  out = 0;
  turn = 0;
  listeners = new Set();
  running = false;
  stopped = false;

  constructor(channel) {
    this.channel = channel;
  }

  after(cursor) {
    const at = this.timeline.findIndex((frame) => frame.cursor === cursor);
    return this.timeline.slice(at + 1);
  }
  tell(frame) {
    for (const listener of this.listeners) listener(frame);
  }
  store(frame) {
    const full = { type: 'message', ...frame, at: new Date().toISOString() };
    full.cursor = `${this.inbound.length}.${this.out}`;
    this.timeline.push(full);
    this.tell(full);
  }
  accept(id, text) {
    const found = this.inbound.findIndex((known) => known.id === id);
    if (found !== -1) return { type: 'accepted', id, key: `i:${found + 1}`, duplicate: true };
    this.inbound.push({ id, text });
    const key = `i:${this.inbound.length}`;
    this.store({ key, role: 'user', text, client_id: id });
    setTimeout(() => void this.run(), 30);
    return { type: 'accepted', id, key, duplicate: false };
  }
  async run() {
    if (this.running) return;
    this.running = true;
    let done = this.answered ?? 0;
    while (done < this.inbound.length) {
      const batch = this.inbound.slice(done);
      done = this.inbound.length;
      await this.answer(batch.map((message) => message.text).join('\n'));
      this.answered = done;
    }
    this.running = false;
  }
  async answer(question) {
    const turn = `trn_${++this.turn}`;
    this.stopped = false;
    this.tell({ type: 'status', state: 'thinking' });
    await sleep(this.channel.thinkMs);
    const zh = /[\u4e00-\u9fff]/.test(question);
    const reply = this.channel.model === 'echo' ? question : SAMPLE[zh ? 'zh' : 'en'];
    let offset = 0;
    for (const piece of reply.match(/[\s\S]{1,4}/gu) ?? []) {
      if (this.stopped) break;
      this.tell({ type: 'delta', turn, epoch: 1, offset, text: piece });
      offset += piece.length;
      await sleep(this.channel.tokenMs);
    }
    if (this.stopped) this.tell({ type: 'status', state: 'stopped' });
    this.out += 1;
    const text = this.stopped ? reply.slice(0, offset) : reply;
    if (text === '') this.store({ key: `o:${this.out}`, role: 'notice', text: zh ? '已停止。' : 'Stopped.', turn });
    else this.store({ key: `o:${this.out}`, role: 'assistant', text, turn });
  }
}

/** Starts the stand-in; `page(request, response)` serves what is not an API path. */
export function startFake({ port = 8090, page, tokenMs = 25, thinkMs = 400 } = {}) {
  const channels = new Map();
  const addChannel = (fields) => {
    const channel = { key: `wk_${randomBytes(11).toString('hex')}`, name: 'Demo', assistant: 'Demo assistant', locale: 'en', greeting: '', model: 'sample', tokenMs, thinkMs, conversations: new Map(), ...fields };
    channels.set(channel.key, channel);
    return channel;
  };
  addChannel({ key: 'wk_demo', assistant: '小渠 · Qudao assistant' });
  addChannel({ key: 'wk_echo', model: 'echo', tokenMs: 8 });
  addChannel({ key: 'wk_empty', refuses: { status: 402, code: 'insufficient_credits', detail: 'the wallet is empty' } });
  addChannel({ key: 'wk_busy', refuses: { status: 429, code: 'rate_limited', detail: 'too many messages' } });

  const conversation = (channel, token) => {
    const peer = createHash('sha256').update(token).digest('hex');
    if (!channel.conversations.has(peer)) channel.conversations.set(peer, new Conversation(channel));
    return channel.conversations.get(peer);
  };
  const problem = (response, { status, code, detail }) => {
    response.writeHead(status, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify({ type: 'about:blank', title: code, status, code, detail, request_id: 'req_dev' }));
  };
  const json = (response, status, body) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  const body = async (request) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    return JSON.parse(text);
  };

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://localhost');
    const [, key, action] = /^\/v1\/web\/([^/]+)\/(\w+)$/.exec(url.pathname) ?? [];
    if (key === undefined) {
      response.setHeader('content-security-policy', CSP);
      await page(request, response);
      return;
    }
    const channel = channels.get(key);
    if (!channel) return problem(response, { status: 404, code: 'not_found', detail: 'no such channel' });
    if (action === 'session') {
      const { name, assistant, locale, greeting } = channel;
      return json(response, 200, { token: `vt_${randomBytes(32).toString('base64url')}`, channel: { name, assistant, locale, greeting } });
    }
    const token = /^Bearer (vt_.{43})$/.exec(request.headers.authorization ?? '')?.[1];
    if (!token) return problem(response, { status: 401, code: 'unauthorized', detail: 'a visitor token is needed' });
    const talk = conversation(channel, token);
    if (action === 'messages' && request.method === 'GET') {
      const answer_due = (talk.answered ?? 0) < talk.inbound.length;
      return json(response, 200, { data: talk.after(url.searchParams.get('after') ?? ''), answer_due });
    }
    if (action === 'messages') {
      if (channel.refuses) return problem(response, channel.refuses);
      const { id, text } = await body(request);
      const accepted = talk.accept(id, text);
      return json(response, 202, { id, seq: Number(accepted.key.slice(2)), key: accepted.key, duplicate: accepted.duplicate });
    }
    if (action === 'stop') {
      talk.stopped = true;
      return json(response, 202, {});
    }
    if (action !== 'events') return problem(response, { status: 404, code: 'not_found', detail: 'no such path' });
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    const write = (frame) => response.write(`${frame.cursor ? `id: ${frame.cursor}\n` : ''}data: ${JSON.stringify(frame)}\n\n`);
    for (const frame of talk.after(url.searchParams.get('after') ?? '')) write(frame);
    write({ type: 'ready', cursor: talk.timeline.at(-1)?.cursor ?? '' });
    talk.listeners.add(write);
    const beat = setInterval(() => response.write(': ping\n\n'), 15_000);
    response.on('close', () => {
      clearInterval(beat);
      talk.listeners.delete(write);
    });
  });

  const sockets = new WebSocketServer({ noServer: true });
  server.on('upgrade', (request, socket, head) => {
    const key = /^\/v1\/web\/([^/]+)\/socket$/.exec(new URL(request.url, 'http://localhost').pathname)?.[1];
    const channel = channels.get(key);
    if (!channel) return socket.destroy();
    sockets.handleUpgrade(request, socket, head, (ws) => speak(ws, channel));
  });
  function speak(ws, channel) {
    let talk = null;
    const write = (frame) => ws.send(JSON.stringify(frame));
    ws.on('message', (data) => {
      const frame = JSON.parse(String(data));
      if (frame.type === 'hello') {
        talk = conversation(channel, frame.token);
        for (const past of talk.after(frame.after)) write(past);
        write({ type: 'ready', cursor: talk.timeline.at(-1)?.cursor ?? '' });
        talk.listeners.add(write);
      } else if (frame.type === 'send' && channel.refuses) {
        write({ type: 'error', id: frame.id, code: channel.refuses.code, detail: channel.refuses.detail });
      } else if (frame.type === 'send') {
        write(talk.accept(frame.id, frame.text));
      } else if (frame.type === 'stop') {
        talk.stopped = true;
      } else if (frame.type === 'ping') {
        write({ type: 'pong' });
      }
    });
    ws.on('close', () => talk?.listeners.delete(write));
  }
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve({ server, addChannel })));
}

/** Serves a built page: `/assets/…` from the folder, everything else as its index. */
export function builtPage(folder) {
  return async (request, response) => {
    const path = normalize(new URL(request.url, 'http://localhost').pathname);
    const name = path.startsWith('/assets/') ? path : '/index.html';
    try {
      const content = await readFile(join(folder, name));
      response.writeHead(200, { 'content-type': TYPES[extname(name)] ?? 'application/octet-stream' });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  };
}
