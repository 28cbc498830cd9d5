/** What the visitor chose on this device: language and colours. */
import type { Shelf } from './outbox';
import { browserLanguage, type Language } from './words';

export type Theme = 'light' | 'dark';

export class Settings {
  #shelf: Shelf;
  language: Language;
  theme: Theme;

  constructor(shelf: Shelf) {
    this.#shelf = shelf;
    const language = shelf.get('qudao.language');
    this.language = language === 'zh' || language === 'en' ? language : browserLanguage(navigator.languages);
    const theme = shelf.get('qudao.theme');
    this.theme = theme === 'light' || theme === 'dark' ? theme : schemeQuery().matches ? 'dark' : 'light';
    this.#apply();
  }

  /** Follows the device until the visitor chooses. */
  follow(changed: () => void): void {
    schemeQuery().addEventListener('change', (event) => {
      if (this.#shelf.get('qudao.theme') !== null) return;
      this.theme = event.matches ? 'dark' : 'light';
      this.#apply();
      changed();
    });
  }

  chooseLanguage(language: Language): void {
    this.language = language;
    this.#shelf.set('qudao.language', language);
    this.#apply();
  }

  chooseTheme(theme: Theme): void {
    this.theme = theme;
    this.#shelf.set('qudao.theme', theme);
    this.#apply();
  }

  #apply(): void {
    const root = document.documentElement;
    root.lang = this.language === 'zh' ? 'zh-CN' : 'en';
    root.dataset['theme'] = this.theme;
    const colour = this.theme === 'dark' ? '#101514' : '#f7f8f6';
    for (const meta of document.querySelectorAll('meta[name="theme-color"]')) meta.setAttribute('content', colour);
  }
}

function schemeQuery(): MediaQueryList {
  return matchMedia('(prefers-color-scheme: dark)');
}
