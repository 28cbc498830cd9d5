// A person and an assistant talk: the page, the stream, the history, the stop button, both languages.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openChat, PHONE } from './browser.mjs';
import { demoChatUrl, openEchoChat, storedMessages } from './platform.mjs';

let browser;
let chatUrl;

before(async () => {
  ({ chatUrl } = await openEchoChat());
  browser = await launch();
});
after(() => browser?.close());

const LONG = Array.from({ length: 160 }, (_, index) => `word${index}`).join(' ');

test('the page opens without a complaint and says that an AI answers', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  assert.match(await chat.page.locator('.note').innerText(), /AI assistant/);
  assert.equal(await chat.page.locator('.chips button').count(), 3);
  await chat.screenshot('empty-light-en');
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('an unknown address is explained and not a blank page', async () => {
  const context = await browser.newContext({ locale: 'zh-CN' });
  const page = await context.newPage();
  const response = await page.goto(new URL('/chat/wk_0000000000000000000000', chatUrl).href);
  if (response.status() !== 404) await page.locator('.lost h1', { hasText: '无法打开' }).waitFor();
  await context.close();
});

test('a message is answered by a stream whose end equals what is stored', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.page.evaluate(() => {
    window.grown = new Set();
    new MutationObserver(() => {
      const text = document.querySelector('[data-streaming="true"] .md')?.textContent;
      if (text) window.grown.add(text.length);
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  const question = `Please repeat: 你好，世界 😀 — ${LONG}`;
  await chat.say(question);
  await chat.answers(1);
  const [, answer] = await chat.entries();
  const stored = await storedMessages(chatUrl, await chat.token());
  assert.deepEqual(stored.map((message) => message.role), ['user', 'assistant']);
  assert.equal(stored[0].text, question);
  assert.equal(answer.text, stored[1].text);
  assert.equal(answer.key, stored[1].key);
  const growth = await chat.page.evaluate(() => window.grown.size);
  assert.ok(growth > 3, `the answer grew in ${growth} steps`);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a reload brings the history back, once', async () => {
  const chat = await openChat(browser, chatUrl);
  for (const [index, text] of ['first', 'second', 'third'].entries()) {
    await chat.say(text);
    await chat.answers(index + 1);
  }
  const seen = await chat.entries();
  assert.equal(new Set(seen.map((entry) => entry.key)).size, 6);
  await chat.page.reload();
  await chat.answers(3);
  assert.deepEqual(await chat.entries(), seen);
  await chat.page.waitForTimeout(500);
  assert.equal((await chat.entries()).length, 6);
  await chat.close();
});

test('Enter while an input method composes does not send, and Shift+Enter breaks the line', async () => {
  const chat = await openChat(browser, chatUrl);
  const input = chat.page.locator('textarea');
  await input.fill('ni hao');
  await input.evaluate((node) => {
    node.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, isComposing: true }));
    node.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, keyCode: 229 }));
  });
  await input.press('Shift+Enter');
  await input.pressSequentially('x');
  assert.equal(await input.inputValue(), 'ni hao\nx');
  assert.deepEqual(await chat.entries(), []);
  await chat.close();
});

test('stop ends the answer early and keeps what was written', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  const long = `${LONG} `.repeat(5).trim();
  await chat.say(long);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.page.locator('button.stop').click();
  await chat.answers(1);
  const answer = (await chat.entries()).at(-1);
  assert.ok(answer.text.length < long.length, 'the answer came to its end in spite of the stop');
  const stored = await storedMessages(chatUrl, await chat.token());
  assert.equal(answer.text, stored.at(-1).text.trim());
  assert.equal(await chat.page.locator('button.stop').count(), 0);
  await chat.close();
});

test('the language switch changes every word and is remembered', async () => {
  const chat = await openChat(browser, chatUrl, { locale: 'zh-CN', colorScheme: 'dark', viewport: PHONE });
  await chat.online();
  assert.equal(await chat.page.locator('textarea').getAttribute('placeholder'), '输入消息');
  await chat.screenshot('empty-dark-zh-phone');
  await chat.page.locator('[data-test="language"]').click();
  await chat.page.locator('textarea[placeholder="Write a message"]').waitFor();
  assert.equal(await chat.page.locator('html').getAttribute('lang'), 'en');
  const words = await chat.page.locator('.footer, .welcome').allInnerTexts();
  assert.doesNotMatch(words.join(' '), /[\u4e00-\u9fff]/);
  await chat.page.reload();
  await chat.page.locator('textarea[placeholder="Write a message"]').waitFor();
  await chat.close();
});

