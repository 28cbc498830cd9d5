// The page for people who do not use a mouse or a screen, checked by axe and by keyboard.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch, openChat, PHONE, still } from './browser.mjs';
import { openEchoChat } from './platform.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ANSWER = '# Title\n\nSome **bold** text with `code` and a [link](https://example.com).\n\n1. one\n2. two\n\n- [x] done\n\n```rust\nfn main() {}\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> a quote';

let browser;
let chatUrl;

before(async () => {
  ({ chatUrl } = await openEchoChat());
  browser = await launch();
});
after(() => browser?.close());

async function violations(chat) {
  await still(chat.page);
  // The policy of the page forbids inline script, so axe comes in through the debugger.
  await chat.page.evaluate(axe);
  const { violations: found } = await chat.page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
  );
  return found.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`);
}

for (const [colorScheme, locale, viewport] of [
  ['light', 'en-US', undefined],
  ['dark', 'zh-CN', PHONE],
]) {
  test(`axe finds nothing on the empty page and in a conversation (${colorScheme}, ${locale})`, async () => {
    const chat = await openChat(browser, chatUrl, { colorScheme, locale, ...(viewport && { viewport }) });
    await chat.online();
    assert.deepEqual(await violations(chat), []);
    await chat.say(ANSWER);
    await chat.answers(1);
    assert.deepEqual(await violations(chat), []);
    await chat.setOffline(true);
    await chat.page.locator('.banner').waitFor();
    await chat.say('later');
    assert.deepEqual(await violations(chat), []);
    await chat.screenshot(`markdown-${colorScheme}`);
    await chat.close();
  });
}

test('a finished answer is announced once, and the history is not', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  const announced = () => chat.page.locator('.log-frame > [aria-live="polite"]').innerText();
  await chat.say('say this aloud');
  await chat.answers(1);
  await chat.page.waitForFunction(() => document.querySelector('.log-frame > [aria-live="polite"]').textContent !== '');
  assert.match(await announced(), /say this aloud/);
  await chat.page.reload();
  await chat.answers(1);
  assert.equal(await announced(), '');
  await chat.close();
});

test('everything can be reached and used by keyboard', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.page.waitForFunction(() => document.activeElement?.tagName === 'TEXTAREA');
  await chat.page.keyboard.type('by keyboard');
  await chat.page.keyboard.press('Enter');
  await chat.answers(1);
  assert.equal(await chat.page.evaluate(() => document.activeElement?.tagName), 'TEXTAREA');
  const names = new Set();
  for (let step = 0; step < 12; step += 1) {
    await chat.page.keyboard.press('Shift+Tab');
    names.add(await chat.page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? ''));
  }
  for (const name of ['Copy answer', 'Conversation', 'Dark colours', '切换到中文']) assert.ok(names.has(name), `${name} is not reached: ${[...names]}`);
  await chat.close();
});
