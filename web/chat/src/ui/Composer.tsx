import type { ComponentChildren, JSX, RefObject } from 'preact';
import { useLayoutEffect, useState } from 'preact/hooks';
import type { ChatClient } from '../client';
import { canRecord } from '../voice';
import { useWords } from './context';
import { Icon } from './icons';
import { Voice } from './Voice';

interface ComposerProps {
  client: ChatClient;
  text: string;
  setText: (text: string) => void;
  submit: () => void;
  input: RefObject<HTMLTextAreaElement>;
  /** Stands below; may be empty. */
  note: string;
  /** Stands before the words. */
  children?: ComponentChildren;
}

/** What the server accepts in one message, in Unicode characters. */
export const MAX_CHARS = 16_000;

export function Composer({ client, text, setText, submit, input, note, children }: ComposerProps): JSX.Element {
  const words = useWords();
  const [complaint, complain] = useState('');
  const busy = client.timeline.isBusy(Date.now());
  const closed = client.closedBy !== null;
  const over = text.length > MAX_CHARS ? [...text].length - MAX_CHARS : 0;
  const wrong = over > 0 ? words.tooLong.replace('{n}', String(over)) : complaint;
  const stoppable = busy && client.connection === 'online';
  const ready = text.trim() !== '' && over <= 0 && !closed;

  useLayoutEffect(() => {
    const area = input.current;
    if (!area) return;
    area.style.height = 'auto';
    area.style.height = `${area.scrollHeight}px`;
  }, [text]);

  function keyDown(event: KeyboardEvent): void {
    if (event.key === 'Escape' && busy) {
      client.stop();
      event.stopPropagation();
      return;
    }
    // 229 is what older browsers report while an input method is composing.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (ready) submit();
  }

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        if (ready) submit();
        input.current?.focus();
      }}
    >
      <div class="box">
        {children}
        <textarea
          ref={input}
          rows={1}
          dir="auto"
          value={text}
          disabled={closed}
          placeholder={words.placeholder}
          aria-label={words.inputLabel}
          aria-describedby="composer-note"
          aria-invalid={over > 0}
          enterkeyhint="send"
          autoComplete="off"
          onInput={(event) => {
            complain('');
            setText(event.currentTarget.value);
          }}
          onKeyDown={keyDown}
        />
        {client.channel?.voice && text === '' && canRecord() && <Voice client={client} complain={complain} />}
        {stoppable && (
          <button
            type="button"
            class="round stop"
            aria-label={client.stopping ? words.stopping : words.stop}
            title={client.stopping ? words.stopping : words.stop}
            disabled={client.stopping}
            onClick={() => {
              client.stop();
              input.current?.focus();
            }}
          >
            <span class="square" aria-hidden="true" />
          </button>
        )}
        {(!stoppable || text !== '') && (
          <button type="submit" class="round send" aria-label={words.send} title={words.enterHint} disabled={!ready}>
            <Icon name="send" />
          </button>
        )}
      </div>
      <p id="composer-note" dir="auto" class={wrong !== '' ? 'note wrong' : 'note'} role={wrong !== '' ? 'alert' : undefined}>
        {wrong || note}
      </p>
    </form>
  );
}
