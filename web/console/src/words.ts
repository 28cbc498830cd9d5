/** Every word of the page, in both languages, and refusals in words. */
import type { Language } from '../../chat/src/words';
import { Refusal } from './api';
import { en, type Words } from './words/en';
import { zh } from './words/zh';

export type { Language, Words };
export const WORDS: Record<Language, Words> = { en, zh };

/** `fill('by {name}', { name: 'Ann' })` */
export function fill(text: string, values: Record<string, string>): string {
  const filled = text.replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);
  // Chinese stands apart from other letters, and not from Chinese.
  return filled.replace(/(\p{Script=Han}) (?=\p{Script=Han})/gu, '$1');
}

/** What the server said of one thing, as a sentence in the page's language. */
export function detailWords(words: Words, detail: string): string {
  for (const [pattern, translation] of words.details) {
    const match = pattern.exec(detail);
    if (match) return translation.replace(/\$(\d)/g, (_, group: string) => match[Number(group)] ?? '');
  }
  return detail === '' ? '' : detail[0]!.toUpperCase() + detail.slice(1);
}

/** A refusal as a whole. */
export function refusalWords(words: Words, refusal: Refusal): string {
  const { errors } = words;
  const wait = waitWords(words, refusal.retryAfterS ?? 60);
  switch (refusal.code) {
    case 'offline':
      return errors.offline;
    case 'rate_limited':
      return fill(errors.rate_limited, { wait });
    case 'overloaded':
      return fill(errors.overloaded, { wait });
    case 'csrf_token_invalid':
      return errors.csrf_token_invalid;
    case 'validation_failed':
      return errors.validation_failed;
  }
  if (refusal.status >= 500) return errors.other;
  const said = detailWords(words, refusal.detail);
  // The server speaks English: what is not known in this language gets its own words before it.
  const known = words.details.length === 0 || said !== detailWords({ ...words, details: [] }, refusal.detail);
  if (known && said !== '') return said;
  const general = (errors as Record<string, string>)[refusal.code] ?? errors.other;
  return said === '' ? general : `${general} (${said})`;
}

/** What is wrong with the field at this JSON pointer, or with a part of it. */
export function fieldWords(words: Words, refusal: Refusal | null, pointer: string): string {
  const wrong = refusal?.fields.filter((field) => field.pointer === pointer || field.pointer.startsWith(`${pointer}/`)) ?? [];
  return wrong.map((field) => detailWords(words, field.detail)).join(' ');
}

function waitWords(words: Words, seconds: number): string {
  return seconds <= 90 ? fill(words.seconds, { n: String(seconds) }) : fill(words.minutes, { n: String(Math.ceil(seconds / 60)) });
}

export function roleName(words: Words, role: string, roles: readonly { id: string; name: string; custom: boolean }[]): string {
  const common = (words.roles.names as Record<string, string>)[role];
  return common ?? roles.find((known) => known.id === role)?.name ?? role;
}
