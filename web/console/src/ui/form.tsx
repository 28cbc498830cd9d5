/** Fields, and what happens when a form is sent. */
import type { ComponentChildren, JSX } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Refusal } from '../api';
import { fieldWords, refusalWords } from '../words';
import { useWords } from './context';

let ids = 0;

/** An id that no other element has. Preact's own begin anew whenever the whole page is drawn again. */
export function useOwnId(): string {
  return useState(() => `id-${(ids += 1)}`)[0];
}

export interface Act {
  busy: boolean;
  refusal: Refusal | null;
  /** Does it once at a time; what the server refuses is kept to be shown. */
  run: (work: () => Promise<void>) => Promise<void>;
}

export function useAct(): Act {
  const [busy, setBusy] = useState(false);
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  const running = useRef(false);
  async function run(work: () => Promise<void>): Promise<void> {
    if (running.current) return;
    running.current = true;
    setBusy(true);
    setRefusal(null);
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      setRefusal(error);
    } finally {
      running.current = false;
      setBusy(false);
    }
  }
  return { busy, refusal, run };
}

interface FormProps {
  act: Act;
  submit: () => Promise<void>;
  children: ComponentChildren;
}

/** After a refusal the first wrong field has the focus, so that its words are read out. */
export function Form({ act, submit, children }: FormProps): JSX.Element {
  const form = useRef<HTMLFormElement>(null);
  useLayoutEffect(() => {
    if (act.refusal) form.current?.querySelector<HTMLElement>('[aria-invalid="true"], [data-invalid="true"]')?.focus();
  }, [act.refusal]);
  return (
    <form
      ref={form}
      class="form"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void act.run(submit);
      }}
    >
      {children}
    </form>
  );
}

/** What was refused as a whole: shown even where the fields say more. */
export function Refused({ refusal }: { refusal: Refusal | null }): JSX.Element {
  const words = useWords();
  return <div role="alert">{refusal && <p class="banner bad">{refusalWords(words, refusal)}</p>}</div>;
}

interface FieldProps {
  label: string;
  pointer: string;
  refusal: Refusal | null;
  /** A word beside the label, such as that it is needed. */
  mark?: string;
  hint?: string;
  children: (control: { id: string; class: string; 'aria-describedby': string; 'aria-invalid': boolean; 'aria-required'?: true }) => JSX.Element;
}

export function Field({ label, pointer, refusal, mark, hint, children }: FieldProps): JSX.Element {
  const id = useOwnId();
  const wrong = fieldWords(useWords(), refusal, pointer);
  return (
    <div class="field">
      <div class="label-line">
        <label class="label" for={id}>{label}</label>
        {mark !== undefined && <span class="mark-word">{mark}</span>}
      </div>
      {children({ id, class: 'input', 'aria-describedby': `${id}-hint`, 'aria-invalid': wrong !== '', ...(mark !== undefined && { 'aria-required': true as const }) })}
      <div id={`${id}-hint`}>
        {wrong !== '' && <p class="wrong">{wrong}</p>}
        {hint !== undefined && <p class="hint">{hint}</p>}
      </div>
    </div>
  );
}

interface TextFieldProps extends Omit<FieldProps, 'children'> {
  value: string;
  setValue: (value: string) => void;
  type?: string;
  autocomplete?: string;
  inputMode?: 'numeric' | 'email' | 'text';
  focused?: boolean;
}

export function TextField({ value, setValue, type = 'text', autocomplete = 'off', inputMode, focused, ...field }: TextFieldProps): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    if (focused) input.current?.focus();
  }, []);
  return (
    <Field {...field}>
      {(control) => (
        <input
          {...control}
          ref={input}
          type={type}
          value={value}
          autocomplete={autocomplete}
          autocapitalize="none"
          spellcheck={false}
          {...(inputMode && { inputMode })}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}

interface SelectFieldProps extends Omit<FieldProps, 'children'> {
  value: string;
  setValue: (value: string) => void;
  options: readonly (readonly [string, string])[];
}

export function SelectField({ value, setValue, options, ...field }: SelectFieldProps): JSX.Element {
  return (
    <Field {...field}>
      {(control) => (
        <select {...control} value={value} onChange={(event) => setValue(event.currentTarget.value)}>
          {options.map(([key, name]) => (
            <option key={key} value={key}>{name}</option>
          ))}
        </select>
      )}
    </Field>
  );
}
