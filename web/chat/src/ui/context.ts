import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import type { Pictures } from '../files';
import { WORDS, type Words } from '../words';

export const WordsContext = createContext<Words>(WORDS.en);

/** Where the conversation's own pictures come from; nothing is drawn without it. */
export const PicturesContext = createContext<Pictures | null>(null);

export function useWords(): Words {
  return useContext(WordsContext);
}
