// A business connects its channels in the console, and looks after those who write there.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch, PATIENCE_MS, PHONE } from './browser.mjs';
import { HostSite } from './host.mjs';
import { close, complete, consoleUrl, invite, makeTenant, openConsole, PASSWORD } from './people.mjs';
import { admin, baseUrl } from './platform.mjs';
import { BotApi, TOKEN } from './telegram.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const port = Number(process.env.QUDAO_OIDC_PORT);
const NARROW = { width: 375, height: 812 };

let browser;
let tenant;
/** The owner's browser; each test goes on where the one before ended. */
let mei;
let bot;
let site;
/** Ids of what was made, by name. */
const made = {};

before(async () => {
  tenant = await makeTenant('梅家茶铺 Acme Tea');
  await admin('POST', `${tenant.base}/credits`, { amount: '100', note: 'first payment' }, { 'idempotency-key': randomUUID() });
  const route = await admin('POST', `${tenant.base}/routes`, { name: 'echo', models: [process.env.QUDAO_ECHO_MODEL ?? 'echo'] });
  for (const name of ['小梅 Mei', 'Night shift']) await admin('POST', `${tenant.base}/assistants`, { name, route_id: route.id, system_prompt: 'Repeat.' });
  browser = await launch();
  bot = await BotApi.listen(port || 0);
  site = await HostSite.listen();
});
after(async () => {
  await browser?.close();
  await bot?.close();
  await site?.close();
});

