import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import type { Console } from '../console';
import type { Session } from '../protocol';
import { WORDS, type Language, type Words } from '../words';

export interface Surroundings {
  console: Console;
  language: Language;
  words: Words;
}

export const SurroundingsContext = createContext<Surroundings | null>(null);

export function useSurroundings(): Surroundings {
  const found = useContext(SurroundingsContext);
  if (found === null) throw new Error('drawn outside the page');
  return found;
}

export function useWords(): Words {
  return useContext(SurroundingsContext)?.words ?? WORDS.en;
}

/** Who is signed in; only for what is drawn while somebody is. */
export function useSession(): Session {
  const { session } = useSurroundings().console;
  if (session === null) throw new Error('nobody is signed in');
  return session;
}

/** A point of time as the page's language writes it. */
export function useTime(): (iso: string) => string {
  const { language } = useSurroundings();
  const format = new Intl.DateTimeFormat(language === 'zh' ? 'zh-CN' : 'en', { dateStyle: 'medium', timeStyle: 'short' });
  return (iso) => format.format(new Date(iso));
}
