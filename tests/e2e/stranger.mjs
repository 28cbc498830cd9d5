// Whoever a page must not speak to: a listener that every name of a payload leads to.
import { createServer } from 'node:net';

/** Counts connections at an address that stands for the rest of the world. */
export class Stranger {
  connections = 0;
  /** Connections on which anything was said. */
  requests = 0;
  #server = createServer((socket) => {
    this.connections += 1;
    socket.on('error', () => {});
    socket.once('data', () => {
      this.requests += 1;
      socket.destroy();
    });
  });

  static async listen() {
    const stranger = new Stranger();
    await new Promise((resolve) => stranger.#server.listen(0, '127.0.0.1', resolve));
    return stranger;
  }
  get port() {
    return this.#server.address().port;
  }
  /** Another origin than the platform's, although the same machine. */
  get origin() {
    return `http://127.0.0.1:${this.port}`;
  }
  /** Makes a browser find the stranger under every name of a payload; the browser asks others for its own ends. */
  get browserArguments() {
    return [`--host-resolver-rules=MAP *.example 127.0.0.1:${this.port}`];
  }
  /** Fills in the address where a payload leaves room for it. */
  meant(text) {
    return text.replaceAll('{{EVIL}}', this.origin).replaceAll('{{evil}}', this.origin.slice('http:'.length));
  }
  close() {
    this.#server.close();
  }
}

/** Runs in the page before anything else: whatever a payload would do leaves a complaint. */
export function layCanaries() {
  const complain = (what) => console.error(`canary: ${what}`);
  Object.defineProperty(window, 'pwned', { get: () => undefined, set: () => complain('a script ran') });
  for (const name of ['alert', 'confirm', 'prompt', 'open', 'print']) window[name] = () => complain(`${name} was called`);
  document.addEventListener('securitypolicyviolation', (event) => complain(`${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
  addEventListener('message', (event) => event.origin !== location.origin && complain('a frame spoke'));
}
