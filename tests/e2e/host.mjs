// A shop's page on another origin than the platform's, under a policy as strict as a page can have,
// which has the widget on it.
import { createServer } from 'node:http';
import { Chat, DESKTOP, PATIENCE_MS, PHONE } from './browser.mjs';
import { baseUrl } from './platform.mjs';
import { layCanaries } from './stranger.mjs';

const POLICY = [
  "default-src 'none'",
  `script-src ${baseUrl}`,
  `connect-src ${baseUrl} ${baseUrl.replace('http', 'ws')}`,
  "style-src 'self'",
  // For the page's own icon, and for pictures of the conversation.
  "img-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ');

const STYLES = {
  plain: 'body{font:16px/1.5 sans-serif;margin:2rem;max-width:60rem}a{color:#035}',
  // What pages say of all elements, and what would hit a widget that is not in a shadow root.
  hostile: `* { all: unset !important } div, button, qudao-widget { display: none !important }
    html { font-size: 9px } body > * { position: static !important; z-index: -1 !important; opacity: 0.1 !important;
    visibility: hidden !important; transform: rotate(7deg) !important; pointer-events: none !important }
    textarea { display: none } .panel, .launcher, .bubble { color: red !important; width: 1px !important }`,
};

export class HostSite {
  #server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://host');
    if (pathname === '/style.css') {
      response.writeHead(200, { 'content-type': 'text/css' }).end(STYLES[searchParams.get('is')] ?? '');
      return;
    }
    if (pathname === '/favicon.ico') {
      response.writeHead(204).end();
      return;
    }
    const { key = '', lang = 'en', style = 'plain', direction = 'ltr' } = Object.fromEntries(searchParams);
    response.writeHead(pathname === '/' ? 200 : 404, { 'content-type': 'text/html; charset=utf-8', 'content-security-policy': POLICY });
    response.end(`<!doctype html><html lang="${lang}" dir="${direction}"><head><meta charset="utf-8"><title>A shop</title>
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <link rel="stylesheet" href="/style.css?is=${style}">
      <script src="${baseUrl}/widget.js" data-key="${key}" async></script></head>
      <body><main><h1>Lamps and shades</h1><p>A page of another site. <a href="#more">More lamps</a></p>
      <p>${'Every lamp is made by hand and tested for a week. '.repeat(12)}</p></main></body></html>`);
  });

  static async listen() {
    const site = new HostSite();
    await new Promise((resolve) => site.#server.listen(0, '127.0.0.1', resolve));
    return site;
  }
  get origin() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }
  url(query) {
    return `${this.origin}/?${new URLSearchParams(query)}`;
  }
  close() {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

/** A visit to the page; what the page and the widget do wrong is in `complaints`. */
export class Visit extends Chat {
  static async to(browser, url, { viewport = DESKTOP, before, ...options } = {}) {
    const phone = viewport === PHONE;
    const context = await browser.newContext({ viewport, isMobile: phone, hasTouch: phone, locale: 'en-US', colorScheme: 'light', ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const visit = new Visit(page, context, [baseUrl, new URL(url).origin]);
    await page.addInitScript(layCanaries);
    await before?.(page, context);
    await page.goto(url);
    return visit;
  }

  constructor(page, context, origins) {
    super(page, context);
    // Of the two origins neither is foreign here.
    this.origins = origins;
    page.removeAllListeners('request');
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (protocol.startsWith('http') && !origins.includes(origin)) this.complaints.push(`foreign request: ${request.url()}`);
    });
  }

  get launcher() {
    return this.page.locator('qudao-widget .launcher');
  }
  get panel() {
    return this.page.locator('qudao-widget .panel');
  }
  async open() {
    await this.launcher.click();
    await this.panel.waitFor();
    await this.online();
  }
  /** Waits until `count` answers are stored, and nothing is being written. */
  async answers(count) {
    await this.page.waitForFunction((wanted) => {
      const root = document.querySelector('qudao-widget')?.shadowRoot;
      const stored = root?.querySelectorAll('.entry.assistant[data-key], .entry.notice[data-key]').length ?? 0;
      return stored >= wanted && !root.querySelector('[data-streaming="true"], [data-test="thinking"]');
    }, count);
  }
  entries() {
    return this.page.$eval('qudao-widget', (element) =>
      [...element.shadowRoot.querySelectorAll('.entry[data-send], .entry.assistant[data-streaming], .entry.notice')].map((node) => ({
        role: node.classList[1],
        key: node.dataset.key ?? null,
        send: node.dataset.send ?? null,
        text: (node.querySelector('.bubble, .md') ?? node).innerText.trim(),
      })),
    );
  }
  texts() {
    return this.entries().then((entries) => entries.map((entry) => entry.text));
  }
  stored() {
    return this.page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('qudao.')));
  }
  /** The element that has the focus, within the widget if it is there. */
  focused() {
    return this.page.evaluate(() => {
      const outer = document.activeElement;
      const inner = outer?.shadowRoot?.activeElement ?? outer;
      return `${inner?.tagName.toLowerCase()}.${inner?.className ?? ''}`;
    });
  }
}