test('dark and light follow the device, can be switched, and are remembered', async () => {
  const chat = await openChat(browser, chatUrl, { colorScheme: 'dark' });
  const ground = () => chat.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await chat.page.locator('[data-test="theme"]').click();
  await chat.page.waitForFunction((was) => getComputedStyle(document.body).backgroundColor !== was, dark);
  const light = await ground();
  await chat.page.reload();
  await chat.page.locator('textarea').waitFor();
  assert.equal(await ground(), light);
  await chat.close();
});

test('a phone shows everything without scrolling sideways', async () => {
  const chat = await openChat(browser, chatUrl, { viewport: PHONE, locale: 'zh-CN' });
  await chat.say(`# 标题\n\n| 一列很长很长的内容 | 第二列也很长很长的内容 | 第三列 |\n|---|---|---|\n| a | b | c |\n\n\`\`\`\n${'x'.repeat(300)}\n\`\`\`\n\nhttps://example.com/${'y'.repeat(200)}`);
  await chat.answers(1);
  const { wide, view } = await chat.page.evaluate(() => ({
    wide: Math.max(document.documentElement.scrollWidth, document.querySelector('.log').scrollWidth, ...[...document.querySelectorAll('.header *, .composer *')].map((node) => node.getBoundingClientRect().right)),
    view: innerWidth,
  }));
  assert.ok(wide <= view, `${wide} px on a screen of ${view} px`);
  await chat.screenshot('talk-light-zh-phone');
  await chat.close();
});

test('a reader who scrolled up is left in peace and told about news', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.say(LONG.replaceAll(' ', '\n\n'));
  await chat.answers(1);
  await chat.page.locator('.log').evaluate((node) => (node.scrollTop = 0));
  await chat.page.locator('.to-end').waitFor();
  const shownAt = () => chat.page.locator('.log').evaluate((node) => node.scrollTop);
  const twin = await chat.context.newPage();
  await twin.goto(chatUrl);
  await twin.locator('textarea').fill('news');
  await twin.locator('textarea').press('Enter');
  await chat.answers(2);
  assert.equal(await shownAt(), 0);
  await chat.page.locator('.to-end.unseen').click();
  await chat.page.locator('.to-end').waitFor({ state: 'detached' });
  assert.ok((await shownAt()) > 0);
  await chat.close();
});

test('a tenant without credits: the refusal is put into words, and the message is kept', async () => {
  const { chatUrl: poor } = await openEchoChat({ credits: null });
  const chat = await openChat(browser, poor, { locale: 'zh-CN', viewport: PHONE });
  await chat.online();
  await chat.say('有人吗？');
  await chat.page.locator('.failure', { hasText: '您的消息已保留' }).waitFor();
  await chat.screenshot('refused-light-zh-phone');
  await chat.page.reload();
  await chat.page.locator('[data-send="failed"]', { hasText: '有人吗？' }).waitFor();
  await chat.page.locator('.failure button').last().click();
  assert.equal(await chat.page.locator('textarea').inputValue(), '有人吗？');
  assert.deepEqual(await chat.entries(), []);
  await chat.close();
});

test('the demo assistant answers in English and in Chinese', { skip: !demoChatUrl && 'no demo chat page was named' }, async () => {
  for (const [name, locale, colorScheme, question] of [
    ['demo-light-en', 'en-US', 'light', 'Hello! Who are you? Answer in one sentence.'],
    ['demo-dark-zh', 'zh-CN', 'dark', '你好！请用一句话介绍你自己。'],
  ]) {
    const chat = await openChat(browser, demoChatUrl, { locale, colorScheme });
    chat.page.setDefaultTimeout(180_000);
    await chat.say(question);
    await chat.answers(1);
    const [, answer] = await chat.entries();
    assert.equal(answer.role, 'assistant');
    assert.ok(answer.text.length > 0);
    await chat.screenshot(name);
    assert.deepEqual(chat.complaints, []);
    await chat.close();
  }
});
