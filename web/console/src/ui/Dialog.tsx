/** What lies over the page until it is answered. */
import type { ComponentChildren, JSX } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { copyText } from '../../../chat/src/ui/clipboard';
import { useWords } from './context';
import { Form, Refused, useAct, useOwnId } from './form';

interface DialogProps {
  title: string;
  close: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, close, children }: DialogProps): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useOwnId();
  useLayoutEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog ref={dialog} class="dialog" aria-labelledby={id} onClose={close}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  body: string;
  action: string;
  close: () => void;
  run: () => Promise<void>;
}

/** Asks before something that cannot simply be taken back. */
export function Confirm({ title, body, action, close, run }: ConfirmProps): JSX.Element {
  const words = useWords();
  const act = useAct();
  return (
    <Dialog title={title} close={close}>
      <Form
        act={act}
        submit={async () => {
          await run();
          close();
        }}
      >
        <p>{body}</p>
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{words.cancel}</button>
          <button type="submit" class="button strong danger" disabled={act.busy}>{action}</button>
        </div>
      </Form>
    </Dialog>
  );
}

interface ShownOnceProps {
  title: string;
  note: string;
  label: string;
  value: string;
  close: () => void;
}

/** A secret that the server does not tell again. */
export function ShownOnce({ title, note, label, value, close }: ShownOnceProps): JSX.Element {
  const words = useWords();
  return (
    <Dialog title={title} close={close}>
      <div class="form">
        <p>{note}</p>
        <code class="secret" data-test="secret" aria-label={label}>{value}</code>
        <div class="actions">
          <CopyButton value={value} />
          <button type="button" class="button strong" onClick={close}>{words.done}</button>
        </div>
      </div>
    </Dialog>
  );
}

/** `label` names what is copied, where a page has several. */
export function CopyButton({ value, label }: { value: string; label?: string }): JSX.Element {
  const words = useWords();
  const [copied, setCopied] = useState(false);
  return (
    <button type="button" class="button" onClick={() => void copyText(value).then(setCopied)}>
      <span role="status">{copied ? words.copied : words.copy}</span>
      {label !== undefined && <span class="sr-only">: {label}</span>}
    </button>
  );
}
