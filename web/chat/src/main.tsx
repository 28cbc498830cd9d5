import { render } from 'preact';
import { ChatClient } from './client';
import { browserShelf } from './outbox';
import { Settings } from './settings';
import { App } from './ui/App';

const shelf = browserShelf();
const settings = new Settings(shelf);
const channelKey = decodeURIComponent(location.pathname.split('/').filter(Boolean)[1] ?? '');
const root = document.getElementById('app') as HTMLElement;

let scheduled = false;

/** Draws at most once per frame, however many tokens arrive; a hidden page still draws, a little later. */
function draw(): void {
  if (scheduled) return;
  scheduled = true;
  const paint = (): void => {
    scheduled = false;
    render(<App client={client} settings={settings} changed={draw} />, root);
  };
  if (document.visibilityState === 'hidden') setTimeout(paint, 100);
  else requestAnimationFrame(paint);
}

/** On iOS the keyboard covers the page instead of shrinking it: the page shrinks itself. */
function fitAboveKeyboard(view: VisualViewport): void {
  view.addEventListener('resize', () => {
    if (view.scale !== 1) return;
    document.documentElement.style.setProperty('--page-height', `${view.height}px`);
    scrollTo(0, 0);
  });
}

const client = new ChatClient({ channelKey, shelf, changed: draw });
if (window.visualViewport) fitAboveKeyboard(window.visualViewport);
settings.follow(draw);
draw();
client.start();
