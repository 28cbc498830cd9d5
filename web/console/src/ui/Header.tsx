import type { JSX } from 'preact';
import type { Settings } from '../../../chat/src/settings';
import type { PageName } from '../route';
import { pagesFor } from '../scopes';
import { useSession, useWords } from './context';
import { Icon, Mark } from './icons';

interface ToolsProps {
  settings: Settings;
  changed: () => void;
}

export function Header({ settings, changed, page }: ToolsProps & { page: PageName }): JSX.Element {
  const words = useWords();
  const session = useSession();
  return (
    <header class="header">
      <div class="bar">
        <Mark />
        <div class="bar-name">
          <strong>{words.title}</strong>
          <span dir="auto" data-test="who">{session.name}</span>
        </div>
        <Tools settings={settings} changed={changed} />
      </div>
      <nav class="tabs" aria-label={words.navigation}>
        {pagesFor(session.scopes).map((name) => (
          <a key={name} href={`#/${name}`} {...(name === page && { 'aria-current': 'page' as const })}>
            {words.pages[name]}
          </a>
        ))}
      </nav>
    </header>
  );
}

/** Language and colours. */
export function Tools({ settings, changed }: ToolsProps): JSX.Element {
  const words = useWords();
  const next = settings.theme === 'dark' ? 'light' : 'dark';
  return (
    <>
      <button
        type="button"
        class="tool"
        lang={settings.language === 'zh' ? 'en' : 'zh-CN'}
        aria-label={words.language}
        title={words.language}
        data-test="language"
        onClick={() => {
          settings.chooseLanguage(settings.language === 'zh' ? 'en' : 'zh');
          changed();
        }}
      >
        <span aria-hidden="true">{words.languageShort}</span>
      </button>
      <button
        type="button"
        class="tool"
        aria-label={words[next]}
        title={words[next]}
        data-test="theme"
        onClick={() => {
          settings.chooseTheme(next);
          changed();
        }}
      >
        <Icon name={next === 'dark' ? 'moon' : 'sun'} />
      </button>
    </>
  );
}
