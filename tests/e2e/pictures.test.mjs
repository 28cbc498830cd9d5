// Photos in conversations, with a real detector and a real language model: in the browser and over Telegram.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, openChat, PATIENCE_MS } from './browser.mjs';
import { admin, baseUrl, storedMessages } from './platform.mjs';
import { BotApi, TOKEN } from './telegram.mjs';

const eyes = process.env.QUDAO_VISION_MODEL;
const words = process.env.QUDAO_LANGUAGE_MODEL;
const skip = !eyes && 'no detector is served: scripts/e2e.sh says what it needs';
const photo = (name) => new URL(`./photos/${name}`, import.meta.url).pathname;
const port = Number(process.env.QUDAO_OIDC_PORT);

let browser;
let base;
let route;

before(async () => {
  if (!eyes) return;
  browser = await launch();
  const tenant = await admin('POST', '/v1/tenants', { name: 'Pictures', currency: 'USD', locale: 'en' });
  base = `/v1/tenants/${tenant.id}`;
  await admin('POST', `${base}/credits`, { amount: '100', note: 'browser tests' }, { 'idempotency-key': randomUUID() });
  route = await admin('POST', `${base}/routes`, { name: 'words', models: [words] });
  // A route has models of one kind; whoever looks has one of its own.
  await admin('POST', `${base}/routes`, { name: 'eyes', models: [eyes] });
});
after(() => browser?.close());

/** An assistant that looks at pictures, and a channel of its own. */
async function seer(kind, more = {}) {
  const assistant = await admin('POST', `${base}/assistants`, {
    name: 'Seer',
    route_id: route.id,
    system_prompt: 'The user sends a photo. You are told in brackets what it shows. Say in one short sentence what the photo shows.',
    params: { vision_model: eyes, vision_annotate: true, temperature: 0, max_tokens: 60 },
  });
  return admin('POST', `${base}/channels`, { kind, name: `Pictures ${kind}`, assistant_id: assistant.id, ...more });
}

/** Until it is so: a model takes its time. */
async function until(what, check) {
  for (const end = Date.now() + 4 * PATIENCE_MS; ; ) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Keeps a picture for whoever wants to look at it. */
function keep(name, bytes) {
  const folder = process.env.QUDAO_SCREENSHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, name), bytes);
}

async function booked() {
  const { data } = await admin('GET', `${base}/usage`);
  return data.map((row) => row.model).sort();
}

