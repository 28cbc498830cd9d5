import { render } from 'preact';
import { ChatClient } from './client';
import { oncePerFrame } from './frame';
import { browserShelf } from './outbox';
import { Settings } from './settings';
import { App } from './ui/App';

const shelf = browserShelf();
const settings = new Settings(shelf);
const channelKey = decodeURIComponent(location.pathname.split('/').filter(Boolean)[1] ?? '');
const root = document.getElementById('app') as HTMLElement;

const draw = oncePerFrame(() => render(<App client={client} settings={settings} changed={draw} />, root));

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
