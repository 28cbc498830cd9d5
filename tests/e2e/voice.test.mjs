// People who speak: a voice message is recorded in a real browser or sent to a bot, a real model writes down
// what is said, and a real model answers.
//
// QUDAO_SAID_WAV, QUDAO_SAID_OGG  a person who says "Some call me nature. Others call me Mother Nature."
// QUDAO_SPEECH_MODEL              a model that listens
// QUDAO_E2E_MODEL                 one that answers
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch, openChat, PATIENCE_MS, PHONE, still } from './browser.mjs';
import { HostSite, Visit } from './host.mjs';
import { admin, baseUrl, openEchoChat, storedMessages } from './platform.mjs';
import { BotApi, TOKEN } from './telegram.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SPEECH_MODEL = process.env.QUDAO_SPEECH_MODEL;
const LOCAL_MODEL = process.env.QUDAO_E2E_MODEL ?? 'smollm2-135m-instruct';
const port = Number(process.env.QUDAO_OIDC_PORT);
const wav = process.env.QUDAO_SAID_WAV;
const SAID = /mother nature/i;
/** The recording lasts 5.3 seconds, and longer where the browser's microphone has to wait for its turn. */
const LENGTH_MS = 8_000;

let browser;
let site;
before(async () => {
  site = await HostSite.listen();
  // A microphone into which the recording is spoken, once for each time that it is turned on.
  browser = await launch(['--use-fake-device-for-media-stream', `--use-file-for-fake-audio-capture=${wav}%noloop`]);
});
after(async () => {
  await browser?.close();
  site?.close();
});

