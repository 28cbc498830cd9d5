// The console as the people of a business meet it, from the invitation to the end of a session.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import decodeQR from 'qr/decode.js';
import { launch, PHONE } from './browser.mjs';
import { close, complete, consoleUrl, invite, makeTenant, openConsole, PASSWORD, totp } from './people.mjs';
import { admin, baseUrl, demoConsoleUrl } from './platform.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const OWNER = 'mei@example.com';
const VIEWER = 'lin@example.com';

let browser;
let tenant;
/** The owner's browser; each test goes on where the one before ended. */
let mei;
let secret;

before(async () => {
  tenant = await makeTenant('梅家茶铺 Acme Tea');
  await admin('POST', `${tenant.base}/credits`, { amount: '1234.5', note: 'first payment' }, { 'idempotency-key': 'console-1' });
  browser = await launch();
});
after(() => browser?.close());

const works = async (key) => (await fetch(`${baseUrl}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status === 200;

test('an invited owner comes in, and the token stays nowhere', async () => {
  const token = await invite(tenant, OWNER, 'owner');
  mei = await openConsole(browser, `#/invitation/${token}`);
  assert.equal(new URL(mei.page.url()).hash, '#/invitation');
  await mei.accept('Mei', 'short');
  await mei.page.getByText('Has to have at least 10 characters').waitFor();
  assert.equal(await mei.field('Password').getAttribute('aria-invalid'), 'true');
  await mei.accept('Mei', 'password1234');
  await mei.page.getByText(/too easy to guess/i).waitFor();
  await mei.screenshot('console-invitation-light-en');
  await mei.accept('Mei');
  await mei.heading('Hello, Mei');
  assert.deepEqual(await mei.tabs(), ['Home', 'Channels', 'Routes', 'Contacts', 'Ratings', 'People', 'API keys', 'Audit log', 'My account']);
  await mei.page.locator('[data-test=business]').getByText('梅家茶铺 Acme Tea').waitFor();
  await mei.page.locator('[data-test=wallet]').getByText('1,234.50 CNY').waitFor();
  await mei.page.locator('[data-test=role]').getByText('Owner').waitFor();

  const cdp = await mei.context.newCDPSession(mei.page);
  const { entries } = await cdp.send('Page.getNavigationHistory');
  const kept = await mei.page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML]));
  for (const [place, text] of [['history', entries.map((entry) => entry.url).join()], ['page', kept]]) {
    assert.ok(!text.includes(token), `the token is in the ${place}`);
    assert.ok(!text.includes(PASSWORD), `the password is in the ${place}`);
  }
  assert.deepEqual(JSON.parse(kept)[0], { 'qudao.console.tenant': tenant.id });

  const late = await openConsole(browser, `#/invitation/${token}`);
  await late.accept('Eve');
  await late.page.getByText('The invitation is not good any more').waitFor();
  await close(late);
});

test('they sign out, and in again by keyboard alone', async () => {
  await mei.signOut();
  assert.equal(new URL(mei.page.url()).hash, `#/${tenant.id}`);
  const keyboard = mei.page.keyboard;
  await mei.page.waitForFunction(() => document.activeElement?.getAttribute('autocomplete') === 'username');
  await keyboard.type(OWNER);
  await keyboard.press('Tab');
  await keyboard.type('not the password');
  await keyboard.press('Enter');
  await mei.page.getByRole('alert').getByText('The e-mail address, the password or the code is wrong').waitFor();
  await mei.screenshot('console-refused-light-en');
  await keyboard.press('Control+A');
  await keyboard.type(PASSWORD);
  await keyboard.press('Enter');
  await mei.heading('Hello, Mei');
  await keyboard.press('Tab');
  await keyboard.press('Shift+Tab');
  await mei.page.locator('nav.tabs a').last().focus();
  await keyboard.press('Enter');
  await mei.heading('My account');
  assert.equal(await mei.page.evaluate(() => document.activeElement?.tagName), 'H1', 'the new page is announced');
});

