// A tenant with an owner, and browsers at its console.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { Chat, DESKTOP, PATIENCE_MS, PHONE, still } from './browser.mjs';
import { admin, baseUrl } from './platform.mjs';

export const PASSWORD = 'a river runs behind the shop';
export const consoleUrl = (hash = '') => `${baseUrl}/console${hash}`;

export async function makeTenant(name, currency = 'CNY') {
  const tenant = await admin('POST', '/v1/tenants', { name, currency, locale: 'zh' });
  return { id: tenant.id, base: `/v1/tenants/${tenant.id}` };
}

export async function invite(tenant, email, role) {
  return (await admin('POST', `${tenant.base}/invitations`, { email, role })).token;
}

/** Opens the console in a fresh profile. */
export async function openConsole(browser, hash, { viewport = DESKTOP, ...options } = {}) {
  const phone = viewport === PHONE;
  const context = await browser.newContext({ viewport, isMobile: phone, hasTouch: phone, locale: 'en-US', colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const visitor = new Visitor(page, context);
  await page.goto(consoleUrl(hash));
  await page.locator('h1').waitFor();
  return visitor;
}

export class Visitor extends Chat {
  // Chromium reports every refusal as an error of the console, and refusals are tested.
  networkIsCut = true;

  field(label) {
    return this.page.getByLabel(label, { exact: true });
  }
  press(name) {
    return this.page.getByRole('button', { name, exact: true }).click();
  }
  tab(name) {
    return this.page.locator('nav.tabs').getByText(name, { exact: true }).click();
  }
  tabs() {
    return this.page.locator('nav.tabs a').allInnerTexts();
  }
  heading(name) {
    return this.page.getByRole('heading', { level: 1, name }).waitFor();
  }
  dialog() {
    return this.page.locator('dialog[open]');
  }
  async accept(name, password = PASSWORD) {
    await this.field('Your name').fill(name);
    await this.field('Password').fill(password);
    await this.press('Join');
  }
  async signIn(email, password = PASSWORD) {
    await this.field('E-mail address').fill(email);
    await this.field('Password').fill(password);
    await this.press('Sign in');
  }
  async signOut() {
    await this.tab('My account');
    await this.press('Sign out');
    await this.heading('Sign in');
  }
  /** What the page itself gets from the server with its cookie. */
  status(path) {
    return this.page.evaluate(async (asked) => (await fetch(asked)).status, path);
  }
}

/** The code of an authenticator app, `steps` of 30 seconds from now. */
export async function totp(secret, steps = 0) {
  // Not at the end of a step, where the code could be another when it arrives; a timer may ring a little early.
  const intoStep = (Date.now() / 1000) % 30;
  if (intoStep > 22) await new Promise((resolve) => setTimeout(resolve, (30 - intoStep) * 1000 + 100));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const hash = createHmac('sha1', base32(secret)).update(counter).digest();
  const at = hash[19] & 15;
  return String((hash.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

function base32(text) {
  const bits = [...text].map((letter) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0')).join('');
  return Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
}

/** All of a page of the console is there, and nothing moves any more. */
export async function complete(page) {
  await still(page);
  await page.locator('main').getByText(/^(Loading…|正在加载…)$/).first().waitFor({ state: 'detached' });
  await still(page);
}

/** The page did nothing that it must not. */
export async function close(visitor) {
  assert.deepEqual(visitor.complaints, []);
  await visitor.close();
}
