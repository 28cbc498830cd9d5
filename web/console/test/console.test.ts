import { afterEach, describe, expect, it, vi } from 'vitest';
import { memoryShelf, type Shelf } from '../../chat/src/outbox';
import { Api, Refusal } from '../src/api';
import { Console } from '../src/console';

const TENANT = `ten_${'a'.repeat(32)}`;
const OTHER = `ten_${'b'.repeat(32)}`;
const SESSION = { tenant_id: TENANT, member_id: 'mbr_1', session_id: 'ses_1', name: 'Ann', email: 'a@b.c', role: 'owner', scopes: ['admin'], csrf_token: 'token-1' };
const TOKEN = 'qi_secret';

interface Sent {
  method: string;
  path: string;
  headers: Headers;
  body: unknown;
}

/** A server that answers in turn; what it was sent is kept. */
function server(...answers: [number, object?, Record<string, string>?][]): Sent[] {
  const sent: Sent[] = [];
  vi.stubGlobal('fetch', (path: string, init: RequestInit) => {
    sent.push({ method: init.method ?? '', path, headers: new Headers(init.headers), body: init.body ? JSON.parse(init.body as string) : null });
    const answer = answers.shift();
    if (!answer) return Promise.reject(new TypeError('no network'));
    const [status, body, headers] = answer;
    return Promise.resolve(new Response(body === undefined ? null : JSON.stringify(body), { status, ...(headers && { headers }) }));
  });
  return sent;
}

/** The answer to the next request comes when it is given; those to others come in turn. */
function nextIsLate(): (answer: Response) => void {
  const { fetch: others } = globalThis;
  let arrive: (answer: Response) => void = () => {};
  vi.stubGlobal('fetch', () => {
    vi.stubGlobal('fetch', others);
    return new Promise<Response>((resolve) => (arrive = resolve));
  });
  return (answer) => arrive(answer);
}

function open(shelf: Shelf = memoryShelf()): { page: Console; hashes: string[]; shelf: Shelf } {
  const hashes: string[] = [];
  const page = new Console({ api: new Api(), shelf, changed: () => {}, replaceHash: (hash) => hashes.push(hash) });
  return { page, hashes, shelf };
}

const kept = (shelf: Shelf): string => shelf.keys().map((key) => `${key}=${shelf.get(key)}`).join(' ');

afterEach(() => vi.unstubAllGlobals());

describe('signing in', () => {
  it('takes the token of the session along in whatever changes something', async () => {
    const sent = server([401, { code: 'unauthenticated' }], [201, SESSION], [204], [200, {}]);
    const { page, hashes } = open();
    await page.go(`#/${TENANT}`);
    expect(page.session).toBeNull();
    expect(page.ended).toBe(false);
    await page.signIn('a@b.c', 'a password', '');
    expect(sent[1]).toMatchObject({ method: 'POST', path: `/v1/tenants/${TENANT}/sessions`, body: { email: 'a@b.c', password: 'a password' } });
    expect(sent[1]!.headers.has('x-csrf-token')).toBe(false);
    expect(hashes).toEqual(['#/home']);
    await page.api.send('DELETE', '/v1/x');
    await page.api.get('/v1/y');
    expect(sent[2]!.headers.get('x-csrf-token')).toBe('token-1');
    expect(sent[3]!.headers.has('x-csrf-token')).toBe(false);
  });

  it('remembers the tenant and nothing of a secret', async () => {
    server([401], [201, SESSION]);
    const { page, shelf } = open();
    await page.go(`#/${TENANT}`);
    await page.signIn('a@b.c', 'a password', '123456');
    expect(kept(shelf)).toBe(`qudao.console.tenant=${TENANT}`);
    expect(open(shelf).page.tenant).toBe(TENANT);
    shelf.set('qudao.console.tenant', 'bent');
    expect(open(shelf).page.tenant).toBeNull();
  });

  it('leaves a wrong password to the form', async () => {
    server([401], [401, { code: 'invalid_credentials', detail: 'wrong' }]);
    const { page } = open();
    await page.go(`#/${TENANT}`);
    await expect(page.signIn('a@b.c', 'x', '')).rejects.toMatchObject({ status: 401, code: 'invalid_credentials' });
    expect(page.ended).toBe(false);
  });

  it('keeps to the tenant that the address names', async () => {
    server([200, SESSION]);
    const { page } = open();
    await page.go(`#/${OTHER}`);
    expect(page.tenant).toBe(OTHER);
    expect(page.route).toEqual({ page: 'sign-in', tenant: OTHER });
  });
});

describe('an invitation', () => {
  it('leaves the address at once and is kept in memory alone', async () => {
    const sent = server([201, SESSION]);
    const { page, hashes, shelf } = open();
    await page.go(`#/invitation/${TOKEN}`);
    expect(hashes).toEqual(['#/invitation']);
    expect(sent).toEqual([]);
    expect(JSON.stringify(page.route)).not.toContain(TOKEN);
    await page.accept('Ann', 'a long password');
    expect(sent[0]!.body).toEqual({ token: TOKEN, name: 'Ann', password: 'a long password' });
    expect(page.invitation).toBeNull();
    expect(page.session?.name).toBe('Ann');
    expect(kept(shelf)).not.toContain(TOKEN);
  });

  it('is kept for another try when the password is refused', async () => {
    server([422, { code: 'validation_failed', errors: [{ pointer: '/password', detail: 'is too easy to guess' }] }]);
    const { page } = open();
    await page.go(`#/invitation/${TOKEN}`);
    await expect(page.accept('Ann', 'x')).rejects.toMatchObject({ fields: [{ pointer: '/password' }] });
    expect(page.invitation).toBe(TOKEN);
  });
});

