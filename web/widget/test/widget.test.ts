import { beforeEach, expect, test, vi } from 'vitest';
import { memoryShelf } from '../../chat/src/outbox';
import type { Entry } from '../../chat/src/timeline';
import { readParts } from '../../chat/src/parts';
import { Host } from '../src/api';
import { colours, contrast, parse } from '../src/colour';
import { WidgetDoor } from '../src/door';
import { News } from '../src/news';
import { Person } from '../src/person';
import { Refusal } from '../../chat/src/transport';
import { forShadow } from '../src/sheet';
import { transcript } from '../src/transcript';
import { tongue } from '../src/words';

type Rgb = [number, number, number];

test('every colour of a tenant can be read, on it and in it', () => {
  for (const chosen of ['#ffffff', '#000000', '#ffee00', '#0b7468', '#ff0000', '#777777', '#00ff88']) {
    for (const theme of ['light', 'dark'] as const) {
      const found = colours(chosen, theme);
      if (!found) throw new Error(chosen);
      const rgb = (text: string): Rgb => parse(text) as Rgb;
      expect(found.brand).toBe(chosen);
      expect(contrast(rgb(found.brand), rgb(found.onBrand))).toBeGreaterThanOrEqual(4.5);
      expect(contrast(rgb(found.accent), rgb(found.onAccent))).toBeGreaterThanOrEqual(4.5);
      const grounds: Rgb[] = theme === 'light' ? [[255, 255, 255], [237, 241, 238]] : [[24, 33, 32], [15, 21, 20]];
      for (const ground of grounds) expect(contrast(rgb(found.accent), ground)).toBeGreaterThanOrEqual(4.5);
    }
  }
  for (const wrong of ['', 'red', '#fff', '#12345g', '#1234567', 'url(x)']) expect(colours(wrong, 'light')).toBeNull();
});

test('the first language that is named decides words and direction', () => {
  expect(tongue(['', undefined, 'zh-CN'], 'auto')).toEqual({ language: 'zh', tag: 'zh-CN', direction: 'ltr' });
  for (const tag of ['ar', 'ar-EG', 'he', 'fa-IR', 'ur']) expect(tongue([tag], 'auto').direction).toBe('rtl');
  for (const tag of ['en', 'far', 'arn', 'zh', 'hei']) expect(tongue([tag], 'auto').direction).toBe('ltr');
  expect(tongue(['ar'], 'ltr').direction).toBe('ltr');
  expect(tongue(['en'], 'rtl').direction).toBe('rtl');
  expect(tongue([], 'auto').tag).toBe('en');
});

test('styles of a page fit a shadow root', () => {
  expect(forShadow(":root{a:1.5rem}:root[data-theme='dark']{b:-.25rem}:root:not([data-theme]){c:.5rem 1rem}")).toBe(
    ":host{a:24px}:host([data-theme='dark']){b:-4px}:host(:not([data-theme])){c:8px 16px}",
  );
});

test('what is new is told once, and what was read before is not counted', () => {
  const entry = (key: string): Entry => ({ id: key, key, role: key.startsWith('o') ? 'assistant' : 'user', text: key, at: '' });
  const shelf = memoryShelf();
  const news = new News(shelf, 'wk');
  expect(news.fresh([entry('i:1')], false)).toEqual([]);
  expect(news.fresh([entry('i:1'), entry('o:1')], true)).toEqual([]);
  expect(news.fresh([entry('i:1'), entry('o:1'), entry('o:2')], false).map((one) => one.key)).toEqual(['o:2']);
  expect(news.fresh([entry('i:1'), entry('o:1'), entry('o:2')], true)).toEqual([]);
  expect(news.unread([entry('o:1'), entry('o:2'), entry('i:2')])).toBe(2);
  news.seen([entry('o:1')]);
  expect(new News(shelf, 'wk').unread([entry('o:1'), entry('o:2')])).toBe(1);
  news.seen([]);
  expect(news.unread([entry('o:1'), entry('o:2')])).toBe(1);
});

test('a listener that throws disturbs no other, and can be taken away', () => {
  vi.useFakeTimers();
  vi.stubGlobal('reportError', () => undefined);
  const host = new Host();
  const heard: number[] = [];
  host.on('unread', () => {
    throw new Error('the page is broken');
  });
  const off = host.on('unread', ({ count }) => heard.push(count));
  addEventListener('qudao:unread', (event) => heard.push((event as CustomEvent<{ count: number }>).detail.count * 10));
  host.tell('unread', { count: 1 });
  off();
  host.tell('unread', { count: 2 });
  expect(heard).toEqual([1, 10, 20]);
  vi.useRealTimers();
});

test('a transcript has what was stored, and who said it', () => {
  const entries: Entry[] = [
    { id: '1', key: 'i:1', role: 'user', text: 'Hi', at: '2026-11-28T10:00:00Z' },
    { id: '2', key: 'o:1', role: 'assistant', text: '**Hello**', at: '2026-11-28T10:00:01Z' },
    { id: '3', role: 'user', text: 'not sent', at: '2026-11-28T10:00:02Z', send: 'queued' },
  ];
  const text = transcript(entries, { you: 'You', assistant: 'Ada' }, 'en');
  expect(text).toMatch(/· You\nHi\n[\s\S]*· Ada\n\*\*Hello\*\*/);
  expect(text).not.toContain('not sent');
});