test('a photo that is sent on the chat page is looked at, and comes back with what was found', { skip }, async () => {
  const channel = await seer('web', { settings: { uploads: true } });
  const chatUrl = new URL(channel.chat_path, baseUrl).href;
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  chat.page.setDefaultTimeout(4 * PATIENCE_MS);
  await chat.page.locator('input.chooser').setInputFiles(photo('cat.jpg'));
  await chat.answers(1);

  // What the page shows: the visitor's photo, the assistant's words, and its copy with a box.
  const drawn = chat.page.locator('.entry.assistant .picture img');
  await drawn.waitFor();
  const own = chat.page.locator('.entry.user .picture img');
  await own.waitFor();
  const sizes = [];
  for (const image of [own, drawn]) {
    await image.evaluate((node) => node.decode());
    sizes.push(await image.evaluate((node) => [node.naturalWidth, node.naturalHeight]));
  }
  assert.deepEqual(sizes, [[451, 300], [451, 300]]);
  const alt = await drawn.getAttribute('alt');
  assert.match(alt, /^The picture shows: 1 cat \((59|6\d) %\)\.$/);
  const [question, answer] = await storedMessages(chatUrl, await chat.token());
  assert.equal(question.text, `[image: ${alt}]`);
  assert.match(answer.text, /\bcat\b/i, 'the assistant says what is in the picture');
  assert.deepEqual(answer.parts.map((part) => part.type), ['text', 'image']);
  assert.match(await chat.page.locator('.entry.assistant .md').innerText(), /\bcat\b/i);
  await chat.screenshot('picture-light-en');

  // After a reload it is all still there, and the address of a file opens nothing by itself.
  await chat.page.reload();
  await drawn.waitFor();
  const path = `/v1/web/${new URL(chatUrl).pathname.split('/').at(-1)}/files/${answer.parts[1].upload_id}`;
  assert.equal((await fetch(baseUrl + path)).status, 401);
  const bytes = await fetch(baseUrl + path, { headers: { authorization: `Bearer ${await chat.token()}` } });
  assert.equal(bytes.headers.get('content-type'), 'image/jpeg');
  keep('picture-drawn.jpg', Buffer.from(await bytes.arrayBuffer()));
  assert.deepEqual(await booked(), [words, eyes].sort(), 'each model is charged once');
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('what is no picture inside is told to be one that could not be looked at', { skip }, async () => {
  const channel = await seer('web', { settings: { uploads: true } });
  const chatUrl = new URL(channel.chat_path, baseUrl).href;
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  chat.page.setDefaultTimeout(4 * PATIENCE_MS);
  // A JPEG as far as its first bytes say, cut in the middle of its head.
  const torn = readFileSync(photo('cat.jpg')).subarray(0, 300);
  await chat.page.locator('input.chooser').setInputFiles({ name: 'torn.jpg', mimeType: 'image/jpeg', buffer: torn });
  await chat.answers(1);
  const [question, answer] = await storedMessages(chatUrl, await chat.token());
  assert.equal(question.text, '[image: torn.jpg]');
  assert.equal(answer.role, 'assistant');
  assert.equal(answer.parts, undefined);
  // The browser cannot draw it either: its name stands there.
  await chat.page.locator('.entry.user .file-name', { hasText: 'torn.jpg' }).waitFor();
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a photo that is sent to a bot is looked at upright, and comes back as a photo', { skip }, async () => {
  const bot = await BotApi.listen(port || 0);
  bot.photo = readFileSync(photo('cup-lying.jpg'));
  try {
    const channel = await seer('telegram', {
      settings: { receive: 'poll', api_url: bot.url },
      secrets: { bot_token: TOKEN },
    });
    await admin('POST', `${base}/channels/${channel.id}/connect`);
    bot.show('Ada', 7, 'What is this?');
    const [{ fields, file }] = await until('a photo comes back', () => bot.photos.length > 0 && bot.photos);
    assert.equal(fields.chat_id, '7');
    assert.deepEqual([...file.subarray(0, 3)], [0xff, 0xd8, 0xff]);
    // Upright: wider than it is high, as the cup stands.
    const { width, height } = jpegSize(file);
    assert.deepEqual([width, height], [600, 400]);
    keep('picture-telegram.jpg', file);
    const said = bot.sent.filter((message) => message.chat_id === 7);
    assert.equal(said.length, 1);
    assert.ok(said[0].text.length > 0);
    // What so small a model makes of it is its own; what it was told is not.
    const { data: talks } = await admin('GET', `${base}/conversations`);
    const pages = await Promise.all(talks.map(({ id }) => admin('GET', `${base}/conversations/${id}/messages`)));
    const texts = pages.flatMap(({ data }) => data.map(({ text }) => text));
    assert.ok(texts.some((text) => /\bcup\b/.test(text)), `${texts}`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    assert.equal(bot.photos.length, 1, 'it comes once');
  } finally {
    await bot.close();
  }
});

/** What a JPEG's frame header says. */
function jpegSize(file) {
  for (let at = 2; at < file.length; at += 2 + file.readUInt16BE(at + 2)) {
    const marker = file[at + 1];
    if (marker >= 0xc0 && marker <= 0xc2) return { height: file.readUInt16BE(at + 5), width: file.readUInt16BE(at + 7) };
  }
  throw new Error('no frame in the JPEG');
}
