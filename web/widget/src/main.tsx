/** `<script src="https://qudao.example/widget.js" data-key="wk_…" async></script>`: one chat for its page. */
import { render } from 'preact';
import { ChatClient } from '../../chat/src/client';
import { oncePerFrame } from '../../chat/src/frame';
import { browserShelf } from '../../chat/src/outbox';
import { Refusal } from '../../chat/src/transport';
import { Host, type HostApi } from './api';
import { WidgetDoor } from './door';
import { News } from './news';
import { Person } from './person';
import { adopt } from './sheet';
import css from './style/index.css?inline';
import { Widget } from './ui/Widget';
import { tongue, type Tongue } from './words';

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
  let news = new News(shelf, key);
  const element = document.createElement(TAG);
  const root = element.attachShadow({ mode: 'open' });
  const place = document.createElement('div');
  adopt(root, css);
  root.append(place);

  let isOpen = false;
  let started = false;
  let unread = 0;
  let visits = 0;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const draw = oncePerFrame(paint);
  const arrive = (): ChatClient => new ChatClient({ channelKey: key, shelf, door, changed: draw });
  let client = arrive();
  const person = new Person((path, init) => client.ask(path, init), leave);

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
    render(
      <Widget
        key={visits}
        client={client}
        door={door}
        face={face}
        theme={theme}
        tongue={speech()}
        shelf={shelf}
        channelKey={key}
        open={isOpen}
        unread={unread}
        toggle={toggle}
      />,
      place,
    );
  }
  function speech(): Tongue {
    const { language = '', direction = 'auto' } = door.face ?? {};
    return tongue([language, script.dataset['lang'], document.documentElement.lang, navigator.language], direction);
  }
  function begin(): void {
    if (started) return;
    started = true;
    client.start();
    person.arrive();
  }
  /** Whoever comes next is somebody else: nothing of this visitor stays in the browser. */
  async function leave(): Promise<void> {
    client.dispose();
    door.forget();
    news = new News(shelf, key);
    visits += 1;
    client = arrive();
    // Not with the next frame, nor when the server has answered: what was said leaves the screen now.
    paint();
    await door.enter();
    if (isOpen) door.keep();
    if (started) client.start();
    paint();
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
    identify: (token) => person.identify(token),
    askCode: (address) => person.askCode(address, speech().language),
    confirmCode: (claim, code) => person.confirmCode(claim, code),
    signOut: () => {
      person.forget();
      return leave();
    },
    on: (kind, listener) => host.on(kind, listener),
  };
  const token = script.dataset['userToken'];
  if (token) person.identify(token).catch(() => {});
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
