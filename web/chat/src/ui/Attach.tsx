import type { JSX } from 'preact';
import { useRef, useState } from 'preact/hooks';
import type { ChatClient } from '../client';
import { ACCEPTED, sendFile } from '../files';
import { useWords } from './context';
import { Icon } from './icons';

export function Attach({ client }: { client: ChatClient }): JSX.Element {
  const words = useWords();
  const chooser = useRef<HTMLInputElement>(null);
  const [busy, setBusy] = useState(false);
  const [say, setSay] = useState('');

  async function chosen(): Promise<void> {
    const file = chooser.current?.files?.[0];
    if (!file) return;
    setBusy(true);
    setSay(words.uploading.replace('{name}', file.name));
    const wrong = await sendFile(client, words, file);
    setBusy(false);
    setSay(wrong ?? '');
    if (chooser.current) chooser.current.value = '';
  }

  return (
    <>
      <button
        type="button"
        class="round attach"
        aria-label={words.attach}
        title={words.attach}
        disabled={busy || client.closedBy !== null}
        onClick={() => chooser.current?.click()}
      >
        <Icon name="attach" />
      </button>
      <input ref={chooser} class="chooser" type="file" accept={ACCEPTED} tabIndex={-1} aria-hidden="true" onChange={() => void chosen()} />
      <p class={say === '' ? 'sr-only' : 'upload-state'} role="status" dir="auto">{say}</p>
    </>
  );
}
