import type { JSX } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import type { Settings } from '../../../chat/src/settings';
import { Tools } from '../../../chat/src/ui/Tools';
import type { PageName } from '../route';
import { pagesFor } from '../scopes';
import { useSession, useWords } from './context';
import { Mark } from './icons';

interface HeaderProps {
  settings: Settings;
  changed: () => void;
  page: PageName;
}

export function Header({ settings, changed, page }: HeaderProps): JSX.Element {
  const words = useWords();
  const session = useSession();
  const tabs = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a phone not all of them fit beside each other. Moved by hand: the page itself stays where it is.
    const [list, here] = [tabs.current, tabs.current?.querySelector<HTMLElement>('[aria-current]')];
    if (list && here) list.scrollLeft = here.offsetLeft - list.offsetLeft - (list.clientWidth - here.clientWidth) / 2;
  }, [page]);
  return (
    <header class="header">
      <div class="bar">
        <Mark />
        <div class="bar-name">
          <strong>{words.title}</strong>
          <span dir="auto" data-test="who">{session.name}</span>
        </div>
        <Tools words={words} settings={settings} changed={changed} />
      </div>
      <nav ref={tabs} class="tabs" aria-label={words.navigation}>
        {pagesFor(session.scopes).map((name) => (
          <a key={name} href={`#/${name}`} {...(name === page && { 'aria-current': 'page' as const })}>
            {words.pages[name]}
          </a>
        ))}
      </nav>
    </header>
  );
}