test('parts that nobody expected become words or nothing', () => {
  expect(readParts('x')).toEqual([]);
  expect(readParts([null, 1, {}, { type: 'hologram' }, { type: 'hologram', fallback_text: 'see page' }])).toEqual([
    { type: 'text', markdown: false, text: 'see page' },
  ]);
  const buttons = { type: 'buttons', items: [{ label: 'Go', kind: 'url', url: 'https://a.example' }, { label: 'Yes', kind: 'postback', value: '' }, 'no'] };
  expect(readParts([buttons])).toEqual([
    { type: 'presses', title: '', text: '', presses: [{ label: 'Go', url: 'https://a.example' }, { label: 'Yes', say: 'Yes' }] },
  ]);
});

const FACE = { title: 'Ada' };
let asked: unknown[] = [];

function answer(visitor: string, token: string): void {
  vi.stubGlobal('fetch', (_: string, init: RequestInit) => {
    const body = JSON.parse(init.body as string) as { visitor?: string };
    asked.push(body);
    const given = { token, expires_in: 900, visitor: body.visitor ?? visitor, channel: { name: 'Shop' }, widget: FACE };
    return Promise.resolve(new Response(JSON.stringify(given)));
  });
}

beforeEach(() => (asked = []));

test('nothing is kept in the browser until the chat is opened', async () => {
  answer('vw_1', 'qw_1');
  const shelf = memoryShelf();
  const door = new WidgetDoor('https://q.example', 'wk', shelf);
  expect(door.base).toBe('https://q.example/v1/widget/wk');
  await door.enter();
  expect([door.token(), door.face, shelf.keys()]).toEqual(['qw_1', FACE, []]);
  door.keep();
  expect(shelf.get('qudao.wk.visitor')).toBe('vw_1');
  expect(new WidgetDoor('https://q.example', 'wk', shelf).returning).toBe(true);
});

test('a token is renewed before it ends, for the same visitor, once for all who ask', async () => {
  let now = 0;
  const door = new WidgetDoor('', 'wk', memoryShelf(), () => now);
  answer('vw_1', 'qw_1');
  await Promise.all([door.enter(), door.enter()]);
  answer('vw_2', 'qw_2');
  await door.enter();
  expect(asked).toEqual([{}]);
  now = 869_000;
  expect(door.token()).toBe('qw_1');
  now = 870_000;
  expect(door.token()).toBeNull();
  await door.enter();
  expect([door.token(), asked[1]]).toEqual(['qw_2', { visitor: 'vw_1' }]);
  expect(door.refused()).toBe(false);
  expect(door.token()).toBeNull();
});

test('of two tabs that open at the same time one visitor remains', async () => {
  const shelf = memoryShelf();
  answer('vw_1', 'qw_1');
  const door = new WidgetDoor('', 'wk', shelf);
  await door.enter();
  shelf.set('qudao.wk.visitor', 'vw_0');
  door.keep();
  expect(door.token()).toBeNull();
  await door.enter();
  expect(asked[1]).toEqual({ visitor: 'vw_0' });
  expect(shelf.get('qudao.wk.visitor')).toBe('vw_0');
});

test('who the visitor is is told when they talk, and another customer begins anew', async () => {
  const shown: string[] = [];
  let left = 0;
  let taken = true;
  const ask = (path: string, init: RequestInit): Promise<Response> => {
    shown.push(`${path} ${String(init.body)}`);
    if (String(init.body).includes('late')) return Promise.reject(new Refusal(401, 'invalid_credentials', 'the token has expired'));
    if (String(init.body).includes('bob') && taken) return Promise.reject(new Refusal(409, 'another_customer', ''));
    return Promise.resolve(new Response(null, { status: 204 }));
  };
  const leave = (): Promise<void> => {
    left += 1;
    taken = false;
    return Promise.resolve();
  };
  const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
  const person = new Person(ask, leave);
  const early = person.identify('early');
  const ann = person.identify(() => Promise.resolve('ann'));
  expect(shown).toEqual([]);
  person.arrive();
  await Promise.all([early, ann]);
  expect(shown).toEqual(['/identify {"token":"ann"}']);
  await person.identify('bob');
  expect([left, shown.length]).toEqual([1, 3]);
  await expect(person.identify('late')).rejects.toThrow('expired');
  expect(warned).toHaveBeenCalledWith(expect.stringContaining('expired'));
  expect(left).toBe(1);
  warned.mockRestore();
  await person.confirmCode('clm_1', '012345');
  expect(shown.at(-1)).toBe('/claims/clm_1/confirm {"code":"012345"}');
});

test('nothing of a visitor stays when they sign out', async () => {
  const shelf = memoryShelf();
  for (const name of ['visitor', 'seen', 'out.1', 'channel']) shelf.set(`qudao.wk.${name}`, 'x');
  shelf.set('qudao.other.visitor', 'y');
  const door = new WidgetDoor('https://q.example', 'wk', shelf);
  door.forget();
  expect(shelf.keys()).toEqual(['qudao.other.visitor']);
});
