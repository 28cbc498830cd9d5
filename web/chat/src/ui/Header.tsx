import type { JSX } from 'preact';
import type { ChatClient } from '../client';
import type { Settings } from '../settings';
import { useWords } from './context';
import { Icon, Mark } from './icons';

interface HeaderProps {
  client: ChatClient;
  settings: Settings;
  changed: () => void;
}

export function Header({ client, settings, changed }: HeaderProps): JSX.Element {
  const words = useWords();
  const name = client.channel?.assistant || client.channel?.name || 'Qudao';
  const state = words.states[client.connection];
  const next = settings.theme === 'dark' ? 'light' : 'dark';
  return (
    <header class="header">
      <Mark />
      <div class="header-name">
        <h1>
          <span class="header-title" dir="auto">{name}</span>
          <span class="badge">{words.badge}</span>
        </h1>
        <p class={`header-state ${client.connection}`}>
          <span class="dot" aria-hidden="true" />
          {state}
        </p>
      </div>
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
    </header>
  );
}
