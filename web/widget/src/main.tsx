/** `<script src="https://qudao.example/widget.js" data-key="wk_…" async></script>`: one chat for its page. */
import { render } from 'preact';
import { ChatClient } from '../../chat/src/client';
import { oncePerFrame } from '../../chat/src/frame';
import { browserShelf } from '../../chat/src/outbox';
import { Refusal } from '../../chat/src/transport';
import { Host, type HostApi } from './api';
import { WidgetDoor } from './door';
import { News } from './news';
import { adopt } from './sheet';
import css from './style/index.css?inline';
import { Widget } from './ui/Widget';
import { tongue } from './words';

declare global {
  interface Window {
    Qudao?: HostApi;
  }
}

const TAG = 'qudao-widget';

function start(script: HTMLScriptElement): void {
  const key = script.dataset['key'] ?? '';
  if (key === '') {
    console.warn('Qudao: the script tag of the widget needs data-key, the public key of a web channel');
    return;
  }
  const shelf = browserShelf();
  const door = new WidgetDoor(new URL(script.src).origin, key, shelf);
  const host = new Host();
  const news = new News(shelf, key);
  const element = document.createElement(TAG);
  const root = element.attachShadow({ mode: 'open' });
  const place = document.createElement('div');
  adopt(root, css);
  root.append(place);

  let isOpen = false;
  let started = false;
  let unread = 0;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const draw = oncePerFrame(paint);
  const client = new ChatClient({ channelKey: key, shelf, door, changed: draw });

  function paint(): void {
    const { entries } = client.timeline;
    for (const entry of news.fresh(entries, client.loaded)) {
      host.tell('message', { role: entry.role, text: entry.text, key: entry.key as string });
    }
    if (isOpen && document.visibilityState === 'visible') news.seen(entries);
    const count = isOpen ? 0 : news.unread(entries);
    if (count !== unread) {
      unread = count;
      host.tell('unread', { count });
    }
    if (door.face === null) return;
    const { face } = door;
    const theme = face.theme === 'auto' ? (dark.matches ? 'dark' : 'light') : face.theme;
    element.dataset['theme'] = theme;
    const page = document.documentElement.lang;
    const tags = [face.language, script.dataset['lang'], page, navigator.language];
    render(
      <Widget
        client={client}
        door={door}
        face={face}
        theme={theme}
        tongue={tongue(tags, face.direction)}
        shelf={shelf}
        channelKey={key}
        open={isOpen}
        unread={unread}
        toggle={toggle}
      />,
      place,
    );
  }
  function begin(): void {
    if (started) return;
    started = true;
    client.start();
  }
  function toggle(open: boolean): void {
    if (open === isOpen) return;
    isOpen = open;
    if (open) {
      door.keep();
      begin();
    }
    draw();
    host.tell(open ? 'open' : 'close', {});
  }

  window.Qudao = {
    version: __VERSION__,
    open: () => toggle(true),
    close: () => toggle(false),
    on: (kind, listener) => host.on(kind, listener),
  };
  dark.addEventListener('change', draw);
  document.addEventListener('visibilitychange', draw);
  document.body.append(element);
  dispatchEvent(new CustomEvent('qudao:ready'));
  // Who was here before may have an answer waiting; of anybody else nothing is kept until they open it.
  if (door.returning) begin();
  door.enter().then(draw, (error: unknown) => explain(error));
}

/** For whoever builds the page: visitors see no widget then, and no error. */
function explain(error: unknown): void {
  const detail =
    error instanceof Refusal
      ? error.message
      : `no answer. Is ${location.origin} listed under "origins" in the channel's settings, and does the page's policy allow connect-src?`;
  console.warn(`Qudao: the widget got no token: ${detail}`);
}

declare const __VERSION__: string;

const script = document.currentScript;
if (script instanceof HTMLScriptElement && window.Qudao === undefined) {
  if (document.body) start(script);
  else addEventListener('DOMContentLoaded', () => start(script), { once: true });
}
