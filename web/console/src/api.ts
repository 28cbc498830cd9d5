/** Requests to the server as the member who is signed in. The session is a cookie that no script can
 *  read; what this page adds is the token against forged requests. */

export interface WrongField {
  pointer: string;
  detail: string;
}

/** A refusal that the server put into words; `code` is stable. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly fields: WrongField[] = [],
    readonly retryAfterS?: number,
  ) {
    super(detail);
  }
}

export interface SendOptions {
  /** The request carries a password or a code: a 401 may be about that, and not about the session. */
  proves?: boolean;
}

export class Api {
  /** Belongs to the session; empty while nobody is signed in. */
  csrfToken = '';
  /** Called when the server no longer knows the session. */
  onEnded: () => void = () => {};
  /** Called when the token belongs to another session, which another tab of the browser began. */
  onStale: () => void = () => {};

  get<T>(path: string): Promise<T> {
    return this.send('GET', path);
  }

  /** The answer's body, `undefined` if it has none; throws a `Refusal`. */
  async send<T = void>(method: string, path: string, body?: unknown, { proves = false }: SendOptions = {}): Promise<T> {
    const token = this.csrfToken;
    const headers = new Headers();
    if (body !== undefined) headers.set('content-type', 'application/json');
    if (method !== 'GET' && token !== '') headers.set('x-csrf-token', token);
    const response = await fetch(path, {
      method,
      headers,
      cache: 'no-store',
      credentials: 'same-origin',
      ...(body !== undefined && { body: JSON.stringify(body) }),
    }).catch(() => {
      throw new Refusal(0, 'offline', '');
    });
    if (!response.ok) {
      const refusal = await readRefusal(response);
      // Unless another session has begun meanwhile.
      if (refusal.status === 401 && !proves && token === this.csrfToken) this.onEnded();
      if (refusal.code === 'csrf_token_invalid') this.onStale();
      throw refusal;
    }
    const text = await response.text();
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }
}

async function readRefusal(response: Response): Promise<Refusal> {
  const problem = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (value: unknown, otherwise: string): string => (typeof value === 'string' ? value : otherwise);
  const fields = Array.isArray(problem['errors']) ? (problem['errors'] as WrongField[]) : [];
  const seconds = Number(response.headers.get('retry-after') ?? '');
  return new Refusal(
    response.status,
    text(problem['code'], `http_${response.status}`),
    text(problem['detail'], response.statusText),
    fields,
    seconds > 0 ? seconds : undefined,
  );
}
