/** What the page knows: where it is, and who is signed in. */
import type { Shelf } from '../../chat/src/outbox';
import { Refusal, type Api } from './api';
import type { Session } from './protocol';
import { readRoute, TENANT_ID, type Route } from './route';

const TENANT = 'qudao.console.tenant';

export interface ConsoleParts {
  api: Api;
  shelf: Shelf;
  changed: () => void;
  /** Puts another address in the place of the present one, which then is in no history. */
  replaceHash: (hash: string) => void;
}

export class Console {
  readonly api: Api;
  route: Route = { page: 'home' };
  session: Session | null = null;
  /** Whether it is not known yet if somebody is signed in. */
  asking = true;
  /** Why that could not be found out. */
  trouble: Refusal | null = null;
  /** Whether a session ended while the page was open. */
  ended = false;
  /** The token of an invitation. It is held here alone, and gone when the page is. */
  invitation: string | null = null;
  /** Which tenant the sign-in page is about; no secret, so it is remembered. */
  tenant: string | null;
  readonly #parts: ConsoleParts;
  /** Counts the questions who is signed in, and what answers them: only the answer to the last counts. */
  #asked = 0;

  constructor(parts: ConsoleParts) {
    this.#parts = parts;
    this.api = parts.api;
    this.api.onEnded = () => this.#ended();
    this.api.onStale = () => void this.refresh();
    const remembered = parts.shelf.get(TENANT) ?? '';
    this.tenant = TENANT_ID.test(remembered) ? remembered : null;
  }

  /** Shows what the address names, and asks who is signed in: a right that was taken away a moment
   *  ago shows with the next press. */
  async go(hash: string): Promise<void> {
    const route = readRoute(hash);
    this.route = route;
    if (route.page === 'sign-in' && route.tenant !== null) this.rememberTenant(route.tenant);
    if (route.page === 'invitation') {
      if (route.token !== null) {
        this.invitation = route.token;
        this.route = { page: 'invitation', token: null };
        this.#parts.replaceHash('#/invitation');
      }
      this.asking = false;
      this.#parts.changed();
      return;
    }
    this.#parts.changed();
    await this.refresh();
  }

  async refresh(): Promise<void> {
    this.trouble = null;
    const asked = (this.#asked += 1);
    const answer = await this.#whoIsIt();
    // One that was on its way when somebody signed in or out is about what was before.
    if (asked !== this.#asked) return;
    if (!(answer instanceof Refusal)) this.#enter(answer);
    else if (answer.status === 401) this.#ended();
    else this.trouble = answer;
    this.asking = false;
    this.#parts.changed();
  }

  async #whoIsIt(): Promise<Session | Refusal> {
    try {
      return await this.api.send<Session>('GET', '/v1/session', undefined, { proves: true });
    } catch (error) {
      if (error instanceof Refusal) return error;
      throw error;
    }
  }

  async signIn(email: string, password: string, code: string): Promise<void> {
    const body = { email, password, ...(code !== '' && { code }) };
    const path = `/v1/tenants/${this.tenant}/sessions`;
    this.#arrive(await this.api.send<Session>('POST', path, body, { proves: true }));
  }

  async accept(name: string, password: string): Promise<void> {
    const body = { token: this.invitation, name, password };
    this.#arrive(await this.api.send<Session>('POST', '/v1/invitations/accept', body, { proves: true }));
    this.invitation = null;
  }

  async signOut(): Promise<void> {
    // What is over already needs no ending.
    await this.api.send('DELETE', '/v1/session', undefined, { proves: true }).catch((error: unknown) => {
      if (!(error instanceof Refusal && error.status === 401)) throw error;
    });
    this.#asked += 1;
    this.#forget();
    this.ended = false;
    this.#show(this.tenant === null ? '#/sign-in' : `#/${this.tenant}`);
  }

  /** For a request that shows a password again: tells whether a 401 was about the session. */
  async proves<T = void>(path: string, body: unknown): Promise<T> {
    try {
      return await this.api.send<T>('POST', path, body, { proves: true });
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) await this.refresh();
      throw error;
    }
  }

  rememberTenant(tenant: string | null): void {
    this.tenant = tenant;
    if (tenant === null) this.#parts.shelf.remove(TENANT);
    else this.#parts.shelf.set(TENANT, tenant);
    this.#parts.changed();
  }

  #arrive(session: Session): void {
    this.#asked += 1;
    this.ended = false;
    this.#enter(session);
    this.#show('#/home');
  }

  #enter(session: Session): void {
    this.session = session;
    this.asking = false;
    this.api.csrfToken = session.csrf_token;
    const { route } = this;
    const asksForAnother = route.page === 'sign-in' && route.tenant !== null;
    if (this.tenant !== session.tenant_id && !asksForAnother) this.rememberTenant(session.tenant_id);
  }

  #ended(): void {
    if (this.session !== null) this.ended = true;
    this.#forget();
    this.#parts.changed();
  }

  #forget(): void {
    this.session = null;
    this.api.csrfToken = '';
  }

  #show(hash: string): void {
    this.#parts.replaceHash(hash);
    this.route = readRoute(hash);
    this.#parts.changed();
  }
}
