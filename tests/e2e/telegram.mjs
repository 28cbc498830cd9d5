// A Bot API that knows one token, and what is on the other side of it.
import { createServer } from 'node:http';

export const TOKEN = '4242:the-token-that-is-right';

export class BotApi {
  /** What the platform sent to people. */
  sent = [];
  /** The photos among it: the fields of each form, and the file. */
  photos = [];
  /** What the photo that `show` sends holds. */
  photo = Buffer.alloc(0);
  /** What a partner's endpoint was sent, whose server this is too. */
  events = [];
  /** Whether the endpoint answers a challenge. */
  honest = false;
  #waiting = [];
  /** Bytes of files that people sent, by path. */
  #files = new Map();
  // Bots of other tests go on asking with the same token: what they have read already is not theirs.
  #updates = 100;
  #server = createServer((request, response) => void this.#answer(request, response));

  static async listen(port) {
    const api = new BotApi();
    await new Promise((resolve) => api.#server.listen(port, '127.0.0.1', resolve));
    return api;
  }
  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }
  close() {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(resolve));
  }
  /** Somebody writes to the bot. */
  write(name, id, text) {
    this.#update(name, id, { text });
  }
  /** Somebody sends the bot `photo`. */
  show(name, id, caption) {
    this.#files.set('photos/f1.jpg', this.photo);
    this.#update(name, id, { caption, photo: [{ file_id: 'f1', width: 400, height: 600, file_size: this.photo.length }] });
  }
  /** Somebody speaks to the bot: a file of Ogg with Opus. */
  speak(name, id, bytes) {
    const file = `voice-${this.#updates}`;
    this.#files.set(`voice/${file}.oga`, bytes);
    this.#update(name, id, { voice: { file_id: file, file_unique_id: file, duration: 5, mime_type: 'audio/ogg', file_size: bytes.length } });
  }
  #update(name, id, content) {
    const person = { id, is_bot: false, first_name: name, language_code: 'en' };
    this.#updates += 1;
    this.#waiting.push({ update_id: this.#updates, message: { message_id: this.#updates, date: Math.floor(Date.now() / 1000), chat: { id, type: 'private', first_name: name }, from: person, ...content } });
  }
  async #answer(request, response) {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const kind = request.headers['content-type'] ?? '';
    const body = /json/.test(kind) ? JSON.parse(Buffer.concat(pieces).toString()) : {};
    const reply = (status, answer) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    if (request.url === '/partner') {
      if (body.type === 'endpoint.verify') return this.honest ? reply(200, { challenge: body.data.challenge }) : reply(404, { who: 'not me' });
      this.events.push(body.type);
      return reply(200, {});
    }
    const asked = request.url.startsWith(`/file/bot${TOKEN}/`) && this.#files.get(request.url.slice(`/file/bot${TOKEN}/`.length));
    if (asked) return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(asked);
    const [, token, method] = /^\/bot([^/]+)\/(\w+)/.exec(request.url) ?? [];
    if (token !== TOKEN) return reply(401, { ok: false, error_code: 401, description: 'Unauthorized' });
    if (method === 'getMe') return reply(200, { ok: true, result: { id: 4242, is_bot: true, first_name: 'Tea', username: 'tea_bot' } });
    if (method === 'getUpdates') {
      // A little patience, as the real one has.
      if (this.#waiting.length === 0) await new Promise((resolve) => setTimeout(resolve, 200));
      return reply(200, { ok: true, result: this.#waiting.filter(({ update_id: id }) => id >= (body.offset ?? 0)) });
    }
    if (method === 'getFile') {
      const path = [...this.#files.keys()].find((known) => known.includes(body.file_id));
      return reply(200, { ok: true, result: { file_id: body.file_id, file_path: path } });
    }
    if (method === 'sendPhoto') {
      const form = await new Response(Buffer.concat(pieces), { headers: { 'content-type': kind } }).formData();
      const fields = Object.fromEntries([...form].filter(([, value]) => typeof value === 'string'));
      this.photos.push({ fields, file: Buffer.from(await form.get('photo').arrayBuffer()) });
      return reply(200, { ok: true, result: { message_id: 2000 + this.photos.length, date: 1, chat: { id: Number(fields.chat_id), type: 'private' } } });
    }
    if (method === 'sendMessage') this.sent.push(body);
    return reply(200, { ok: true, result: method === 'sendMessage' ? { message_id: 1000 + this.sent.length, date: 1, chat: { id: body.chat_id, type: 'private' } } : true });
  }
}
