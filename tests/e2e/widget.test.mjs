// The widget on a page of another site: a person talks, leaves, comes back; the page around does its worst.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch, PHONE, still } from './browser.mjs';
import { HostSite, Visit } from './host.mjs';
import { admin, baseUrl, openEchoChannel } from './platform.mjs';
import { Stranger } from './stranger.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const CORPUS = JSON.parse(readFileSync(new URL('corpus.json', import.meta.url), 'utf8'));
const LOCAL_MODEL = process.env.QUDAO_E2E_MODEL ?? 'smollm2-135m-instruct';
const LONG = Array.from({ length: 120 }, (_, index) => `word${index}`).join(' ');

let browser;
let site;
let other;
let stranger;
/** What most tests talk to. */
let shop;
before(async () => {
  stranger = await Stranger.listen();
  browser = await launch(stranger.browserArguments);
  [site, other] = [await HostSite.listen(), await HostSite.listen()];
  shop = await channel({ quick_replies: ['Where is my order?', 'I want to send something back'], uploads: true });
});
after(async () => {
  await browser?.close();
  for (const one of [site, other, stranger]) one?.close();
});

function channel(settings, wishes = {}) {
  const names = { assistant: 'Lumi', greeting: 'Hello! What can I light up for you?', ...wishes.names };
  return openEchoChannel({ ...wishes, names, settings: { origins: [site.origin], ...settings } });
}

function visit(key = shop.key, query = {}, options = {}) {
  return Visit.to(browser, site.url({ key, ...query }), options);
}

async function violations(page) {
  await still(page);
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
  );
  return found.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`);
}

test('a person talks with the local model on a page of another site, and finds it all after a reload', async () => {
  const local = await channel({ color: '#7a3cff', launcher: 'Ask Lumi' }, { model: LOCAL_MODEL });
  const chat = await visit(local.key);
  chat.page.setDefaultTimeout(180_000);
  await chat.launcher.waitFor();
  await chat.screenshot('widget-closed-desktop');
  assert.deepEqual(await chat.stored(), [], 'nothing is kept of somebody who only looks');
  await chat.open();
  await chat.screenshot('widget-empty-desktop');
  await chat.say('Hello! Which lamp is good for reading? Answer in one sentence.');
  await chat.answers(1);
  const said = await chat.texts();
  assert.equal(said.length, 2);
  assert.ok(said[1].length > 0);
  await chat.screenshot('widget-talk-desktop');
  await chat.page.reload();
  await chat.open();
  await chat.answers(1);
  assert.deepEqual(await chat.texts(), said);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a customer of the site is one person on two devices, and whoever comes next is another', async () => {
  const secret = 'a secret that only the shop knows, long';
  const own = await channel({}, { secrets: { site_secret: secret } });
  const sign = (sub) => {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const exp = Math.floor(Date.now() / 1000) + 600;
    const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub, aud: own.key, exp, name: sub })}`;
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  };
  const people = async () => {
    const { data } = await admin('GET', `${own.base}/contacts`);
    return data.filter((contact) => !contact.merged_into).length;
  };
  const [desk, phone] = [await visit(own.key), await visit(own.key, {}, { viewport: PHONE })];
  for (const chat of [desk, phone]) {
    await chat.launcher.waitFor();
    // Said before the chat is open, shown when it is.
    await chat.page.evaluate((token) => void (window.known = Qudao.identify(() => token)), sign('ann'));
    assert.deepEqual(await chat.stored(), []);
    await chat.open();
    await chat.page.evaluate(() => window.known);
    await chat.say('Hello');
    await chat.answers(1);
  }
  assert.equal(await people(), 1);
  // Bob signs in where Ann was: he does not see what she said.
  await desk.page.evaluate((token) => Qudao.identify(token), sign('bob'));
  await desk.online();
  assert.deepEqual(await desk.texts(), []);
  await desk.say('I am Bob');
  await desk.answers(1);
  assert.equal(await people(), 2);
  await desk.page.evaluate(() => Qudao.signOut());
  await desk.online();
  assert.deepEqual(await desk.texts(), []);
  const refused = await desk.page.evaluate((token) => Qudao.identify(token).catch((error) => error.message), `${sign('eve')}x`);
  assert.match(refused, /not signed/);
  assert.equal(await people(), 2);
  await desk.close();
  await phone.close();
});