test('somebody without a link names the business, which is remembered', async () => {
  const visitor = await openConsole(browser, '');
  await visitor.field('Business ID').fill('ten_nonsense');
  await visitor.press('Continue');
  await visitor.page.getByText('A business ID is “ten_” and 32 letters and digits.').waitFor();
  await visitor.field('Business ID').fill(` ${tenant.id.toUpperCase()} `);
  await visitor.press('Continue');
  await visitor.field('E-mail address').waitFor();
  await visitor.page.goto(consoleUrl());
  await visitor.page.reload();
  await visitor.field('E-mail address').waitFor();
  await close(visitor);
});

test('a second factor is set up by a QR code that is drawn here, and asked for', async () => {
  await mei.tab('My account');
  await mei.press('Set up');
  await mei.field('Present password').last().fill('wrong horse battery');
  await mei.press('Continue');
  await mei.dialog().getByText('The e-mail address, the password or the code is wrong').waitFor();
  await mei.field('Present password').last().fill(PASSWORD);
  await mei.press('Continue');
  secret = await mei.page.locator('[data-test=totp-secret]').innerText();
  await mei.page.locator('svg.qr path[d^=M]').waitFor();
  await mei.screenshot('console-second-factor-light-en');
  const url = new URL(await readQr());
  assert.equal(url.protocol, 'otpauth:');
  assert.equal(url.searchParams.get('secret'), secret);
  const code = mei.field('The six digits that the app shows');
  await code.fill('000000');
  await mei.press('Confirm');
  await mei.dialog().getByText('The e-mail address, the password or the code is wrong').waitFor();
  await code.fill(await totp(secret, -1));
  await mei.press('Confirm');
  await mei.page.locator('[data-test=recovery]').waitFor();
  const codes = await mei.page.locator('[data-test=recovery] .codes span').allInnerTexts();
  assert.equal(codes.length, 10);
  await mei.screenshot('console-recovery-light-en');
  await mei.page.emulateMedia({ media: 'print' });
  assert.ok(await mei.page.locator('[data-test=recovery]').isVisible());
  for (const hidden of ['header', 'h1', 'dialog .actions', '.rows']) assert.ok(!(await mei.page.locator(hidden).first().isVisible()), `${hidden} is printed`);
  await mei.screenshot('console-recovery-print');
  await mei.page.emulateMedia({ media: null });
  await mei.press('Done');
  await mei.page.getByText('In force:').waitFor();

  await mei.signOut();
  await mei.signIn(OWNER);
  await mei.page.getByText('Your account also needs a code.').waitFor();
  await mei.field('Code from your app').fill('000000');
  await mei.press('Sign in');
  await mei.page.getByRole('alert').getByText('The e-mail address, the password or the code is wrong').waitFor();
  await mei.field('Code from your app').fill(await totp(secret));
  await mei.press('Sign in');
  await mei.heading('Hello, Mei');

  await mei.signOut();
  await mei.signIn(OWNER);
  await mei.field('Code from your app').fill(` ${codes[4]} `);
  await mei.press('Sign in');
  await mei.heading('Hello, Mei');
});

/** Reads the drawing as a phone would, from what is on the screen. */
async function readQr() {
  const { size, path } = await mei.page.locator('svg.qr').evaluate((svg) => ({ size: svg.viewBox.baseVal.width, path: svg.firstElementChild.getAttribute('d') }));
  const scale = 4;
  const width = size * scale;
  const data = new Uint8Array(width * width * 4).fill(255);
  for (const [, x, y] of path.matchAll(/M(\d+) (\d+)/g)) {
    for (let row = 0; row < scale; row += 1) {
      const at = ((y * scale + row) * width + x * scale) * 4;
      for (let byte = 0; byte < scale * 4; byte += 1) if (byte % 4 !== 3) data[at + byte] = 0;
    }
  }
  return decodeQR({ width, height: width, data });
}