describe('a session that ends', () => {
  it('shows with the next press', async () => {
    server([200, SESSION], [401, { code: 'invalid_credentials' }]);
    const { page } = open();
    await page.go('#/home');
    expect(page.session).not.toBeNull();
    await page.go('#/account');
    expect(page.session).toBeNull();
    expect(page.ended).toBe(true);
    expect(page.api.csrfToken).toBe('');
    expect(page.tenant).toBe(TENANT);
  });

  it('shows with a refused request', async () => {
    server([200, SESSION], [401, { code: 'unauthenticated' }]);
    const { page } = open();
    await page.go('#/home');
    await expect(page.api.get('/v1/x')).rejects.toBeInstanceOf(Refusal);
    expect(page.ended).toBe(true);
  });

  it('is told apart from a password that is wrong', async () => {
    server([200, SESSION], [401, { code: 'invalid_credentials' }], [200, SESSION], [401, { code: 'invalid_credentials' }], [401, {}]);
    const { page } = open();
    await page.go('#/account');
    await expect(page.proves('/v1/session/password', {})).rejects.toMatchObject({ status: 401 });
    expect(page.session).not.toBeNull();
    await expect(page.proves('/v1/session/password', {})).rejects.toMatchObject({ status: 401 });
    expect(page.session).toBeNull();
  });

  it('by signing out leads to the sign-in page without a complaint', async () => {
    server([200, SESSION], [204]);
    const { page, hashes } = open();
    await page.go('#/home');
    await page.signOut();
    expect(page.session).toBeNull();
    expect(page.ended).toBe(false);
    expect(hashes).toEqual([`#/${TENANT}`]);
  });

  it('is not undone by an answer that was on its way', async () => {
    server([200, SESSION], [204]);
    const { page } = open();
    await page.go('#/home');
    const arrives = nextIsLate();
    const late = page.go('#/account');
    await page.signOut();
    arrives(new Response(JSON.stringify(SESSION)));
    await late;
    expect(page.session).toBeNull();
    expect(page.api.csrfToken).toBe('');
  });

  it('ends no other that began meanwhile', async () => {
    server([201, SESSION], [200, { ...SESSION, csrf_token: 'token-2' }]);
    const { page } = open();
    const questionArrives = nextIsLate();
    const question = page.go(`#/${TENANT}`);
    await page.signIn('a@b.c', 'a password', '');
    questionArrives(new Response('{}', { status: 401 }));
    await question;
    expect(page.session).not.toBeNull();
    const listArrives = nextIsLate();
    const list = page.api.get('/v1/x');
    // Another tab began one.
    await page.refresh();
    listArrives(new Response('{}', { status: 401 }));
    await expect(list).rejects.toBeInstanceOf(Refusal);
    expect(page.session?.csrf_token).toBe('token-2');
    expect(page.ended).toBe(false);
  });

  it('is told by the last question', async () => {
    server([200, SESSION]);
    const { page } = open();
    const arrives = nextIsLate();
    const first = page.go('#/home');
    await page.refresh();
    arrives(new Response('{}', { status: 401 }));
    await first;
    expect(page.session).not.toBeNull();
    expect(page.asking).toBe(false);
  });

  it('is not assumed when the server cannot be reached', async () => {
    server([200, SESSION]);
    const { page } = open();
    await page.go('#/home');
    await page.go('#/members');
    expect(page.session).not.toBeNull();
    expect(page.trouble?.code).toBe('offline');
  });
});

describe('a token of another session', () => {
  it('is exchanged for the present one', async () => {
    const sent = server([200, SESSION], [403, { code: 'csrf_token_invalid' }], [200, { ...SESSION, csrf_token: 'token-2' }], [204]);
    const { page } = open();
    await page.go('#/home');
    await expect(page.api.send('DELETE', '/v1/x')).rejects.toMatchObject({ code: 'csrf_token_invalid' });
    await vi.waitFor(() => expect(page.api.csrfToken).toBe('token-2'));
    await page.api.send('DELETE', '/v1/x');
    expect(sent.at(-1)!.headers.get('x-csrf-token')).toBe('token-2');
  });
});

describe('a refusal', () => {
  it('carries the fields and the time to wait', async () => {
    server([429, { code: 'rate_limited', detail: 'slowly' }, { 'retry-after': '9' }], [502], [403, { code: 'csrf_token_invalid', detail: 'x' }]);
    const api = new Api();
    await expect(api.get('/x')).rejects.toMatchObject({ status: 429, code: 'rate_limited', detail: 'slowly', retryAfterS: 9 });
    await expect(api.get('/x')).rejects.toMatchObject({ status: 502, code: 'http_502' });
    await expect(api.get('/x')).rejects.toMatchObject({ code: 'csrf_token_invalid', fields: [] });
  });
});
