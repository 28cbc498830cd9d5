import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { ChatClient } from '../client';
import { Refusal } from '../transport';
import { clock, LONGEST_MS, Recording, type Silence } from '../voice';
import { explain } from '../words';
import { useWords } from './context';
import { Icon } from './icons';

interface VoiceProps {
  client: ChatClient;
  /** Shows what went wrong; nothing if it is empty. */
  complain: (words: string) => void;
}

type Stage = 'idle' | 'asking' | 'recording' | 'sending';

/** Press to speak, press to send. While somebody speaks it covers the line for words. */
export function Voice({ client, complain }: VoiceProps): JSX.Element {
  const words = useWords();
  const [stage, setStage] = useState<Stage>('idle');
  const [length, setLength] = useState(0);
  const recording = useRef<Recording | null>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const sender = useRef<HTMLButtonElement>(null);
  const gone = useRef(false);
  const left = useRef(false);

  // Whoever closes the chat turns the microphone off.
  useEffect(() => () => {
    gone.current = true;
    void recording.current?.end();
  }, []);
  useLayoutEffect(() => {
    if (stage === 'recording') sender.current?.focus();
    // Not before it is drawn as one that can be pressed: another takes no focus.
    if (stage === 'idle' && left.current) opener.current?.focus();
    left.current = false;
    if (stage !== 'recording') return;
    const timer = setInterval(() => {
      const so = recording.current?.length ?? 0;
      setLength(so);
      if (so >= LONGEST_MS) void recording.current?.end();
    }, 200);
    return () => clearInterval(timer);
  }, [stage]);

  async function begin(): Promise<void> {
    complain('');
    setStage('asking');
    setLength(0);
    try {
      recording.current = await Recording.begin();
      if (gone.current) return void recording.current.end();
      setStage('recording');
    } catch (why) {
      complain(words.silence[why as Silence]);
      setStage('idle');
    }
  }
  function leave(): void {
    recording.current = null;
    left.current = true;
    setStage('idle');
  }
  function cancel(): void {
    void recording.current?.end();
    leave();
  }
  async function send(): Promise<void> {
    complain('');
    setStage('sending');
    try {
      await recording.current?.send(client);
      leave();
    } catch (error) {
      // It is kept: the person may press again.
      complain(error instanceof Refusal ? explain(words, error.code) : words.voiceFailed);
      setStage('recording');
    }
  }

  const open = stage === 'recording' || stage === 'sending';
  return (
    <>
      <button
        ref={opener}
        type="button"
        class="round mic"
        aria-label={words.speak}
        title={words.speak}
        disabled={stage !== 'idle' || client.closedBy !== null}
        onClick={() => void begin()}
      >
        <Icon name="mic" />
      </button>
      <span class="sr-only" role="status">{stage === 'recording' ? words.recording : stage === 'sending' ? words.sending : ''}</span>
      {open && (
        <div
          class="recording"
          role="group"
          aria-label={words.voiceMessage}
          onKeyDown={(event) => {
            if (event.key !== 'Escape') return;
            event.stopPropagation();
            cancel();
          }}
        >
          <button type="button" class="round quiet" aria-label={words.cancelVoice} title={words.cancelVoice} disabled={stage === 'sending'} onClick={cancel}>
            <Icon name="close" />
          </button>
          <span class="lamp" aria-hidden="true" />
          <span class="length" role="timer" aria-label={words.length}>{clock(length)}</span>
          <button ref={sender} type="button" class="round" aria-label={words.sendVoice} title={words.sendVoice} disabled={stage === 'sending'} onClick={() => void send()}>
            <Icon name="send" />
          </button>
        </div>
      )}
    </>
  );
}
