import type { JSX } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Refusal } from '../../../chat/src/transport';
import { WIDGET_WORDS } from '../words';
import type { WidgetProps } from './Widget';

/** How a visitor takes the conversation along: as a file, or by mail where the server sends mail. */
export function Copy({ client, tongue, save, done }: WidgetProps & { save: () => void; done: () => void }): JSX.Element {
  const words = WIDGET_WORDS[tongue.language];
  const field = useRef<HTMLInputElement>(null);
  const [to, setTo] = useState('');
  const [busy, setBusy] = useState(false);
  const [say, setSay] = useState('');
  useLayoutEffect(() => field.current?.focus(), []);

  async function send(event: Event): Promise<void> {
    event.preventDefault();
    if (busy || to.trim() === '') return;
    setBusy(true);
    setSay('');
    try {
      await client.ask('/transcript', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ to: to.trim(), locale: tongue.language }),
      });
      setSay(words.mailed);
      setTo('');
    } catch (error) {
      const status = error instanceof Refusal ? error.status : 0;
      setSay(status === 422 ? words.mailWrong : status === 429 ? words.mailLater : words.mailFailed);
    }
    setBusy(false);
  }
  return (
    <form class="mailing" aria-label={words.save} onSubmit={(event) => void send(event)}>
      <label for="qudao-copy">{words.mailTo}</label>
      <div class="mailing-line">
        <input
          ref={field}
          id="qudao-copy"
          type="email"
          inputMode="email"
          autocomplete="email"
          maxLength={254}
          dir="ltr"
          required
          value={to}
          onInput={(event) => setTo(event.currentTarget.value)}
        />
        <button type="submit" disabled={busy}>{words.mailSend}</button>
      </div>
      <p class="mailing-note" dir="auto">{words.mailNote}</p>
      <div class="mailing-line">
        <button type="button" onClick={() => { save(); done(); }}>{words.saveFile}</button>
        <button type="button" onClick={done}>{words.cancel}</button>
      </div>
      <p class={say === '' ? 'sr-only' : 'mailing-note'} role="status" dir="auto">{say}</p>
    </form>
  );
}
