// One Chromium for a test file, and pages that take note of everything a page must not do.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { baseUrl } from './platform.mjs';

const ARGUMENTS =
  '--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic';
export const DESKTOP = { width: 1200, height: 800 };
export const PHONE = { width: 390, height: 844 };
/** A local model on a busy machine takes its time; an echo does not. */
export const PATIENCE_MS = Number(process.env.QUDAO_E2E_PATIENCE_MS ?? 30_000);

export function launch(more = []) {
  return chromium.launch({
    executablePath: process.env.QUDAO_CHROMIUM ?? '/usr/bin/chromium',
    args: [...ARGUMENTS.split(' '), ...more],
  });
}

/** Nothing begins to move on this page any more: what is appearing is in another place, and has less contrast. */
export async function still(page) {
  await page.emulateMedia({ reducedMotion: 'reduce' });
  // A movement begins with its first picture, and is over with the next.
  for (let frames = 0; frames < 3; frames += 1) await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(drawn)));
}

/** Opens `url` in a fresh profile. `chat.complaints` is what the page did wrong so far. */
export async function openChat(browser, url, { viewport = DESKTOP, before, ...options } = {}) {
  const phone = viewport === PHONE;
  const context = await browser.newContext({ viewport, isMobile: phone, hasTouch: phone, locale: 'en-US', colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const chat = new Chat(page, context);
  await before?.(page, context);
  await page.goto(url);
  await page.locator('textarea').waitFor();
  return chat;
}

export class Chat {
  complaints = [];
  /** Set while the test itself cuts the network, which Chromium reports on the console. */
  networkIsCut = false;

  constructor(page, context) {
    this.page = page;
    this.context = context;
    page.on('console', (message) => {
      const expected = this.networkIsCut && /ERR_|Failed to load|WebSocket connection/.test(message.text());
      if (['error', 'warning'].includes(message.type()) && !expected) this.complaints.push(message.text());
    });
    page.on('pageerror', (error) => this.complaints.push(`uncaught: ${error.message}`));
    page.on('dialog', (dialog) => {
      this.complaints.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('request', (request) => {
      if (new URL(request.url()).origin !== new URL(baseUrl).origin) this.complaints.push(`foreign request: ${request.url()}`);
    });
  }

  async say(text) {
    await this.page.locator('textarea').fill(text);
    await this.page.locator('textarea').press('Enter');
  }
  online() {
    return this.page.locator('.header-state.online').waitFor();
  }
  /** Waits until `count` answers are stored, and nothing is being written. */
  async answers(count) {
    const stored = this.page.locator('.entry.assistant[data-key], .entry.notice[data-key]');
    const waiting = this.page.waitForFunction(
      (wanted) =>
        document.querySelectorAll('.entry.assistant[data-key], .entry.notice[data-key]').length >= wanted &&
        !document.querySelector('[data-streaming="true"], [data-test="thinking"]'),
      count,
    );
    await waiting.catch(async (error) => {
      const last = JSON.stringify((await this.entries()).slice(-3));
      const state = await this.page.locator('.header-state').getAttribute('class');
      throw new Error(`${await stored.count()} of ${count} answers, ${state}, at last ${last}`, { cause: error });
    });
    return stored;
  }
  /** What is on the screen, oldest first: who said it, under which key, and the words. */
  entries() {
    return this.page.$$eval('.entry[data-send], .entry.assistant[data-streaming], .entry.notice', (nodes) =>
      nodes.map((node) => ({
        role: node.classList[1],
        key: node.dataset.key ?? null,
        send: node.dataset.send ?? null,
        text: (node.querySelector('.bubble, .md') ?? node).innerText.trim(),
      })),
    );
  }
  token() {
    return this.page.evaluate(() => {
      const name = Object.keys(localStorage).find((key) => /^qudao\.wk_.*\.token$/.test(key));
      return localStorage.getItem(name);
    });
  }
  async setOffline(offline) {
    if (offline) this.networkIsCut = true;
    await this.context.setOffline(offline);
  }
  /** `whole` takes what is below the fold, too. */
  async screenshot(name, whole = false) {
    const folder = process.env.QUDAO_SCREENSHOTS;
    if (!folder) return;
    mkdirSync(folder, { recursive: true });
    await this.page.waitForTimeout(300);
    await this.page.screenshot({ path: join(folder, `${name}.png`), fullPage: whole });
  }
  close() {
    return this.context.close();
  }
}