test('a password is changed, and other sessions end', async () => {
  const other = await openConsole(browser, `#/${tenant.id}`);
  const token = await invite(tenant, 'bo@example.com', 'editor');
  await other.page.goto(consoleUrl(`#/invitation/${token}`));
  await other.page.reload();
  await other.page.goto(consoleUrl(`#/invitation/${token}`));
  await other.accept('Bo');
  await other.heading('Hello, Bo');
  const third = await openConsole(browser, `#/${tenant.id}`);
  await third.signIn('bo@example.com');
  await third.heading('Hello, Bo');
  await third.tab('My account');
  await third.field('Present password').fill(PASSWORD);
  await third.field('New password').fill('too short');
  await third.press('Change password');
  await third.page.getByText('Has to have at least 10 characters').waitFor();
  assert.equal(await third.field('New password').getAttribute('aria-invalid'), 'true');
  await third.field('New password').fill('seven lanterns over the lake');
  await third.press('Change password');
  await third.page.getByText('Your password is changed.').waitFor();
  await other.tab('My account');
  await other.page.getByText('You were signed out. Sign in again to go on.').waitFor();
  await close(other);
  await close(third);
});

test('a key is made, used, exchanged and revoked', async () => {
  await mei.tab('API keys');
  await mei.press('Make a key');
  await mei.field('Name').fill('');
  await mei.page.locator('dialog textarea').fill('203.0.113.0/240');
  await mei.press('Make the key');
  await mei.dialog().getByText('Must not be empty').waitFor();
  await mei.dialog().getByText('Has to be a network such as').waitFor();
  await mei.field('Name').fill('shop backend');
  await mei.page.locator('dialog textarea').fill('127.0.0.0/8\n::1');
  await mei.page.locator('dialog select').selectOption('d90');
  await mei.screenshot('console-make-key-light-en');
  await mei.press('Make the key');
  const shown = mei.page.locator('[data-test=secret]');
  await shown.waitFor();
  const key = await shown.innerText();
  assert.match(key, /^qk_live_/);
  assert.ok(await works(key));
  await mei.press('Done');
  assert.ok(!(await mei.page.content()).includes(key), 'the secret is shown once');
  const row = mei.page.locator('[data-test="key-shop backend"]');
  await row.getByText('ends', { exact: false }).waitFor();
  assert.match(await row.innerText(), /call models/);
  assert.match(await row.innerText(), /from 127\.0\.0\.0\/8, ::1\/128/);
  await row.getByRole('button', { name: 'Exchange' }).click();
  await mei.page.locator('dialog select').selectOption('s0');
  await mei.dialog().getByRole('button', { name: 'Exchange' }).click();
  await shown.waitFor();
  const next = await shown.innerText();
  assert.notEqual(next, key);
  assert.ok(await works(next));
  assert.ok(!(await works(key)));
  await mei.press('Done');
  await mei.page.getByText('Show keys that no longer work').click();
  await row.nth(1).waitFor();
  await mei.screenshot('console-keys-light-en');
  await row.getByRole('button', { name: 'Revoke' }).click();
  await mei.dialog().getByText('This cannot be undone.').waitFor();
  await mei.press('Cancel');
  assert.ok(await works(next), 'only asked');
  await row.getByRole('button', { name: 'Revoke' }).click();
  await mei.dialog().getByRole('button', { name: 'Revoke' }).click();
  await mei.page.waitForFunction(() => document.querySelectorAll('.tag.bad').length === 2);
  assert.ok(!(await works(next)));
});

