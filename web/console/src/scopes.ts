/** What somebody may do, and what of the console that opens. */
import { PAGES, type PageName } from './route';

export const SCOPES = [
  'chat',
  'tenant:read',
  'tenant:write',
  'assistants:read',
  'assistants:write',
  'channels:read',
  'channels:write',
  'conversations:read',
  'contacts:read',
  'contacts:write',
  'billing:read',
  'keys:read',
  'keys:write',
  'members:read',
  'members:write',
  'audit:read',
  'tenant:export',
] as const;
export type Scope = (typeof SCOPES)[number];

/** Every scope by its own name: the server writes `admin` for all but `chat`. */
export function expand(words: readonly string[]): Scope[] {
  const admin = words.includes('admin');
  return SCOPES.filter((scope) => words.includes(scope) || (admin && scope !== 'chat'));
}

export function may(words: readonly string[], scope: Scope): boolean {
  return words.includes(scope) || (scope !== 'chat' && words.includes('admin'));
}

const OPENED_BY: Partial<Record<PageName, Scope>> = {
  channels: 'channels:read',
  routes: 'assistants:read',
  contacts: 'contacts:read',
  ratings: 'conversations:read',
  members: 'members:read',
  keys: 'keys:read',
  audit: 'audit:read',
};

/** The pages that whoever has these scopes can use. */
export function pagesFor(words: readonly string[]): PageName[] {
  return PAGES.filter((page) => {
    const scope = OPENED_BY[page];
    return scope === undefined || may(words, scope);
  });
}
