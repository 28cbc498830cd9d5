// Bad networks: whatever happens to the line, a message is neither lost nor doubled.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, openChat } from './browser.mjs';
import { openEchoChat, storedMessages } from './platform.mjs';

let browser;
let chatUrl;

before(async () => {
  ({ chatUrl } = await openEchoChat());
  browser = await launch();
});
after(() => browser?.close());

const LONG = Array.from({ length: 160 }, (_, index) => `word${index}`).join(' ');

/** The screen and the store hold the same messages, each once. */
async function assertWhole(chat, questions) {
  const stored = await storedMessages(chatUrl, await chat.token());
  assert.deepEqual(stored.filter((message) => message.role === 'user').map((message) => message.text), questions);
  await chat.page.waitForFunction((count) => document.querySelectorAll('.entry[data-key]').length >= count, stored.length);
  const shown = await chat.entries();
  assert.deepEqual(shown.map((entry) => entry.key).sort(), stored.map((message) => message.key).sort());
  for (const message of stored) {
    assert.equal(shown.find((entry) => entry.key === message.key).text, message.text.trim());
  }
}

test('messages written offline are shown, survive a reload of the line, and are sent once', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.say('before');
  await chat.answers(1);
  await chat.setOffline(true);
  await chat.page.locator('.header-state.offline').waitFor();
  await chat.say('while offline one');
  await chat.say('while offline two');
  assert.deepEqual((await chat.entries()).slice(-2).map((entry) => entry.send), ['queued', 'queued']);
  await chat.screenshot('offline-light-en');
  await chat.setOffline(false);
  await chat.online();
  await chat.page.waitForFunction(() => document.querySelectorAll('.entry.user[data-send="sent"]').length === 3);
  await chat.answers(2);
  await assertWhole(chat, ['before', 'while offline one', 'while offline two']);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a message that could not leave before the page was closed leaves when it opens again', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  chat.networkIsCut = true;
  const cut = (route) => route.abort('connectionfailed');
  await chat.setOffline(true);
  await chat.say('kept over a reload');
  await chat.page.locator('[data-send="queued"]').waitFor();
  await chat.page.route('**/v1/web/**', cut);
  await chat.page.routeWebSocket('**/socket', (socket) => socket.close());
  await chat.setOffline(false);
  await chat.page.reload();
  await chat.page.locator('.entry.user', { hasText: 'kept over a reload' }).waitFor();
  const fresh = await chat.context.newPage();
  chat.page.close();
  await fresh.goto(chatUrl);
  const again = Object.assign(Object.create(Object.getPrototypeOf(chat)), chat, { page: fresh });
  await again.answers(1);
  await assertWhole(again, ['kept over a reload']);
  await chat.close();
});

test('a network that is cut in mid-stream costs no word and doubles none', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.say(LONG);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.setOffline(true);
  await chat.page.locator('.header-state.offline').waitFor();
  await chat.page.waitForTimeout(700);
  await chat.setOffline(false);
  await chat.online();
  await chat.answers(1);
  await assertWhole(chat, [LONG]);
  assert.deepEqual(chat.complaints, []);
  await chat.close();
});

test('a reload in mid-stream shows the whole answer', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.say(LONG);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.page.reload();
  await chat.answers(1);
  await assertWhole(chat, [LONG]);
  await chat.close();
});

test('a socket that dies right after a message was sent neither loses nor doubles it', async () => {
  const chat = await openChat(browser, chatUrl, {
    before: async (page) => {
      let cuts = 2;
      await page.routeWebSocket('**/socket', (socket) => {
        const server = socket.connectToServer();
        socket.onMessage((data) => {
          server.send(data);
          // The server has the message; its answer never comes back.
          if (cuts > 0 && String(data).includes('"send"')) {
            cuts -= 1;
            setTimeout(() => socket.close(), 0);
          }
        });
        server.onMessage((data) => {
          if (!(cuts >= 0 && String(data).includes('"accepted"') && cuts > 0)) socket.send(data);
        });
      });
    },
  });
  chat.networkIsCut = true;
  await chat.online();
  await chat.say('once only');
  await chat.page.locator('.entry.user[data-send="sent"]').waitFor();
  await chat.answers(1);
  await assertWhole(chat, ['once only']);
  await chat.close();
});

test('where sockets are blocked, events and POST do the same work', async () => {
  let events;
  const chat = await openChat(browser, chatUrl, {
    before: async (page) => {
      await page.routeWebSocket('**/socket', (socket) => socket.close({ code: 1011 }));
      events = page.waitForRequest((request) => request.url().includes('/events'));
    },
  });
  chat.networkIsCut = true;
  await events;
  await chat.online();
  await chat.say('over events');
  await chat.answers(1);
  await chat.say(LONG);
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.answers(2);
  await assertWhole(chat, ['over events', LONG]);
  await chat.say(`${LONG} `.repeat(5));
  await chat.page.locator('[data-streaming="true"]').waitFor();
  await chat.page.locator('button.stop').click();
  await chat.answers(3);
  assert.ok((await chat.entries()).at(-1).text.length < LONG.length * 5);
  await chat.close();
});

test('two tabs of one visitor show the same conversation', async () => {
  const chat = await openChat(browser, chatUrl);
  await chat.online();
  await chat.say('hello');
  await chat.answers(1);
  const page = await chat.context.newPage();
  await page.goto(chatUrl);
  const twin = Object.assign(Object.create(Object.getPrototypeOf(chat)), chat, { page });
  await twin.answers(1);
  await twin.say('from the other tab');
  await twin.answers(2);
  await chat.answers(2);
  await assertWhole(chat, ['hello', 'from the other tab']);
  await assertWhole(twin, ['hello', 'from the other tab']);
  await chat.close();
});