test('a viewer sees no keys and no members, and is out with the next press once suspended', async () => {
  await mei.tab('People');
  await mei.press('Invite somebody');
  await mei.field('Their e-mail address').fill('nobody');
  await mei.press('Make the link');
  await mei.dialog().getByText('Has to be an e-mail address such as').waitFor();
  await mei.field('Their e-mail address').fill(VIEWER);
  await mei.press('Make the link');
  const shown = mei.page.locator('[data-test=secret]');
  await shown.waitFor();
  const link = await shown.innerText();
  await mei.screenshot('console-invite-light-en');
  await mei.press('Done');
  await mei.page.locator(`[data-test="invitation-${VIEWER}"]`).getByText('open').waitFor();

  const lin = await openConsole(browser, new URL(link).hash, { viewport: PHONE, locale: 'zh-CN', colorScheme: 'dark' });
  await lin.heading('欢迎');
  await lin.screenshot('console-invitation-dark-zh-phone');
  await lin.field('您的称呼').fill('林');
  await lin.field('密码').fill('门前有两棵树一棵是枣树');
  await lin.press('加入');
  await lin.heading('林，您好');
  assert.deepEqual(await lin.tabs(), ['首页', '渠道', '路由', '我的账户']);
  await lin.screenshot('console-home-dark-zh-phone');
  for (const page of ['members', 'keys', 'audit']) {
    await lin.page.goto(consoleUrl(`#/${page}`));
    await lin.heading('林，您好');
  }
  for (const path of ['members', 'api-keys', 'audit-events', 'wallet']) assert.equal(await lin.status(`${tenant.base}/${path}`), 403, path);
  assert.equal(await lin.status(tenant.base), 200);
  assert.equal(await lin.page.locator('[data-test=wallet]').count(), 0);

  await mei.page.reload();
  const row = mei.page.locator(`[data-test="member-${VIEWER}"]`);
  await row.getByRole('button', { name: 'Suspend' }).click();
  await mei.dialog().getByRole('button', { name: 'Suspend' }).click();
  await row.getByText('suspended').waitFor();
  await lin.tab('我的账户');
  await lin.page.getByText('您已退出登录，请重新登录。').waitFor();
  await lin.screenshot('console-signed-out-dark-zh-phone');
  await lin.field('电子邮箱').fill(VIEWER);
  await lin.field('密码').fill('门前有两棵树一棵是枣树');
  await lin.press('登录');
  await lin.page.getByText('邮箱、密码或验证码不正确').waitFor();
  await row.getByRole('button', { name: 'Let in again' }).click();
  await row.getByRole('button', { name: 'Suspend' }).waitFor();
  await lin.press('登录');
  await lin.heading('林，您好');
  await close(lin);
});

test('a role of their own is made, given, changed and cannot be deleted while somebody has it', async () => {
  await mei.tab('People');
  await mei.press('Make a role');
  await mei.field('Name').fill('Night shift');
  await mei.press('Save');
  await mei.dialog().getByText('Must not be empty').waitFor();
  await mei.page.getByLabel('read conversations').check();
  await mei.press('Save');
  const role = mei.page.locator('[data-test="role-Night shift"]');
  await role.getByText('read conversations').waitFor();
  const member = mei.page.locator(`[data-test="member-${VIEWER}"]`);
  await member.getByRole('button', { name: 'Change role' }).click();
  await mei.page.locator('dialog select').selectOption({ label: 'Night shift' });
  await mei.press('Save');
  await member.getByText('Night shift').waitFor();
  await role.getByRole('button', { name: 'Delete' }).click();
  await mei.dialog().getByRole('button', { name: 'Delete' }).click();
  await mei.dialog().getByText('Members or invitations have this role; give them another first').waitFor();
  await mei.press('Cancel');
  await role.getByRole('button', { name: 'Change' }).click();
  await mei.page.getByLabel('see contacts').check();
  await mei.press('Save');
  await role.getByText('read conversations, see contacts').waitFor();
  await mei.screenshot('console-people-light-en');
  const own = mei.page.locator(`[data-test="member-${OWNER}"]`);
  await own.getByRole('button', { name: 'Change role' }).click();
  await mei.page.locator('dialog select').selectOption('viewer');
  await mei.press('Save');
  await mei.dialog().getByText('This is the last owner; make somebody else an owner first').waitFor();
  await mei.press('Cancel');
  await member.getByRole('button', { name: 'Remove' }).click();
  await mei.dialog().getByRole('button', { name: 'Remove' }).click();
  await member.waitFor({ state: 'detached' });
});

test('the audit log tells all of it, and finds a word', async () => {
  await mei.tab('Audit log');
  await mei.page.locator('[data-test="event-member.remove"]').first().waitFor();
  await mei.screenshot('console-audit-light-en');
  const rows = mei.page.locator('.row');
  const all = await rows.count();
  assert.ok(all > 20, `${all}`);
  await mei.field('Find in what is shown').fill('MEI revoked');
  await mei.page.locator('[data-test="event-api_key.revoke"]').waitFor();
  assert.equal(await rows.count(), 1);
  await mei.field('Find in what is shown').fill('nothing like that');
  await mei.page.getByText('Nothing of what is shown matches.').waitFor();
});