const link = (name) => mei.page.getByRole('link', { name, exact: true });
const row = (name) => mei.page.locator(`[data-test="channel-${name}"]`);
const open = async (hash) => {
  await mei.page.goto(consoleUrl(hash));
  await mei.page.locator('main h1').waitFor();
};
const here = () => new URL(mei.page.url()).hash;
/** Until it is so: what goes through the platform takes its time. */
async function until(what, check) {
  for (const end = Date.now() + PATIENCE_MS; ; ) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

test('a new business is told what a channel is, and offered every kind', async () => {
  const token = await invite(tenant, 'mei@example.com', 'owner');
  mei = await openConsole(browser, `#/invitation/${token}`);
  await mei.accept('Mei', PASSWORD);
  await mei.heading('Hello, Mei');
  await mei.tab('Channels');
  await mei.page.getByText('No channel yet.', { exact: false }).waitFor();
  assert.equal(await mei.page.evaluate(() => document.activeElement?.tagName), 'H1', 'the page is announced once its script is there');
  await mei.screenshot('console-channels-none-light-en');
  await mei.page.locator('.card.empty a').click();
  await mei.heading('Where do your customers write?');
  const { data: kinds } = await admin('GET', `${tenant.base}/channel-kinds`);
  await link('Telegram').waitFor();
  assert.equal(await mei.page.locator('.kind').count(), kinds.length);
  await mei.screenshot('console-channel-kinds-light-en');
});

test('Telegram: what is missing or wrong is said where it is, and in words', { skip: !port }, async () => {
  await link('Telegram').click();
  await mei.heading('Add a channel: Telegram');
  await mei.press('Add and connect');
  const token = mei.field('Bot token');
  await mei.page.getByText('This is needed.').waitFor();
  assert.equal(await token.getAttribute('aria-invalid'), 'true');
  assert.ok(await token.evaluate((input) => input === document.activeElement), 'the wrong field has the focus');
  assert.match(await token.evaluate((input) => document.getElementById(input.getAttribute('aria-describedby')).innerText), /@BotFather/);
  await mei.screenshot('console-telegram-missing-light-en');

  await mei.field('Name').fill('Tea bot');
  await token.fill('1:not-the-token');
  assert.equal(await token.getAttribute('type'), 'password');
  await mei.page.getByText('More settings').click();
  await mei.field('Bot API server').fill('not an address');
  await mei.press('Add and connect');
  await mei.page.getByText('Has to be an address that begins with https://').waitFor();
  await mei.field('Bot API server').fill(bot.url);
  await mei.field('How messages come in').selectOption('poll');
  await mei.press('Add and connect');
  await mei.heading('Tea bot');
  made.telegram = here().split('/').at(-1);
  await mei.page.locator('[data-test=fault]').getByText('Telegram does not know this bot token (Unauthorized): copy it anew').waitFor();
  await mei.page.locator('h1 [data-test=state]').getByText('needs you').waitFor();
  await mei.screenshot('console-telegram-fault-light-en');
  await mei.tab('Channels');
  await row('Tea bot').getByText('Telegram does not know this bot token', { exact: false }).waitFor();

  await row('Tea bot').getByRole('link').click();
  await mei.press('Exchange a secret');
  await mei.dialog().getByText('The old value is still accepted for a while', { exact: false }).waitFor();
  await mei.dialog().getByLabel('Bot token', { exact: true }).fill(TOKEN);
  await mei.screenshot('console-exchange-secret-light-en');
  await mei.dialog().getByRole('button', { name: 'Exchange a secret' }).click();
  await mei.page.getByText('Connected as @tea_bot', { exact: false }).waitFor();
  await mei.page.locator('h1 [data-test=state]').getByText('live').waitFor();
  assert.ok(!(await mei.page.content()).includes(TOKEN), 'the secret is shown to nobody');
  await mei.press('Check again');
  await mei.page.getByText('It works.', { exact: false }).waitFor();
  await mei.screenshot('console-telegram-live-light-en');
});

test('Telegram: somebody writes, and is a contact with a conversation', { skip: !port }, async () => {
  bot.write('Ann Lee', 501, 'Do you have oolong?');
  bot.write('王芳', 502, '有龙井吗？');
  await until('two answers', () => bot.sent.length >= 2);
  await mei.tab('Contacts');
  const ann = mei.page.locator('[data-test="contact-Ann Lee"]');
  await ann.waitFor();
  await mei.page.locator('[data-test="contact-王芳"]').waitFor();
  await mei.field('Find by name or ID').fill('ann');
  await mei.page.locator('[data-test="contact-王芳"]').waitFor({ state: 'detached' });
  await mei.field('Find by name or ID').fill('nobody like that');
  await mei.page.getByText('Nobody fits.').waitFor();
  await mei.field('Find by name or ID').fill('501');
  await ann.getByText('Tea bot').waitFor();
  await ann.getByRole('link').click();
  await mei.heading(/Ann Lee/);
  await mei.page.locator('[data-test=conversation] button').click();
  await mei.page.locator('.said.user').getByText('Do you have oolong?').waitFor();
  await mei.page.locator('.said.assistant').waitFor();
  await mei.screenshot('console-contact-light-en');
  const wants = mei.page.getByRole('switch');
  await wants.uncheck();
  await mei.page.getByText('wants no news since', { exact: false }).waitFor();
  const { identities } = await admin('GET', `${tenant.base}/contacts/${here().split('/')[2]}`);
  assert.ok(identities[0].unsubscribed_at);
  await wants.check();
  await mei.page.getByText('wants no news since', { exact: false }).waitFor({ state: 'detached' });
});

test('a web channel: its snippet puts the chat on the site, and the link opens its page', async () => {
  await open('#/channels/new/web');
  await mei.field('Name').fill('Shop site');
  await mei.field('Who answers').selectOption({ label: '小梅 Mei' });
  await mei.field('Sites that may show the widget').fill('shop.example');
  await mei.page.getByText('More settings').click();
  await mei.field('Title').fill('Acme Tea');
  await mei.page.getByLabel('Colour', { exact: true }).first().fill('teal');
  await mei.press('Add the channel');
  await mei.page.getByText('shop.example: has to be a site such as https://shop.example', { exact: false }).waitFor();
  await mei.page.getByText('Has to be a colour such as #0b7468').waitFor();
  assert.equal(await mei.field('Sites that may show the widget').getAttribute('aria-invalid'), 'true');
  await mei.field('Sites that may show the widget').fill(`${site.origin}\nhttps://tea.example`);
  await mei.page.getByLabel('Colour', { exact: true }).first().fill('#7a3cff');
  await mei.screenshot('console-web-form-light-en');
  await mei.press('Add the channel');
  await mei.heading('Shop site');
  made.web = here().split('/').at(-1);
  const snippet = await mei.page.locator('[data-test=snippet]').innerText();
  made.key = /data-key="(wk_[\w-]+)"/.exec(snippet)[1];
  assert.equal(snippet, `<script src="${baseUrl}/widget.js" data-key="${made.key}" async></script>`);
  await mei.screenshot('console-web-light-en');

  // The page of the shop has the same line in it.
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(site.url({ key: made.key }));
  await page.locator('qudao-widget button').first().click();
  await page.locator('qudao-widget textarea').fill('Hello from the shop');
  await page.locator('qudao-widget textarea').press('Enter');
  await page.locator('qudao-widget .entry.assistant[data-key]').getByText('Hello from the shop').waitFor();
  await context.close();

  const [chat] = await Promise.all([mei.context.waitForEvent('page'), link('Open the chat page').click()]);
  await chat.locator('textarea').fill('Hello from the chat page');
  await chat.locator('textarea').press('Enter');
  await chat.locator('.entry.assistant[data-key]').getByText('Hello from the chat page').waitFor();
  await chat.close();
});

test('a channel is edited, closed after a question, and opened again', async () => {
  await link('Edit').click();
  await mei.heading('Edit Shop site');
  assert.equal(await mei.field('Title').inputValue(), 'Acme Tea');
  await mei.field('Title').fill('Tea at home');
  await mei.field('Who answers').selectOption({ label: 'Night shift' });
  await mei.press('Save');
  await mei.heading('Shop site');
  await mei.page.locator('[data-test=settings]').getByText('Tea at home').waitFor();
  await mei.page.getByText('answered by Night shift').waitFor();
  const now = await admin('GET', `${tenant.base}/channels/${made.web}`);
  assert.deepEqual(now.settings, { origins: [site.origin, 'https://tea.example'], title: 'Tea at home', color: '#7a3cff' });
  await mei.press('Close the channel');
  await mei.dialog().getByText('You can open it again.', { exact: false }).waitFor();
  await mei.press('Cancel');
  assert.equal((await admin('GET', `${tenant.base}/channels/${made.web}`)).open, true, 'only asked');
  await mei.press('Close the channel');
  await mei.dialog().getByRole('button', { name: 'Close the channel' }).click();
  await mei.page.locator('h1 [data-test=state]').getByText('closed').waitFor();
  await mei.press('Open again');
  await mei.page.locator('h1 [data-test=state]').getByText('live').waitFor();
});

test('a partner’s channel: keys shown once, exchanged and revoked, and its sandbox is seen', async () => {
  await open('#/channels/new/partner');
  await mei.field('Name').fill('Lantern CRM');
  await mei.press('Add the channel');
  await mei.heading('Lantern CRM');
  made.partner = here().split('/').at(-1);
  await mei.page.locator('h1 [data-test=state]').getByText('sandbox').waitFor();
  await mei.page.getByText('There are no keys', { exact: false }).waitFor();
  await mei.press('Make keys');
  const bearer = await mei.page.locator('[data-test=bearer]').innerText();
  assert.match(bearer, /^pck_test_/);
  assert.match(await mei.page.locator('[data-test=signing-secret]').innerText(), /^whsec_/);
  await mei.screenshot('console-partner-keys-light-en');
  await mei.press('Done');
  assert.ok(!(await mei.page.content()).includes(bearer), 'shown once');
  const call = async (key, what) => {
    const response = await fetch(`${baseUrl}/v1/pcp/channels/${made.partner}/${what}`, { method: 'POST', headers: { authorization: `Bearer ${key}` } });
    return response.status;
  };
  assert.equal(await call(bearer, 'ping'), 200);
  await mei.press('Exchange the keys');
  await mei.dialog().getByText('The old ones go on for 24 hours', { exact: false }).waitFor();
  await mei.dialog().getByRole('button', { name: 'Exchange the keys' }).click();
  await mei.page.locator('[data-test=bearer]').waitFor();
  const next = await mei.page.locator('[data-test=bearer]').innerText();
  await mei.press('Done');
  assert.notEqual(next, bearer);
  for (const key of [bearer, next]) assert.equal(await call(key, 'ping'), 200);
  await mei.page.getByText('Valid bearer keys: 2').waitFor();
  made.call = (what) => call(next, what);
});

test('a partner’s endpoint is verified, and what was sent there can be sent again', { skip: !port }, async () => {
  const state = mei.page.locator('[data-test=endpoint-state]');
  await mei.field('Address of the endpoint').fill('somewhere');
  await mei.page.locator('[data-test=partner-endpoint]').getByRole('button', { name: 'Save' }).click();
  await mei.page.locator('[data-test=partner-endpoint] .wrong').waitFor();
  await mei.field('Address of the endpoint').fill(`${bot.url}/partner`);
  await mei.page.locator('[data-test=partner-endpoint]').getByRole('button', { name: 'Save' }).click();
  await state.getByText('not verified').waitFor();
  await mei.press('Verify');
  await mei.page.getByText('The endpoint answered 404 and not 200 with the challenge', { exact: false }).waitFor();
  bot.honest = true;
  await mei.press('Verify');
  await state.getByText('verified', { exact: true }).waitFor();
  // Whoever has a key can make events: this tells the partner of a new secret.
  assert.equal(await made.call('keys:rotate'), 200);
  await until('the event arrived', () => bot.events.includes('endpoint.key_rotated'));
  await mei.press('Refresh');
  const delivery = mei.page.locator('[data-test="delivery-endpoint.key_rotated"]').first();
  await until('it is seen', async () => {
    await mei.press('Refresh');
    return (await delivery.getByText('delivered').count()) > 0;
  });
  await mei.screenshot('console-partner-light-en');
  const before = bot.events.length;
  await delivery.getByRole('button', { name: 'Send again' }).click();
  await mei.page.getByText('Events that are sent again: 1').waitFor();
  await until('it arrived again', () => bot.events.length > before);
  await mei.field('Show').selectOption('dead');
  await mei.page.getByText('Nothing in this state.').waitFor();
});

test('keys that others have seen are revoked at once', async () => {
  await mei.press('Revoke all keys');
  await mei.dialog().getByText('All of them end at once', { exact: false }).waitFor();
  await mei.dialog().getByRole('button', { name: 'Revoke all keys' }).click();
  await mei.page.getByText('There are no keys', { exact: false }).waitFor();
  assert.equal(await made.call('ping'), 401);
  await mei.tab('Audit log');
  await mei.page.locator('[data-test="event-partner_key.revoke"]').getByText('revoked the keys of a partner').waitFor();
});

test('two contacts are made one, and taken apart again', async () => {
  const write = async (text) => {
    const base = `${baseUrl}/v1/web/${made.key}`;
    const { token } = await (await fetch(`${base}/session`, { method: 'POST' })).json();
    const sent = await fetch(`${base}/messages`, { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: JSON.stringify({ id: randomUUID(), text }) });
    assert.equal(sent.status, 202);
    return (await admin('GET', `${tenant.base}/conversations?limit=1`)).data[0].contact_id;
  };
  const [one, other] = [await write('It is me, on the web'), await write('And me again')];
  assert.notEqual(one, other);
  await open(`#/contacts/${one}`);
  const conversations = mei.page.locator('[data-test=conversation]');
  await conversations.first().waitFor();
  assert.equal(await conversations.count(), 1);
  await mei.press('Merge with another contact');
  await mei.field('Who else is this?').fill(other);
  await mei.dialog().locator('.row').first().waitFor();
  await until('one is left', async () => (await mei.dialog().locator('.row').count()) === 1);
  await mei.dialog().getByRole('button', { name: /^Choose/ }).click();
  await mei.dialog().getByText('Nothing is lost, and it can be undone.', { exact: false }).waitFor();
  await mei.press('Merge');
  await mei.dialog().getByText('Has to have 1 to 500 characters').waitFor();
  await mei.field('How do you know?').fill('Said so on the telephone');
  await mei.screenshot('console-merge-light-en');
  await mei.press('Merge');
  const merge = mei.page.locator('[data-test=merge]');
  await merge.getByText('Said so on the telephone').waitFor();
  await until('both conversations are here', async () => (await conversations.count()) === 2);
  assert.equal((await admin('GET', `${tenant.base}/contacts/${other}`)).merged_into, one);
  await mei.screenshot('console-merged-light-en');
  await merge.getByRole('button', { name: 'Undo' }).click();
  await mei.dialog().getByText('What went over then and is still there goes back.', { exact: false }).waitFor();
  await mei.dialog().getByRole('button', { name: 'Undo' }).click();
  await merge.getByText('undone', { exact: false }).waitFor();
  await until('it went back', async () => (await conversations.count()) === 1);
  assert.equal((await admin('GET', `${tenant.base}/contacts/${other}`)).merged_into, null);
  made.contact = one;
});

test('ratings are summed, and lead to what was said', async () => {
  await mei.tab('Ratings');
  await mei.page.getByText('Nobody rated a conversation in this time.', { exact: false }).waitFor();
  const base = `${baseUrl}/v1/widget/${made.key}`;
  const post = (path, body, token) =>
    fetch(base + path, { method: 'POST', headers: { origin: site.origin, 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) }, body: JSON.stringify(body) });
  for (const score of [5, 4, 5, 2]) {
    const { token } = await (await post('/token', {})).json();
    assert.equal((await post('/messages', { id: randomUUID(), text: `Worth a ${score}` }, token)).status, 202);
    assert.equal((await post('/rating', { score }, token)).status, 204);
  }
  await mei.page.reload();
  await mei.page.locator('[data-test=good]').getByText('75 %').waitFor();
  assert.equal(await mei.page.locator('[data-test=count]').innerText(), '4');
  assert.equal(await mei.page.locator('[data-test=rating]').count(), 4);
  await mei.page.getByText('75 % good of 4').first().waitFor();
  await mei.screenshot('console-ratings-light-en');
  await mei.page.locator('[data-test=rating]').first().getByRole('link').click();
  await mei.page.locator('.said.user').getByText('Worth a 2').waitFor();
});

