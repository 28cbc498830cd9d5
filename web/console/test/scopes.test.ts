import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { expand, may, pagesFor, SCOPES } from '../src/scopes';
import { WORDS } from '../src/words';

const read = (path: string): string => readFileSync(`../../${path}`, 'utf8');

describe('scopes', () => {
  it('are those of the server', () => {
    const table = /scopes! \{([\s\S]*?)\n\}/.exec(read('crates/qudao-domain/src/access.rs'))?.[1] ?? '';
    const server = [...table.matchAll(/= "([a-z:]+)";/g)].map((match) => match[1]);
    expect([...SCOPES].sort()).toEqual(server.sort());
  });

  it('each have a name in both languages', () => {
    for (const words of Object.values(WORDS)) expect(Object.keys(words.scopes).sort()).toEqual([...SCOPES].sort());
  });

  it('are all but chat for whoever administers', () => {
    expect(expand(['admin'])).toEqual(SCOPES.filter((scope) => scope !== 'chat'));
    expect(expand(['admin', 'chat'])).toEqual(SCOPES);
    expect(expand(['chat', 'of a later version'])).toEqual(['chat']);
    expect(may(['admin'], 'chat')).toBe(false);
    expect(may(['admin'], 'keys:write')).toBe(true);
  });

  it('open the pages that can be used with them', () => {
    expect(pagesFor(['admin', 'chat'])).toEqual(['home', 'channels', 'routes', 'contacts', 'ratings', 'members', 'keys', 'audit', 'account']);
    expect(pagesFor(['tenant:read', 'assistants:read', 'channels:read'])).toEqual(['home', 'channels', 'routes', 'account']);
    expect(pagesFor(['conversations:read', 'contacts:write'])).toEqual(['home', 'ratings', 'account']);
    expect(pagesFor(['keys:read'])).toEqual(['home', 'keys', 'account']);
    expect(pagesFor(['members:write'])).toEqual(['home', 'account']);
    expect(pagesFor([])).toEqual(['home', 'account']);
  });
});
