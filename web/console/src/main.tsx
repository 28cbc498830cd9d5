import { render } from 'preact';
import { browserShelf } from '../../chat/src/outbox';
import { Settings } from '../../chat/src/settings';
import { Api } from './api';
import { Console } from './console';
import { App } from './ui/App';

const shelf = browserShelf();
const settings = new Settings(shelf);
const root = document.getElementById('app') as HTMLElement;

function draw(): void {
  render(<App console={console_} settings={settings} changed={draw} />, root);
}

const console_ = new Console({
  api: new Api(),
  shelf,
  changed: draw,
  replaceHash: (hash) => history.replaceState(null, '', hash),
});
settings.follow(draw);
addEventListener('hashchange', () => void console_.go(location.hash));
void console_.go(location.hash);
