/** Who the visitor is on the word of the page's server. */
import { Refusal } from '../../chat/src/transport';

/** A token, or how to get one when it is needed. */
export type UserToken = string | (() => string | Promise<string>);

type Ask = (path: string, init: RequestInit) => Promise<Response>;
interface Waiting {
  token: UserToken;
  done: () => void;
  failed: (error: unknown) => void;
}

function post(body: object): RequestInit {
  return { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

export class Person {
  #ask: Ask;
  #leave: () => Promise<void>;
  #here = false;
  #waiting: Waiting | null = null;

  /** `leave` makes the visitor somebody new. */
  constructor(ask: Ask, leave: () => Promise<void>) {
    this.#ask = ask;
    this.#leave = leave;
  }

  /** The visitor talks: from now on it matters who they are. */
  arrive(): void {
    this.#here = true;
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting) this.#show(waiting.token).then(waiting.done, waiting.failed);
  }

  identify(token: UserToken): Promise<void> {
    const told = this.#here
      ? this.#show(token)
      : new Promise<void>((done, failed) => {
          // The last word counts.
          this.#waiting?.done();
          this.#waiting = { token, done, failed };
        });
    told.catch((error: unknown) => console.warn(`Qudao: the visitor is not known: ${String((error as Error).message)}`));
    return told;
  }

  async askCode(address: { email: string } | { phone: string }, locale: string): Promise<string> {
    const answer = await this.#ask('/claims', post({ ...address, locale }));
    return ((await answer.json()) as { id: string }).id;
  }

  async confirmCode(claim: string, code: string): Promise<void> {
    await this.#ask(`/claims/${encodeURIComponent(claim)}/confirm`, post({ code }));
  }

  forget(): void {
    this.#waiting?.done();
    this.#waiting = null;
  }

  async #show(token: UserToken): Promise<void> {
    const text = typeof token === 'function' ? await token() : token;
    const init = post({ token: text });
    try {
      await this.#ask('/identify', init);
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== 'another_customer') throw error;
      // Somebody else signed in on this browser: what was said before is not theirs to read.
      await this.#leave();
      await this.#ask('/identify', init);
    }
  }
}
