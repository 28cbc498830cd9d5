// The running platform under test, and a tenant of our own on it that answers with the echo model.
//
// QUDAO_DEMO        path of the demo.json that `qudao serve --demo` writes, or instead of it:
// QUDAO_BASE_URL, QUDAO_OPERATOR_KEY   to make the tenant, or
// QUDAO_BASE_URL, QUDAO_ECHO_CHAT_URL  the address of a chat page that echoes.
// QUDAO_EMPTY_CHAT_URL  the same for a page whose tenant has no credits.
// QUDAO_CHAT_URL    a chat page with a real model; from demo.json when left out.
// QUDAO_ECHO_MODEL  name of the echo model (default `echo`).
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

const demo = process.env.QUDAO_DEMO ? JSON.parse(readFileSync(process.env.QUDAO_DEMO, 'utf8')) : {};

export const baseUrl = process.env.QUDAO_BASE_URL ?? demo.base_url;
export const demoConsoleUrl = demo.console_url;
export const demoChatUrl = process.env.QUDAO_CHAT_URL ?? demo.chat_url;
export const operatorKey = process.env.QUDAO_OPERATOR_KEY ?? demo.operator_key;
const echoModel = process.env.QUDAO_ECHO_MODEL ?? 'echo';

if (!baseUrl) throw new Error('name the platform: set QUDAO_DEMO, or QUDAO_BASE_URL');

/** A request with the operator's key; throws what was refused. */
export async function admin(method, path, body, headers = {}) {
  const response = await fetch(baseUrl + path, {
    method,
    headers: { authorization: `Bearer ${operatorKey}`, 'content-type': 'application/json', ...headers },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text === '' ? null : JSON.parse(text);
}

/** A web channel whose assistant repeats what it is told, for the widget on pages of `settings.origins`. */
export async function openEchoChannel({ settings, secrets, ...wishes }) {
  const { chatUrl, base, channelId } = await makeEchoChat({ ...wishes, settings });
  const key = new URL(chatUrl).pathname.split('/').at(-1);
  if (secrets) await admin('PATCH', `${base}/channels/${channelId}`, { secrets });
  return { key, base, change: (next) => admin('PATCH', `${base}/channels/${channelId}`, { settings: next }) };
}

/** A page whose assistant repeats what it is told, in a tenant of its own. `names` are those of things. */
export async function openEchoChat({ credits = '100.00', ...wishes } = {}) {
  const existing = credits === null ? process.env.QUDAO_EMPTY_CHAT_URL : process.env.QUDAO_ECHO_CHAT_URL;
  return existing ? { chatUrl: existing } : makeEchoChat({ credits, ...wishes });
}

async function makeEchoChat({ credits = '100.00', model = echoModel, names = {}, settings }) {
  const tenant = await admin('POST', '/v1/tenants', { name: names.tenant ?? 'Browser tests', currency: 'USD', locale: 'en' });
  const base = `/v1/tenants/${tenant.id}`;
  if (credits !== null) {
    await admin('POST', `${base}/credits`, { amount: credits, note: 'browser tests' }, { 'idempotency-key': randomUUID() });
  }
  const route = await admin('POST', `${base}/routes`, { name: names.route ?? 'echo', models: [model] });
  const assistant = await admin('POST', `${base}/assistants`, { name: names.assistant ?? 'Echo', route_id: route.id, system_prompt: 'Repeat what you are told.', ...(names.greeting && { greeting: names.greeting }) });
  const channel = await admin('POST', `${base}/channels`, { kind: 'web', name: names.channel ?? 'Browser tests', assistant_id: assistant.id, ...(settings && { settings }) });
  return { chatUrl: new URL(channel.chat_path, baseUrl).href, base, channelId: channel.id };
}

/** What the server holds of a visitor's conversation once no answer is owed, read past the page. */
export async function storedMessages(chatUrl, token) {
  const key = new URL(chatUrl).pathname.split('/').at(-1);
  const deadline = Date.now() + 30_000;
  for (;;) {
    const response = await fetch(`${baseUrl}/v1/web/${key}/messages`, { headers: { authorization: `Bearer ${token}` } });
    if (!response.ok) throw new Error(`messages: ${response.status} ${await response.text()}`);
    const { data, answer_due: due } = await response.json();
    if (!due) return data;
    if (Date.now() > deadline) throw new Error('the answer is still owed');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
