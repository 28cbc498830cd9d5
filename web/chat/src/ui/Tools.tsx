import type { JSX } from 'preact';
import type { Settings } from '../settings';
import { Icon } from './icons';

interface ToolsProps {
  words: { language: string; languageShort: string; dark: string; light: string };
  settings: Settings;
  changed: () => void;
}

/** Language and colours. */
export function Tools({ words, settings, changed }: ToolsProps): JSX.Element {
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