test('a viewer sees channels and may change none; an agent reads contacts and may not merge them', async () => {
  const lin = await openConsole(browser, `#/invitation/${await invite(tenant, 'lin@example.com', 'viewer')}`, { viewport: PHONE, locale: 'zh-CN' });
  await lin.field('您的称呼').fill('林');
  await lin.field('密码').fill(PASSWORD);
  await lin.press('加入');
  await lin.heading('林，您好');
  assert.deepEqual(await lin.tabs(), ['首页', '渠道', '路由', '我的账户']);
  await lin.tab('渠道');
  await lin.page.locator('[data-test="channel-Shop site"] a').waitFor();
  assert.equal(await lin.page.getByRole('link', { name: '添加渠道' }).count(), 0);
  for (const id of [made.web, made.partner]) {
    await lin.page.goto(consoleUrl(`#/channels/${id}`));
    await lin.page.locator('h1 [data-test=state]').waitFor();
    await lin.page.locator('.card').first().waitFor();
    for (const name of ['关闭渠道', '生成密钥', '保存', '更换密钥']) assert.equal(await lin.page.getByRole('button', { name, exact: true }).count(), 0, name);
  }
  for (const hash of ['#/channels/new', `#/channels/${made.web}/edit`]) {
    await lin.page.goto(consoleUrl(hash));
    await lin.page.locator('main h1').waitFor();
    assert.equal(await lin.page.locator('form').count(), 0, hash);
  }
  for (const path of ['contacts', 'ratings']) assert.equal(await lin.status(`${tenant.base}/${path}`), 403, path);
  await close(lin);

  const bo = await openConsole(browser, `#/invitation/${await invite(tenant, 'bo@example.com', 'agent')}`);
  await bo.accept('Bo');
  await bo.heading('Hello, Bo');
  const tabs = await bo.tabs();
  assert.ok(tabs.includes('Contacts') && tabs.includes('Ratings'), tabs.join());
  await bo.page.goto(consoleUrl(`#/contacts/${made.contact}`));
  await bo.page.locator('[data-test=conversation] button').click();
  await bo.page.locator('.said.user').getByText('It is me, on the web').waitFor();
  await bo.page.locator('[data-test=identity]').getByText('wants news').waitFor();
  assert.equal(await bo.page.getByRole('switch').count(), 0);
  for (const name of ['Merge with another contact', 'Undo']) assert.equal(await bo.page.getByRole('button', { name }).count(), 0, name);
  await close(bo);
});

