// Signing in by an identity provider: a real one (oidc-provider), a real browser, and what goes wrong.
//
// QUDAO_OIDC_PORT  a port of this machine that the platform may request over http (`egress` in its
//                  settings); the provider listens there.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Provider } from 'oidc-provider';
import { launch } from './browser.mjs';
import { consoleUrl, invite, makeTenant, openConsole } from './people.mjs';
import { admin, baseUrl } from './platform.mjs';

const port = Number(process.env.QUDAO_OIDC_PORT);
if (!port) throw new Error('set QUDAO_OIDC_PORT to a port that the platform may request over http');
const issuer = `http://127.0.0.1:${port}`;
const SECRET = 'only-the-platform-knows-this-secret';
const CALLBACK = `${baseUrl}/v1/oidc/callback`;
const FLOW = '__Host-qudao-oidc';

/** Whom the provider knows, by what they type in there. */
const PEOPLE = {
  ann: { email: 'ann@example.com', email_verified: true, name: 'Ann' },
  newcomer: { email: 'Newcomer@Shop.Example', email_verified: true, name: '新来的' },
  stranger: { email: 'stranger@elsewhere.example', email_verified: true, name: 'Stranger' },
  nearly: { email: 'nearly@sub.shop.example', email_verified: true, name: 'Nearly' },
  unverified: { email: 'boss@shop.example', email_verified: false, name: 'Not the boss' },
  mute: { name: 'Mute' },
};

let browser;
let provider;
let tenant;