test('a page of a site that is not listed gets no token and shows no widget', async () => {
  const chat = await Visit.to(browser, other.url({ key: shop.key }));
  chat.networkIsCut = true;
  const answer = await chat.page.waitForResponse((response) => response.url().endsWith('/token'), { timeout: 5000 }).catch(() => null);
  const warned = await chat.page.waitForEvent('console', { predicate: (line) => line.text().startsWith('Qudao:'), timeout: 5000 }).catch(() => null);
  assert.ok(warned === null || /listed under "origins"/.test(warned.text()));
  await chat.page.waitForTimeout(500);
  assert.equal(await chat.page.locator('qudao-widget button').count(), 0);
  assert.deepEqual(await chat.stored(), []);
  assert.equal(answer?.headers()['access-control-allow-origin'], undefined);
  // Asked as a program would: the very words.
  const refused = await fetch(`${baseUrl}/v1/widget/${shop.key}/token`, {
    method: 'POST', headers: { origin: other.origin, 'content-type': 'application/json' }, body: '{}',
  });
  assert.equal(refused.status, 403);
  assert.match((await refused.json()).detail, new RegExp(`add \`${other.origin}\` to \`origins\``));
  await chat.close();
});

test('words that are written offline are sent once when the line is back', async () => {
  const chat = await visit();
  await chat.open();
  await chat.say('before');
  await chat.answers(1);
  await chat.setOffline(true);
  await chat.page.locator('.header-state.offline').waitFor();
  await chat.say('offline one');
  await chat.say('offline two');
  await chat.page.locator('.entry.queued').nth(1).waitFor();
  await chat.setOffline(false);
  await chat.online();
  await chat.page.waitForFunction(() => {
    const root = document.querySelector('qudao-widget').shadowRoot;
    return root.querySelectorAll('.entry.user[data-send="sent"]').length === 3;
  });
  await chat.answers(2);
  const entries = await chat.entries();
  assert.deepEqual(entries.filter((entry) => entry.role === 'user').map((entry) => entry.text), ['before', 'offline one', 'offline two']);
  assert.equal(new Set(entries.map((entry) => entry.key)).size, entries.length);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a line that is cut in mid-answer and a reload in mid-answer lose no word', async () => {
  const chat = await visit();
  await chat.open();
  await chat.say(LONG);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.setOffline(true);
  await chat.page.locator('.header-state.offline').waitFor();
  await chat.setOffline(false);
  await chat.answers(1);
  await chat.say(`again ${LONG}`);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.page.reload();
  await chat.open();
  await chat.answers(2);
  assert.deepEqual(await chat.texts(), [LONG, LONG, `again ${LONG}`, `again ${LONG}`]);
  await chat.close();
});

test('a token that is refused is exchanged for another, and the visitor stays who they are', async () => {
  let given = 0;
  const visitors = new Set();
  const chat = await visit(shop.key, {}, {
    before: (page) => page.route('**/token', async (route) => {
      const answer = await route.fetch();
      const body = await answer.json();
      visitors.add(body.visitor);
      given += 1;
      return route.fulfill({ response: answer, json: given === 1 ? { ...body, token: 'qw_AAAA' } : body });
    }),
  });
  await chat.open();
  await chat.say('still me');
  await chat.answers(1);
  assert.equal(visitors.size, 1);
  assert.ok(given >= 2, `${given} tokens`);
  assert.deepEqual(await chat.texts(), ['still me', 'still me']);
  await chat.close();
});

test('where sockets are blocked, events and POST do the same work across origins', async () => {
  const chat = await visit(shop.key, {}, { before: (page) => page.routeWebSocket('**/socket', (socket) => socket.close({ code: 1011 })) });
  chat.networkIsCut = true;
  await chat.open();
  await chat.say('over events');
  await chat.answers(1);
  assert.deepEqual(await chat.texts(), ['over events', 'over events']);
  await chat.close();
});