test('axe finds nothing on these pages, which fit the narrowest phone, in both languages and colours', async () => {
  const found = async (where) => {
    await complete(mei.page);
    await mei.page.evaluate(axe);
    const { violations } = await mei.page.evaluate(() =>
      globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
    );
    const wrong = violations.map(({ id, nodes }) => `${where} ${id}: ${nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`);
    assert.deepEqual(wrong, []);
    const wider = await mei.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wider <= 0, `${where} is ${wider} px too wide`);
  };
  const places = {
    channels: '#/channels',
    kinds: '#/channels/new',
    'new-email': '#/channels/new/email',
    web: `#/channels/${made.web}`,
    'web-edit': `#/channels/${made.web}/edit`,
    partner: `#/channels/${made.partner}`,
    contacts: '#/contacts',
    contact: `#/contacts/${made.contact}`,
    ratings: '#/ratings',
    missing: '#/channels/chn_00000000000000000000000000000000',
    ...(made.telegram && { telegram: `#/channels/${made.telegram}` }),
  };
  const visit = async (colours) => {
    for (const [name, hash] of Object.entries(places)) {
      await open(hash);
      await found(`${name} ${colours}`);
      await mei.screenshot(`console-desk-${name}-${colours}`, true);
    }
  };
  await visit('light-en');
  await mei.page.locator('[data-test=language]').click();
  await mei.page.setViewportSize(NARROW);
  await visit('light-zh-phone');
  await mei.page.locator('[data-test=theme]').click();
  await visit('dark-zh-phone');
  await open(`#/contacts/${made.contact}`);
  await mei.press('与其他联系人合并');
  await mei.dialog().locator('.row').first().waitFor();
  await found('dialog merge');
  await mei.screenshot('console-desk-dialog-merge-dark-zh-phone');
  await close(mei);
});
