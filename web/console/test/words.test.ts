import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Refusal } from '../src/api';
import { matches } from '../src/audit';
import { expiresAt, keyState, readNetworks } from '../src/keys';
import type { ApiKey } from '../src/protocol';
import { money } from '../src/ui/Home';
import { detailWords, fieldWords, fill, refusalWords, roleName, WORDS } from '../src/words';

const { en, zh } = WORDS;
const openapi = readFileSync('../../docs/openapi.json', 'utf8');

function leaves(value: unknown, path: string): string[] {
  if (typeof value !== 'object' || value === null || value instanceof RegExp) return [path];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${path}.${key}`));
}

describe('words', () => {
  it('are complete in both languages', () => {
    const shape = (words: typeof en): string[] => leaves({ ...words, details: null }, '').sort();
    expect(shape(zh)).toEqual(shape(en));
    const holes = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort();
    const texts = (words: typeof en): string[] => JSON.stringify({ ...words, details: null }).split('","');
    texts(en).forEach((text, at) => expect(holes(texts(zh)[at] ?? ''), text).toEqual(holes(text)));
  });

  it('name every reason that the server has for not signing somebody in', () => {
    const about = JSON.parse(openapi).paths['/v1/oidc/callback'].get.description as string;
    const codes = [...about.slice(about.indexOf('The code is one of')).matchAll(/`([a-z_]+)`/g)].map((match) => match[1]);
    expect(codes.length).toBe(11);
    for (const words of [en, zh]) expect(Object.keys(words.failures).sort()).toEqual(codes.sort());
  });

  it('name every act of the audit log of a tenant', () => {
    const acts = [...openapi.matchAll(/audit log as `([a-z_.]+)`/g)].map((match) => match[1]!);
    expect(acts.length).toBeGreaterThan(15);
    for (const act of acts.filter((name) => !name.startsWith('plugin.'))) expect(en.actions[act], act).toBeDefined();
  });

  it('are filled, and what is unknown stays', () => {
    expect(fill('由 {name} 发出', { name: '梅' })).toBe('由梅发出');
    expect(fill('由 {name} 发出', { name: 'Mei' })).toBe('由 Mei 发出');
    expect(fill('by {name}, {x}', { name: '$& {x}' })).toBe('by $& {x}, {x}');
  });
});

describe('a refusal', () => {
  it('is said in the words of the server, as a sentence', () => {
    const refusal = new Refusal(409, 'conflict', 'this is the last owner; make somebody else an owner first');
    expect(refusalWords(en, refusal)).toBe('This is the last owner; make somebody else an owner first');
    expect(refusalWords(zh, refusal)).toBe('这是最后一位所有者，请先指定另一位所有者');
  });

  it('has words of the page before words that the page does not know', () => {
    expect(refusalWords(zh, new Refusal(409, 'conflict', 'something new'))).toBe('这与目前的情况冲突。 (Something new)');
    expect(refusalWords(zh, new Refusal(418, 'teapot', ''))).toBe(zh.errors.other);
  });

  it('says when to try again', () => {
    expect(refusalWords(en, new Refusal(429, 'rate_limited', 'x', [], 7))).toBe('Too many attempts. Try again in 7 s.');
    expect(refusalWords(zh, new Refusal(429, 'rate_limited', 'x', [], 125))).toBe('尝试次数过多，请 3 分钟后再试。');
  });

  it('tells nothing of what went wrong inside', () => {
    expect(refusalWords(en, new Refusal(500, 'internal', 'a stack trace'))).toBe(en.errors.other);
    expect(refusalWords(en, new Refusal(0, 'offline', ''))).toBe(en.errors.offline);
  });

  it('stands by its field, and by the field that holds it', () => {
    const refusal = new Refusal(422, 'validation_failed', '', [
      { pointer: '/password', detail: 'has to have at least 10 characters' },
      { pointer: '/allowed_networks/1', detail: 'has to be a network such as 203.0.113.0/24 or 2001:db8::/32' },
    ]);
    expect(fieldWords(en, refusal, '/password')).toBe('Has to have at least 10 characters');
    expect(fieldWords(zh, refusal, '/password')).toBe('至少需要 10 个字符');
    expect(fieldWords(zh, refusal, '/allowed_networks')).toContain('203.0.113.0/24');
    expect(fieldWords(en, refusal, '/pass')).toBe('');
    expect(fieldWords(en, null, '/password')).toBe('');
    expect(detailWords(zh, '')).toBe('');
  });
});

describe('what is shown', () => {
  it('never sends money through a float', () => {
    expect(money('1234567.100000', 'USD', 'en')).toBe('1,234,567.10 USD');
    expect(money('0.000001', 'CNY', 'zh')).toBe('¥0.000001');
    expect(money('-12', 'CNY', 'zh')).toBe('¥-12.00');
    expect(money('90071992547409.910001', 'USD', 'en')).toBe('90,071,992,547,409.910001 USD');
  });

  it('finds every word that was typed, in any order', () => {
    expect(matches('Ann made an API key', 'KEY ann')).toBe(true);
    expect(matches('Ann made an API key', 'key bob')).toBe(false);
    expect(matches('anything', '')).toBe(true);
  });

  it('knows the states of a key', () => {
    const key = { revoked_at: null, expires_at: null } as ApiKey;
    expect(keyState(key, 0)).toBe('works');
    expect(keyState({ ...key, expires_at: '1970-01-01T00:00:01Z' }, 999)).toBe('works');
    expect(keyState({ ...key, expires_at: '1970-01-01T00:00:01Z' }, 1000)).toBe('expired');
    expect(keyState({ ...key, expires_at: '1970-01-01T00:00:01Z', revoked_at: '1970-01-01T00:00:00Z' }, 9999)).toBe('revoked');
    expect(expiresAt('never', 0)).toBeNull();
    expect(expiresAt('d30', 0)).toBe('1970-01-31T00:00:00.000Z');
    expect(readNetworks(' 10.0.0.0/8\n\n::1, 192.0.2.1 ')).toEqual(['10.0.0.0/8', '::1', '192.0.2.1']);
  });

  it('calls roles by their names', () => {
    expect(roleName(zh, 'owner', [])).toBe('所有者');
    expect(roleName(en, 'rol_1', [{ id: 'rol_1', name: 'Night shift', custom: true }])).toBe('Night shift');
    expect(roleName(en, 'rol_2', [])).toBe('rol_2');
  });
});