test('the page hears what happens, and a closed widget counts what came', async () => {
  const chat = await visit(shop.key, {}, {
    before: (page) => page.addInitScript(() => {
      window.heard = [];
      for (const kind of ['ready', 'open', 'close', 'message', 'unread']) {
        addEventListener(`qudao:${kind}`, ({ detail }) => window.heard.push([kind, detail?.role ?? detail?.count ?? null]));
      }
    }),
  });
  await chat.launcher.waitFor();
  await chat.page.evaluate(() => {
    window.direct = [];
    Qudao.on('open', () => window.direct.push('open'));
    Qudao.open();
  });
  await chat.online();
  await chat.say(LONG);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.page.evaluate(() => Qudao.close());
  await chat.page.locator('.unread', { hasText: '1' }).waitFor();
  assert.match(await chat.launcher.getAttribute('aria-label'), /1 new/);
  await chat.screenshot('widget-unread-desktop');
  // The count outlasts the page.
  await chat.page.reload();
  await chat.page.locator('.unread', { hasText: '1' }).waitFor();
  await chat.page.evaluate(() => Qudao.open());
  await chat.panel.waitFor();
  assert.equal(await chat.page.locator('.unread').count(), 0);
  await chat.answers(1);
  await chat.page.evaluate(() => Qudao.close());
  await chat.page.reload();
  await chat.launcher.waitFor();
  await chat.page.waitForTimeout(1000);
  assert.equal(await chat.page.locator('.unread').count(), 0, 'what was read stays read');
  assert.deepEqual(chat.complaints, []);
  await chat.close();

  const told = await visit(shop.key, {}, {
    before: (page) => page.addInitScript(() => {
      window.heard = [];
      for (const kind of ['ready', 'open', 'close', 'message', 'unread']) {
        addEventListener(`qudao:${kind}`, ({ detail }) => window.heard.push([kind, detail?.role ?? detail?.count ?? null]));
      }
    }),
  });
  await told.open();
  await told.say('hello');
  await told.answers(1);
  await told.page.evaluate(() => Qudao.close());
  assert.deepEqual(await told.page.evaluate(() => window.heard), [['ready', null], ['open', null], ['message', 'user'], ['message', 'assistant'], ['close', null]]);
  await told.close();
});

test('quick replies, buttons of an answer and a file are a press each', async () => {
  const chat = await visit(shop.key, {}, {
    before: (page) => page.routeWebSocket('**/socket', (socket) => {
      const server = socket.connectToServer();
      socket.onMessage((data) => server.send(data));
      server.onMessage((data) => {
        const frame = JSON.parse(data);
        if (frame.type === 'message' && frame.text === 'Where is my order?' && frame.role === 'assistant') {
          const items = [
            { id: 'a', label: 'Track it', kind: 'url', url: 'https://track.example/17' },
            { id: 'b', label: 'Bad', kind: 'url', url: 'javascript:window.pwned=1' },
            { id: 'c', label: 'Ask again', kind: 'postback', value: 'Once more, please' },
          ];
          frame.parts = [{ type: 'text', format: 'markdown', text: 'It is **on its way**.' }, { type: 'buttons', fallback_text: '', items }];
        }
        socket.send(JSON.stringify(frame));
      });
    }),
  });
  await chat.open();
  await chat.page.getByRole('button', { name: 'Where is my order?' }).click();
  await chat.answers(1);
  const track = chat.page.locator('a.press', { hasText: 'Track it' });
  assert.deepEqual([await track.getAttribute('href'), await track.getAttribute('rel')], ['https://track.example/17', 'noopener noreferrer nofollow']);
  assert.equal(await chat.page.locator('.press.dead', { hasText: 'Bad' }).count(), 1);
  await chat.page.getByRole('button', { name: 'Ask again' }).click();
  await chat.answers(2);
  assert.equal((await chat.texts()).at(-1), 'Once more, please');

  const file = { name: 'order 17.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.7\n1 0 obj\n') };
  await chat.page.locator('input.chooser').setInputFiles(file);
  await chat.page.locator('.file-name', { hasText: 'order 17.pdf' }).waitFor();
  await chat.answers(3);
  assert.match((await chat.texts()).at(-1), /file: order 17\.pdf/, 'the model read words for it');
  await chat.page.locator('input.chooser').setInputFiles({ name: 'virus.png', mimeType: 'image/png', buffer: Buffer.from('MZ\x90\0') });
  await chat.page.locator('.upload-state', { hasText: 'This kind of file' }).waitFor();
  await chat.page.locator('input.chooser').setInputFiles(new URL('photos/cat.jpg', import.meta.url).pathname);
  const picture = chat.page.locator('.entry.user .picture img');
  await picture.waitFor();
  assert.deepEqual(await picture.evaluate(async (node) => (await node.decode(), [node.naturalWidth, node.naturalHeight])), [451, 300]);
  await chat.answers(4);
  await chat.page.locator('.rating button', { hasText: 'Yes' }).click();
  await chat.page.locator('.rating button[aria-pressed="true"]', { hasText: 'Yes' }).waitFor();
  await chat.page.locator('.rating button', { hasText: 'No' }).click();
  await chat.page.locator('.rating button[aria-pressed="true"]', { hasText: 'No' }).waitFor();
  const [saved] = await Promise.all([chat.page.waitForEvent('download'), chat.page.getByRole('button', { name: 'Save the conversation' }).click()]);
  assert.match(readFileSync(await saved.path(), 'utf8'), /· Lumi\nWhere is my order\?/);
  await chat.screenshot('widget-parts-desktop');
  const own = chat.complaints.filter((complaint) => !/415/.test(complaint));
  assert.deepEqual(own, []);
  await chat.close();
});