async function startProvider(settings = {}) {
  const made = new Provider(issuer, {
    clients: [{ client_id: 'qudao', client_secret: SECRET, redirect_uris: [CALLBACK], grant_types: ['authorization_code'], response_types: ['code'] }],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) }),
    cookies: { keys: ['of the provider'] },
    pkce: { required: () => true },
    // A test keeps a code for a while before it comes back with it.
    ttl: { AuthorizationCode: 600 },
    ...settings,
  });
  const server = made.listen(port, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  return {
    stop: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}

function addProvider({ base }, more = {}) {
  const body = { name: 'Acme ID', issuer, client_id: 'qudao', client_secret: SECRET, ...more };
  return admin('POST', `${base}/identity-providers`, body);
}

before(async () => {
  provider = await startProvider();
  tenant = await makeTenant('Acme Tea');
  await addProvider(tenant, { join_role: 'viewer', join_domains: ['shop.example'] });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await provider?.stop();
});

/** A fresh browser at the tenant's sign-in page, whose button leads to the provider. */
async function arrive({ id } = tenant) {
  const visitor = await openConsole(browser, `#/${id}`);
  // The provider's own pages load a font from elsewhere.
  await visitor.context.route((url) => !url.hostname.startsWith('127.'), (route) => route.abort());
  await visitor.page.getByRole('link', { name: 'Sign in with Acme ID' }).click();
  await visitor.page.locator('input[name=login]').waitFor();
  return visitor;
}

/** What somebody does at the provider. */
async function identify({ page }, login) {
  await page.locator('input[name=login]').fill(login);
  await page.locator('input[name=password]').fill('the provider asks for any');
  await page.locator('button[type=submit]').click();
  await page.locator('input[name=prompt][value=consent]').waitFor({ state: 'attached' });
  await page.locator('button[type=submit]').click();
}

async function failure({ page }) {
  const shown = page.locator('[data-test=failure]');
  await shown.waitFor();
  assert.match(page.url(), /\/console#\/sign-in-failed\?code=[a-z_]+$/);
  return [new URL(page.url()).hash.split('=')[1], await shown.innerText()];
}

async function isIn(visitor) {
  return (await visitor.status('/v1/session')) === 200;
}

async function members({ base } = tenant) {
  return (await admin('GET', `${base}/members`)).data;
}

/** Goes as far as the provider sends the browser back, and no further: the address it would go to. */
async function catchReturn({ page, context }) {
  await page.locator('input[name=login]').fill('ann');
  await page.locator('input[name=password]').fill('the provider asks for any');
  await page.locator('button[type=submit]').click();
  await page.locator('input[name=prompt][value=consent]').waitFor({ state: 'attached' });
  const action = await page.locator('form').first().evaluate((form) => form.action);
  let answer = await context.request.post(action, { form: { prompt: 'consent' }, maxRedirects: 0 });
  for (;;) {
    const next = new URL(answer.headers().location, issuer).href;
    if (next.startsWith(CALLBACK)) return next;
    answer = await context.request.get(next, { maxRedirects: 0 });
  }
}

test('a member whom the provider knows by a verified address is linked, and known again without it', async () => {
  const invited = await openConsole(browser, `#/invitation/${await invite(tenant, 'ann@example.com', 'editor')}`);
  await invited.accept('Ann of the shop');
  await invited.heading('Hello, Ann of the shop');
  const ann = await arrive();
  await identify(ann, 'ann');
  await ann.heading('Hello, Ann of the shop');
  assert.equal(await ann.page.locator('[data-test=role]').innerText(), 'Editor');
  const cookies = await ann.context.cookies(baseUrl);
  assert.ok(!cookies.some(({ name }) => name === FLOW), 'what waited is gone');
  const session = cookies.find(({ name }) => name === '__Host-qudao');
  assert.deepEqual([session.httpOnly, session.secure, session.sameSite, session.path], [true, true, 'Lax', '/']);
  assert.equal((await members()).length, 1);
  const { data } = await admin('GET', `${tenant.base}/sessions`);
  assert.equal(data[0].method, 'oidc');

  const before = PEOPLE.ann;
  PEOPLE.ann = { email: 'other@elsewhere.example', email_verified: false };
  await ann.signOut();
  assert.ok(!(await isIn(ann)));
  await ann.page.getByRole('link', { name: 'Sign in with Acme ID' }).click();
  await ann.heading('Hello, Ann of the shop');
  PEOPLE.ann = before;
  await ann.close();
  await invited.close();
});

test('somebody new from a domain of the tenant becomes what the tenant said', async () => {
  const newcomer = await arrive();
  await identify(newcomer, 'newcomer');
  await newcomer.heading('Hello, 新来的');
  assert.deepEqual(await newcomer.tabs(), ['Home', 'Channels', 'Routes', 'My account']);
  const member = (await members()).find(({ email }) => email === 'newcomer@shop.example');
  assert.deepEqual([member.role, member.has_password], ['viewer', false]);
  await newcomer.tab('My account');
  await newcomer.page.getByText('You sign in by a service and have no password here.').waitFor();
  await newcomer.close();
});

for (const [login, code, words] of [
  ['stranger', 'not_a_member', 'You are not a member of this business. Ask an owner for an invitation.'],
  ['nearly', 'not_a_member', 'You are not a member of this business. Ask an owner for an invitation.'],
  ['unverified', 'email_unverified', 'The sign-in service has not verified your e-mail address. Verify it there, then try again.'],
  ['mute', 'email_unverified', 'The sign-in service has not verified your e-mail address. Verify it there, then try again.'],
]) {
  test(`${login} is refused: ${code}`, async () => {
    const before = await members();
    const visitor = await arrive();
    await identify(visitor, login);
    assert.deepEqual(await failure(visitor), [code, words]);
    assert.ok(!(await isIn(visitor)));
    assert.deepEqual(await members(), before);
    await visitor.close();
  });
}

test('nobody takes over a member of whose address they only say that it is theirs', async () => {
  PEOPLE.thief = { email: 'ann@example.com', email_verified: false, name: 'Ann' };
  const thief = await arrive();
  await identify(thief, 'thief');
  assert.equal((await failure(thief))[0], 'email_unverified');
  assert.ok(!(await isIn(thief)));
  await thief.close();
});

test('a suspended member does not come in by the provider either', async () => {
  const { id } = (await members()).find(({ email }) => email === 'newcomer@shop.example');
  await admin('PATCH', `${tenant.base}/members/${id}`, { suspended: true });
  const visitor = await arrive();
  await identify(visitor, 'newcomer');
  assert.equal((await failure(visitor))[0], 'not_a_member');
  assert.ok(!(await isIn(visitor)));
  await visitor.close();
});

test('what one browser began, another does not finish', async () => {
  const ann = await arrive();
  const url = await catchReturn(ann);
  assert.match(url, /[?&]code=/);
  const fresh = await openConsole(browser, `#/${tenant.id}`);
  await fresh.page.goto(url);
  assert.equal((await failure(fresh))[0], 'stray');
  assert.ok(!(await isIn(fresh)));
  const busy = await arrive();
  const own = await catchReturn(busy);
  await busy.page.goto(url);
  assert.deepEqual(await failure(busy), ['stray', 'This sign-in did not begin in this browser, or it took too long. Please begin again.']);
  assert.ok(!(await isIn(busy)));
  // Their own is not spoilt by that.
  await busy.page.goto(own);
  await busy.heading('Hello, Ann of the shop');
  await ann.page.goto(url);
  await ann.heading('Hello, Ann of the shop');
  for (const visitor of [ann, fresh, busy]) await visitor.close();
});

test('a return that was used is refused, even to whoever kept the cookie', async () => {
  const ann = await arrive();
  const url = await catchReturn(ann);
  const flow = (await ann.context.cookies(baseUrl)).find(({ name }) => name === FLOW);
  assert.deepEqual([flow.httpOnly, flow.secure, flow.sameSite], [true, true, 'Lax']);
  await ann.page.goto(url);
  await ann.heading('Hello, Ann of the shop');
  await ann.signOut();
  await ann.page.goto(url);
  assert.equal((await failure(ann))[0], 'stray');
  await ann.context.addCookies([flow]);
  await ann.page.goto(url);
  assert.equal((await failure(ann))[0], 'unconfirmed');
  assert.ok(!(await isIn(ann)));
  for (const bent of [flow.value.slice(0, -2), `${flow.value}AA`, 'AAAA', '']) {
    await ann.context.addCookies([{ ...flow, value: bent }]);
    await ann.page.goto(url);
    assert.equal((await failure(ann))[0], 'stray', bent);
  }
  await ann.close();
});

test('what the provider refuses is said, and only to whom it was refused', async () => {
  const visitor = await arrive();
  await visitor.page.getByRole('link', { name: /cancel/i }).click();
  assert.deepEqual(await failure(visitor), ['refused', 'The sign-in service did not let you in, or you pressed cancel there.']);
  await visitor.screenshot('console-sign-in-failed-light-en');
  await visitor.page.locator('[data-test=language]').click();
  await visitor.page.getByText('登录服务没有允许您进入，或者您在那里取消了登录。').waitFor();
  await visitor.page.goto(`${CALLBACK}?error=access_denied&error_description=<b>call%20555</b>&state=x`);
  await visitor.page.reload();
  assert.equal((await failure(visitor))[0], 'stray');
  await visitor.page.goto(consoleUrl('#/sign-in-failed?code=%3Cimg%20src=x%3E'));
  await visitor.page.getByText('我们这边出了点问题，请重试。').waitFor();
  assert.ok(!(await visitor.page.content()).includes('555'));
  await visitor.close();
});

test('a client secret that the provider does not know says so', async () => {
  const other = await makeTenant('Misconfigured');
  await addProvider(other, { client_secret: 'something else' });
  const visitor = await arrive(other);
  await identify(visitor, 'ann');
  assert.deepEqual(await failure(visitor), ['client_refused', 'The sign-in service does not accept this platform’s client ID and secret. An owner has to set it up again.']);
  await visitor.close();
});

test('a provider that tells everything in its ID token serves as well', async () => {
  await provider.stop();
  provider = await startProvider({ conformIdTokenClaims: false });
  const other = await makeTenant('Token');
  await addProvider(other, { join_role: 'agent', join_domains: ['shop.example'] });
  const visitor = await arrive(other);
  await identify(visitor, 'newcomer');
  await visitor.heading('Hello, 新来的');
  assert.equal((await members(other))[0].role, 'agent');
  await visitor.close();
});

test('a provider that was removed is offered no more, and one that is away says so', async () => {
  const other = await makeTenant('Changing');
  const { id } = await addProvider(other);
  const depart = `${baseUrl}${other.base}/identity-providers/${id}/sign-in`;
  const caught = await arrive(other);
  const url = await catchReturn(caught);
  const visitor = await openConsole(browser, `#/${other.id}`);
  await visitor.page.getByRole('link', { name: 'Sign in with Acme ID' }).waitFor();
  await provider.stop();
  await visitor.page.goto(depart);
  assert.equal((await failure(visitor))[0], 'provider_away');
  provider = await startProvider();
  await admin('DELETE', `${other.base}/identity-providers/${id}`);
  await visitor.page.goto(consoleUrl(`#/${other.id}`));
  await visitor.page.reload();
  await visitor.field('E-mail address').waitFor();
  await visitor.page.waitForTimeout(500);
  assert.equal(await visitor.page.getByRole('link', { name: 'Sign in with Acme ID' }).count(), 0);
  await visitor.page.goto(depart);
  assert.equal((await failure(visitor))[0], 'provider_gone');
  await caught.page.goto(url);
  assert.ok(['stray', 'provider_gone'].includes((await failure(caught))[0]));
  assert.ok(!(await isIn(caught)));
  await visitor.close();
  await caught.close();
});
