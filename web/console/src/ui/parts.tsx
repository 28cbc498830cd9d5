/** Pieces that several pages are made of. */
import type { ComponentChildren, JSX } from 'preact';
import { expand, SCOPES, type Scope } from '../scopes';
import { refusalWords, type Words } from '../words';
import { useWords } from './context';
import type { Listed } from './data';

export function Heading({ children }: { children: ComponentChildren }): JSX.Element {
  return <h1 tabIndex={-1}>{children}</h1>;
}

interface SectionProps {
  title: string;
  action?: JSX.Element | false;
  children: ComponentChildren;
}

export function Section({ title, action, children }: SectionProps): JSX.Element {
  return (
    <section class="section">
      <div class="section-head">
        <h2>{title}</h2>
        {action}
      </div>
      {children}
    </section>
  );
}

interface RowsProps<T> {
  list: Listed<T>;
  none: string;
  /** Which of them to show; all if left out. */
  filter?: (item: T) => boolean;
  children: (item: T) => JSX.Element;
}

export function Rows<T>({ list, none, filter = () => true, children }: RowsProps<T>): JSX.Element {
  const words = useWords();
  const shown = list.items.filter(filter);
  if (list.refusal) {
    return (
      <div class="banner bad" role="alert">
        {refusalWords(words, list.refusal)}{' '}
        <button type="button" class="link" onClick={() => void list.reload()}>{words.retry}</button>
      </div>
    );
  }
  return (
    <>
      {shown.length > 0 && <ul class="rows">{shown.map(children)}</ul>}
      {shown.length === 0 && <p class="muted" role="status">{list.ready ? none : words.loading}</p>}
      {list.more && (
        <div>
          <button type="button" class="button small" onClick={() => void list.more?.()}>{words.more}</button>
        </div>
      )}
    </>
  );
}

/** What scopes allow, in words. */
export function scopeWords(words: Words, given: readonly string[]): string {
  const scopes = expand(given);
  if (scopes.length === SCOPES.length) return words.roles.everything;
  if (given.includes('admin')) return words.roles.administration;
  return scopes.map((scope) => words.scopes[scope]).join(words.joint);
}

interface ScopeChoiceProps {
  legend: string;
  hint: string;
  wrong: string;
  offered: readonly Scope[];
  chosen: readonly string[];
  choose: (scopes: string[]) => void;
}

export function ScopeChoice({ legend, hint, wrong, offered, chosen, choose }: ScopeChoiceProps): JSX.Element {
  const words = useWords();
  return (
    <fieldset class="field" data-invalid={wrong !== ''} tabIndex={-1}>
      <legend class="label">{legend}</legend>
      <div class="choices">
        {offered.map((scope) => (
          <label key={scope} class="choice">
            <input
              type="checkbox"
              value={scope}
              checked={chosen.includes(scope)}
              onChange={(event) => choose(event.currentTarget.checked ? [...chosen, scope] : chosen.filter((other) => other !== scope))}
            />
            {words.scopes[scope]}
          </label>
        ))}
      </div>
      {wrong !== '' && <p class="wrong">{wrong}</p>}
      <p class="hint">{hint}</p>
    </fieldset>
  );
}

export function Chevron(): JSX.Element {
  return (
    <svg class="icon chevron" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d="m8 5 5 5-5 5" />
    </svg>
  );
}

export function Back({ href, children }: { href: string; children: string }): JSX.Element {
  return (
    <a class="back" href={href}>
      <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d="m12 5-5 5 5 5" /></svg>
      {children}
    </a>
  );
}