test('no style of the page reaches into the widget', async () => {
  const look = (chat) =>
    chat.page.$eval('qudao-widget', (element) => {
      const root = element.shadowRoot;
      return ['.launcher', '.panel', '.top h2', 'textarea', '.round.send', '.welcome h2', '.chips button'].map((selector) => {
        const node = root.querySelector(selector);
        const style = getComputedStyle(node);
        const box = node.getBoundingClientRect();
        return [selector, style.display, style.color, style.fontSize, style.fontFamily, style.visibility, style.opacity, Math.round(box.width), Math.round(box.height), Math.round(box.right), Math.round(box.bottom)].join(' ');
      });
    });
  const calm = { reducedMotion: 'reduce' };
  const plain = await visit(shop.key, {}, calm);
  await plain.open();
  await still(plain.page);
  const hostile = await visit(shop.key, { style: 'hostile' }, calm);
  await hostile.open();
  await still(hostile.page);
  assert.deepEqual(await look(hostile), await look(plain));
  await hostile.say('can you read me?');
  await hostile.answers(1);
  await hostile.screenshot('widget-hostile-css-desktop');
  const outside = await plain.page.evaluate(() => getComputedStyle(document.querySelector('h1')).fontFamily);
  assert.equal(outside, 'sans-serif', 'nor does the widget reach out');
  for (const chat of [plain, hostile]) {
    assert.deepEqual(chat.complaints, []);
    await chat.close();
  }
});

test('hostile words of a model run no script and ask no stranger on somebody else\'s page', async () => {
  const fast = await channel({}, { model: 'echo-fast' });
  const chat = await visit(fast.key);
  await chat.open();
  const payloads = CORPUS.filter((_, index) => index % 4 === 0);
  for (const [index, payload] of payloads.entries()) {
    await chat.say(`begin${index}\n\n${stranger.meant(payload.text)}\n\nend${index}`);
    await chat.answers(index + 1);
  }
  const harm = () =>
    chat.page.$eval('qudao-widget', (element) => {
      const allowed = 'P H3 H4 H5 H6 DIV SPAN BUTTON PRE CODE EM STRONG S A BLOCKQUOTE BR HR UL OL LI TABLE THEAD TBODY TR TH TD'.split(' ');
      const attributes = 'class href target rel tabindex type start'.split(' ');
      const found = [];
      for (const node of element.shadowRoot.querySelectorAll('.md *')) {
        const odd = [...node.attributes].filter(({ name }) => !attributes.includes(name));
        if (!allowed.includes(node.tagName) || odd.length > 0) found.push(node.outerHTML.slice(0, 200));
      }
      for (const node of element.shadowRoot.querySelectorAll('.bubble *')) found.push(node.outerHTML.slice(0, 200));
      for (const node of element.shadowRoot.querySelectorAll('.md a[href]')) {
        const kept = [new URL(node.href).protocol, node.rel, node.target].join(' ');
        if (!/^(https?|mailto): noopener noreferrer nofollow _blank$/.test(kept)) found.push(kept);
      }
      if (document.querySelectorAll('iframe, object, embed, base, img, video').length > 0) found.push('an element of the page');
      return found;
    });
  assert.deepEqual(await harm(), []);
  await chat.page.reload();
  await chat.open();
  await chat.answers(payloads.length);
  assert.deepEqual(await harm(), []);
  assert.deepEqual(chat.complaints, []);
  assert.equal(stranger.connections, 0);
  console.log(`# ${payloads.length} payloads on a page of another site`);
  await chat.close();
});