/** A tenant whose assistant listens and answers with real models. */
async function makeTenant({ listens = true } = {}) {
  const tenant = await admin('POST', '/v1/tenants', { name: 'Voices', currency: 'USD', locale: 'en' });
  const base = `/v1/tenants/${tenant.id}`;
  await admin('POST', `${base}/credits`, { amount: '100', note: 'voices' }, { 'idempotency-key': randomUUID() });
  const route = await admin('POST', `${base}/routes`, { name: 'answers', models: [LOCAL_MODEL] });
  await admin('POST', `${base}/routes`, { name: 'listens', models: [SPEECH_MODEL] });
  const params = { max_tokens: 40, ...(listens && { speech_model: SPEECH_MODEL }) };
  const assistant = await admin('POST', `${base}/assistants`, { name: 'Lumi', route_id: route.id, system_prompt: 'Answer in one short sentence.', params });
  const channel = async (wishes) => admin('POST', `${base}/channels`, { name: 'Voices', assistant_id: assistant.id, ...wishes });
  return { base, channel };
}
async function makeChat(wishes) {
  const tenant = await makeTenant(wishes);
  const channel = await tenant.channel({ kind: 'web', settings: { origins: [site.origin] } });
  return { ...tenant, key: channel.public_key, chatUrl: new URL(channel.chat_path, baseUrl).href };
}
/** What was charged, by model. */
async function charges(base) {
  const { data } = await admin('GET', `${base}/usage`);
  assert.ok(data.every(({ charge }) => Number(charge.amount ?? charge) >= 0));
  return data.map(({ model }) => model).sort();
}
async function violations(page) {
  await still(page);
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
  );
  return found.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`);
}
const button = (page, name) => page.getByRole('button', { name, exact: true });

test('a person speaks on the chat page, is understood and answered, and each model is paid once', { skip: !wav }, async () => {
  const { chatUrl, base } = await makeChat();
  const chat = await openChat(browser, chatUrl, { permissions: ['microphone'] });
  chat.page.setDefaultTimeout(180_000);
  await chat.online();
  await button(chat.page, 'Record a voice message').click();
  await button(chat.page, 'Send the voice message').waitFor();
  assert.equal(await chat.page.evaluate(() => document.activeElement?.getAttribute('aria-label')), 'Send the voice message');
  assert.match(await chat.page.locator('.composer [role="status"]').innerText(), /Recording/);
  assert.deepEqual(await violations(chat.page), []);
  await chat.page.waitForTimeout(LENGTH_MS);
  assert.match(await chat.page.locator('.recording .length').innerText(), /^0:(0[6-9]|[1-5]\d)$/);
  await chat.screenshot('voice-recording-light-en');
  await button(chat.page, 'Send the voice message').click();
  await chat.answers(1);
  await chat.page.locator('.entry.user .words', { hasText: SAID }).waitFor();
  const stored = await storedMessages(chatUrl, await chat.token());
  assert.deepEqual(stored.map(({ role }) => role), ['user', 'assistant']);
  const [part] = stored[0].parts;
  assert.deepEqual([part.type, part.voice, part.mime], ['audio', true, 'audio/webm']);
  assert.match(part.alt, SAID);
  assert.ok(stored[1].text.trim().length > 0);
  assert.deepEqual(await charges(base), [LOCAL_MODEL, SPEECH_MODEL].sort());
  await chat.page.reload();
  await chat.answers(1);
  await chat.page.locator('.entry.user .words', { hasText: SAID }).waitFor();
  await chat.screenshot('voice-answered-light-en');
  assert.deepEqual(await violations(chat.page), []);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a recording can be discarded, and the microphone is off then', { skip: !wav }, async () => {
  const { chatUrl, base } = await makeChat();
  const chat = await openChat(browser, chatUrl, { permissions: ['microphone'], locale: 'zh-CN', colorScheme: 'dark', viewport: PHONE });
  await chat.page.evaluate(() => {
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.tracks = [];
    navigator.mediaDevices.getUserMedia = async (wanted) => {
      const stream = await open(wanted);
      window.tracks.push(...stream.getTracks());
      return stream;
    };
  });
  const states = () => chat.page.evaluate(() => window.tracks.map((track) => track.readyState));
  await button(chat.page, '录制语音消息').click();
  await button(chat.page, '放弃录音').waitFor();
  assert.deepEqual(await states(), ['live']);
  await chat.screenshot('voice-recording-dark-zh-phone');
  await button(chat.page, '放弃录音').click();
  await chat.page.locator('.recording').waitFor({ state: 'detached' });
  await button(chat.page, '录制语音消息').click();
  await button(chat.page, '发送语音消息').press('Escape');
  await chat.page.locator('.recording').waitFor({ state: 'detached' });
  assert.deepEqual(await states(), ['ended', 'ended']);
  // The page gives the focus back once the button is there again.
  await chat.page.waitForFunction(() => document.activeElement?.getAttribute('aria-label') === '录制语音消息');
  assert.deepEqual(await chat.entries(), []);
  assert.deepEqual(await charges(base), []);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('whoever refuses the microphone is told what to do, and writes on', { skip: !wav }, async () => {
  const { chatUrl } = await makeChat();
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await button(chat.page, 'Record a voice message').click();
  const told = chat.page.getByRole('alert');
  await told.waitFor();
  assert.match(await told.innerText(), /microphone is blocked.*Allow it/);
  assert.deepEqual(await violations(chat.page), []);
  await chat.screenshot('voice-refused-light-en');
  await chat.page.locator('textarea').fill('Then I write.');
  assert.match(await chat.page.locator('.note').innerText(), /AI assistant/);
  await chat.close();
});

test('what could not be sent is kept, and sent at the next press', { skip: !wav }, async () => {
  const { chatUrl } = await makeChat();
  const chat = await openChat(browser, chatUrl, { permissions: ['microphone'] });
  chat.page.setDefaultTimeout(180_000);
  await chat.online();
  await button(chat.page, 'Record a voice message').click();
  await button(chat.page, 'Send the voice message').waitFor();
  await chat.page.waitForTimeout(LENGTH_MS);
  chat.networkIsCut = true;
  await chat.page.route('**/files?*', (route) => route.abort());
  await button(chat.page, 'Send the voice message').click();
  await chat.page.getByRole('alert').getByText('It is still here', { exact: false }).waitFor();
  await chat.page.unroute('**/files?*');
  await button(chat.page, 'Send the voice message').click();
  await chat.answers(1);
  const stored = await storedMessages(chatUrl, await chat.token());
  assert.equal(stored.length, 2);
  assert.match(stored[0].parts[0].alt, SAID);
  await chat.close();
});

test('nobody is offered a microphone to which nobody listens', { skip: !wav }, async () => {
  const { chatUrl } = await openEchoChat();
  const chat = await openChat(browser, chatUrl, { permissions: ['microphone'] });
  await chat.online();
  assert.equal(await button(chat.page, 'Record a voice message').count(), 0);
  await chat.close();
});

test('a person speaks in the widget on a page of another site', { skip: !wav }, async () => {
  const { key, base } = await makeChat();
  const visit = await Visit.to(browser, site.url({ key }), { permissions: ['microphone'] });
  visit.page.setDefaultTimeout(180_000);
  await visit.open();
  await button(visit.page, 'Record a voice message').click();
  await button(visit.page, 'Send the voice message').waitFor();
  await visit.page.waitForTimeout(LENGTH_MS);
  await visit.screenshot('voice-widget-recording');
  await button(visit.page, 'Send the voice message').click();
  await visit.answers(1);
  await visit.page.reload();
  await visit.open();
  await visit.page.locator('qudao-widget .entry.user .words', { hasText: SAID }).waitFor();
  await visit.screenshot('voice-widget-answered');
  assert.deepEqual(await charges(base), [LOCAL_MODEL, SPEECH_MODEL].sort());
  assert.deepEqual(visit.complaints, []);
  await visit.close();
});

test('a person speaks to a bot of Telegram', { skip: !wav || !port }, async () => {
  const api = await BotApi.listen(port);
  try {
    const { base, channel } = await makeTenant();
    const bot = await channel({ kind: 'telegram', settings: { receive: 'poll', api_url: api.url }, secrets: { bot_token: TOKEN } });
    await admin('POST', `${base}/channels/${bot.id}/connect`);
    api.speak('Ada', 7, readFileSync(process.env.QUDAO_SAID_OGG));
    for (const end = Date.now() + 6 * PATIENCE_MS; api.sent.length === 0; ) {
      assert.ok(Date.now() < end, 'the bot answers');
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(api.sent[0].chat_id, 7);
    assert.ok(api.sent[0].text.trim().length > 0);
    const { data: [conversation] } = await admin('GET', `${base}/conversations`);
    const { data: messages } = await admin('GET', `${base}/conversations/${conversation.id}/messages`);
    assert.match(messages.find(({ role }) => role === 'user').text, SAID);
    assert.deepEqual(await charges(base), [LOCAL_MODEL, SPEECH_MODEL].sort());
  } finally {
    await api.close();
  }
});
