/** Which page stands behind the `#` of the address. */

export const PAGES = ['home', 'channels', 'routes', 'contacts', 'ratings', 'members', 'keys', 'audit', 'account'] as const;
export type PageName = (typeof PAGES)[number];

export type Route =
  /** `item` is what of the page's things, `part` is what of it. */
  | { page: PageName; item?: string; part?: string }
  | { page: 'sign-in'; tenant: string | null }
  | { page: 'sign-in-failed'; code: string }
  | { page: 'invitation'; token: string | null };

export const TENANT_ID = /^ten_[0-9a-f]{32}$/;

export function readRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#?\/?/, '').split('?', 2);
  const [first = '', second = '', third = ''] = path.split('/', 3);
  if (TENANT_ID.test(first)) return { page: 'sign-in', tenant: first };
  if (first === 'sign-in') return { page: 'sign-in', tenant: null };
  if (first === 'sign-in-failed') return { page: 'sign-in-failed', code: new URLSearchParams(query).get('code') ?? '' };
  if (first === 'invitation') return { page: 'invitation', token: second === '' ? null : decode(second) };
  const page = PAGES.find((name) => name === first) ?? 'home';
  if (page === 'home' || second === '') return { page };
  return { page, item: decode(second), ...(third !== '' && { part: decode(third) }) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