test('the keyboard alone opens it, talks, goes round, and comes back', async () => {
  const chat = await visit();
  await chat.launcher.waitFor();
  await chat.page.keyboard.press('Tab');
  await chat.page.keyboard.press('Tab');
  assert.match(await chat.focused(), /^button\.launcher/);
  await chat.page.keyboard.press('Enter');
  await chat.panel.waitFor();
  await chat.online();
  assert.match(await chat.focused(), /^textarea/);
  assert.equal(await chat.panel.getAttribute('role'), 'dialog');
  await chat.page.keyboard.type('by hand');
  await chat.page.keyboard.press('Enter');
  await chat.answers(1);
  const seen = new Set();
  for (let step = 0; step < 25; step += 1) {
    await chat.page.keyboard.press('Tab');
    seen.add(await chat.focused());
    assert.ok(await chat.page.evaluate(() => document.activeElement?.tagName === 'QUDAO-WIDGET'), 'Tab left the dialog');
  }
  assert.ok(![...seen].some((node) => node.startsWith('button.launcher')), 'the dialog is all that Tab reaches');
  for (const wanted of ['textarea', 'button.tool', 'button.copy', 'div.log']) {
    assert.ok([...seen].some((node) => node.startsWith(wanted)), `${wanted} of ${[...seen].join(', ')}`);
  }
  await chat.page.keyboard.press('Shift+Tab');
  await chat.page.keyboard.press('Escape');
  await chat.panel.waitFor({ state: 'detached' });
  assert.match(await chat.focused(), /^button\.launcher/);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

for (const [name, settings, query, options] of [
  ['light', { color: '#ffd400', launcher: 'Help' }, {}, {}],
  ['dark', { theme: 'dark', color: '#204080' }, {}, {}],
  ['dark-zh-phone', { quick_replies: ['我的订单在哪里？'], title: '小灯', intro: '' }, { lang: 'zh-CN' }, { viewport: PHONE, colorScheme: 'dark', locale: 'zh-CN' }],
  ['rtl', { language: 'ar', title: 'متجر المصابيح', launcher: 'تحدث معنا', quick_replies: ['أين طلبي؟'] }, { lang: 'ar', direction: 'rtl' }, {}],
  ['rtl-phone', { language: 'he', title: 'חנות מנורות', quick_replies: ['איפה ההזמנה שלי?'] }, { lang: 'he', direction: 'rtl' }, { viewport: PHONE }],
]) {
  test(`axe finds nothing, and nothing sticks out (${name})`, async () => {
    const made = await channel({ uploads: true, ...settings });
    const chat = await visit(made.key, query, options);
    await chat.launcher.waitFor();
    assert.deepEqual(await violations(chat.page), []);
    await chat.open();
    assert.deepEqual(await violations(chat.page), []);
    await chat.screenshot(`widget-empty-${name}`);
    await chat.say(name.startsWith('rtl') ? 'مرحبا، أين طلبي رقم 17؟' : '# Title\n\nSome **bold** words, `code`, a [link](https://example.com).\n\n- one\n- two\n\n> a quote');
    await chat.answers(1);
    assert.deepEqual(await violations(chat.page), []);
    const { wide, view, sides } = await chat.page.$eval('qudao-widget', (element) => {
      const root = element.shadowRoot;
      const box = (selector) => root.querySelector(selector).getBoundingClientRect();
      const boxes = [...root.querySelectorAll('.panel *')].filter((node) => node.getClientRects().length > 0 && !node.closest('.sr-only, pre, .md-table')).map((node) => node.getBoundingClientRect());
      return {
        wide: [Math.min(...boxes.map((one) => one.left)), Math.max(...boxes.map((one) => one.right))],
        view: [box('.panel').left, box('.panel').right],
        sides: { user: box('.bubble').left - box('.panel').left, reply: box('.reply > .md').left - box('.panel').left },
      };
    });
    assert.ok(view[0] <= wide[0] && wide[1] <= view[1], `${wide} in ${view}`);
    assert.equal(sides.user < sides.reply, name.startsWith('rtl'), JSON.stringify(sides));
    await chat.screenshot(`widget-talk-${name}`);
    assert.deepEqual(chat.complaints, []);
    await chat.close();
  });
}

test('whoever wants less motion gets none', async () => {
  const chat = await visit(shop.key, {}, { reducedMotion: 'reduce' });
  await chat.open();
  const lasts = await chat.page.$eval('qudao-widget', (element) => getComputedStyle(element.shadowRoot.querySelector('.panel')).animationDuration);
  assert.ok(Number.parseFloat(lasts) < 0.001, lasts);
  await chat.close();
});

test('without the disclosure the widget does not say it, and with it says so before the first word', async () => {
  const silent = await channel({ ai_disclosure: false, csat: false, transcript: false });
  const chat = await visit(silent.key);
  await chat.open();
  assert.doesNotMatch(await chat.panel.innerText(), /\bAI\b/);
  await chat.say('hi');
  await chat.answers(1);
  assert.equal(await chat.page.locator('.rating').count(), 0);
  assert.equal(await chat.page.getByRole('button', { name: 'Save the conversation' }).count(), 0);
  await chat.close();
  const honest = await visit();
  await honest.open();
  assert.match(await honest.page.locator('.welcome').innerText(), /You are talking with an AI assistant/);
  await honest.close();
});