test('guessing is slowed down, and the page says until when', async () => {
  const quiet = await makeTenant('Quiet');
  const visitor = await openConsole(browser, `#/${quiet.id}`);
  const guess = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ email: OWNER, password: 'guess' }) };
  const attempt = async () => {
    for (let status = 0; status !== 429; ) ({ status } = await fetch(`${baseUrl}${quiet.base}/sessions`, guess));
  };
  await Promise.all([attempt(), attempt(), attempt()]);
  // Where the page takes long an attempt is free again meanwhile; so the page guesses as well.
  const slowed = visitor.page.getByText(/^Too many attempts\. Try again in \d+ s\.$/);
  for (let tries = 0; tries < 20 && (await slowed.count()) === 0; tries += 1) {
    await visitor.signIn(OWNER, 'guess');
    await visitor.page.getByRole('alert').first().waitFor();
    await attempt();
  }
  await slowed.waitFor();
  await close(visitor);
});

test('axe finds nothing on any page, in both languages and colours', async () => {
  const found = async (where) => {
    await complete(mei.page);
    // The policy of the page forbids inline script, so axe comes in through the debugger.
    await mei.page.evaluate(axe);
    const { violations } = await mei.page.evaluate(() =>
      globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
    );
    const wrong = violations.map(({ id, nodes }) => `${where} ${id}: ${nodes.map((node) => node.html.slice(0, 140)).join(' | ')}`);
    assert.deepEqual(wrong, []);
  };
  for (const [name, scopes] of [['shop backend', ['chat']], ['bookkeeping', ['billing:read', 'tenant:read']]]) {
    await admin('POST', `${tenant.base}/api-keys`, { name, scopes, allowed_networks: name === 'shop backend' ? ['203.0.113.0/24'] : null });
  }
  await invite(tenant, 'wei@example.com', 'agent');
  const visit = async (size, colours) => {
    for (const page of ['home', 'members', 'keys', 'audit', 'account']) {
      await mei.page.goto(consoleUrl(`#/${page}`));
      await mei.page.locator('.row, .card').first().waitFor();
      await found(`${page} ${colours}`);
      await mei.screenshot(`console-${page}-${colours}`);
      const wider = await mei.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wider <= 0, `${page} is ${wider} px too wide at ${size.width}`);
    }
  };
  await visit({ width: 1200 }, 'light-en');
  await mei.page.locator('[data-test=language]').click();
  await mei.page.locator('[data-test=theme]').click();
  await mei.page.setViewportSize(PHONE);
  await visit(PHONE, 'dark-zh-phone');
  for (const [page, button] of [['members', '邀请成员'], ['members', '新建角色'], ['keys', '新建密钥'], ['account', '移除']]) {
    await mei.page.goto(consoleUrl(`#/${page}`));
    await mei.press(button);
    await mei.dialog().waitFor();
    await found(`dialog ${button}`);
    await mei.screenshot(`console-dialog-${page}-dark-zh-phone`);
    await mei.page.keyboard.press('Escape');
    await mei.dialog().waitFor({ state: 'detached' });
  }
});

test('the demo prints a link by which its owner comes in', { skip: !demoConsoleUrl?.includes('#/invitation/') }, async () => {
  const owner = await openConsole(browser, new URL(demoConsoleUrl).hash);
  await owner.accept('Demo owner');
  await owner.heading('Hello, Demo owner');
  await owner.page.locator('[data-test=business]').getByText('Demo').waitFor();
  await owner.page.locator('[data-test=role]').getByText('Owner').waitFor();
  await close(owner);
});

test('the page is closed to frames, and did nothing that it must not', async () => {
  const { headers } = await fetch(consoleUrl());
  const policy = headers.get('content-security-policy');
  for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "trusted-types 'none'"]) {
    assert.ok(policy.includes(part), `${part} in ${policy}`);
  }
  assert.ok(!/unsafe|data:|https?:|\*/.test(policy), policy);
  assert.equal(headers.get('x-frame-options'), 'DENY');
  await close(mei);
});
