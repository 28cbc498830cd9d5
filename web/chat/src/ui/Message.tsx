import { Component, type JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import type { Entry } from '../timeline';
import { explain, type Language } from '../words';
import { copyText } from './clipboard';
import { useWords } from './context';
import { Icon, Mark } from './icons';
import { Markdown } from './Markdown';
import { Parts } from './Parts';

interface MessageProps {
  entry: Entry;
  language: Language;
  offline: boolean;
  last: boolean;
  retry: (id: string) => void;
  edit: (id: string) => void;
  /** Says something in the visitor's place, on a press of theirs. */
  say: (text: string) => void;
}

/** One message; drawn again only when it changed, so that a long history costs nothing per token. */
export class Message extends Component<MessageProps> {
  override shouldComponentUpdate(next: MessageProps): boolean {
    const { entry, language, offline, last } = this.props;
    return entry !== next.entry || language !== next.language || offline !== next.offline || last !== next.last;
  }

  render(): JSX.Element {
    switch (this.props.entry.role) {
      case 'user':
        return <UserMessage {...this.props} />;
      case 'assistant':
        return <Reply {...this.props} />;
      case 'notice':
        return <Notice {...this.props} />;
    }
  }
}

function UserMessage({ entry, language, offline, last, retry, edit, say }: MessageProps): JSX.Element {
  const words = useWords();
  const state = entry.send ?? 'sent';
  return (
    <li class={`entry user ${state}`} data-key={entry.key} data-send={state}>
      <h2 class="sr-only">{words.you}</h2>
      <div class="bubble" dir="auto">{entry.parts ? <Parts parts={entry.parts} say={say} /> : entry.text}</div>
      {state === 'failed' ? (
        <div class="failure" role="alert">
          <p>{explain(words, entry.failure ?? '')}</p>
          <button type="button" onClick={() => retry(entry.clientId as string)}>
            <Icon name="retry" />
            {words.retry}
          </button>
          <button type="button" onClick={() => edit(entry.clientId as string)}>{words.edit}</button>
        </div>
      ) : (
        <p class={state === 'sent' && !last ? 'meta quiet' : 'meta'}>
          {state === 'queued' && offline ? words.queued : state === 'sent' ? null : words.sending}
          {state === 'sent' && <Clock at={entry.at} language={language} />}
          {state === 'sent' && last && <span class="tick" title={words.sent}><Icon name="check" /><span class="sr-only">{words.sent}</span></span>}
        </p>
      )}
    </li>
  );
}

function Reply({ entry, language, last, say }: MessageProps): JSX.Element {
  const words = useWords();
  const [copied, setCopied] = useState(false);
  const streaming = entry.streaming === true;
  async function copy(): Promise<void> {
    if (!(await copyText(entry.text))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 1600);
  }
  return (
    <li class="entry assistant" data-key={entry.key} data-turn={entry.turn} data-streaming={streaming}>
      <Mark />
      <div class="reply">
        <h2 class="sr-only">{words.assistant}</h2>
        {entry.parts ? <Parts parts={entry.parts} say={say} /> : <Markdown text={entry.text} streaming={streaming} />}
        {entry.key !== undefined && (
          <div class={last ? 'meta' : 'meta quiet'}>
            <button type="button" class="copy" aria-label={words.copyReply} title={words.copyReply} onClick={() => void copy()}>
              <Icon name={copied ? 'check' : 'copy'} />
              <span aria-live="polite">{copied ? words.copied : words.copy}</span>
            </button>
            <Clock at={entry.at} language={language} />
          </div>
        )}
      </div>
    </li>
  );
}

function Notice({ entry }: MessageProps): JSX.Element {
  const words = useWords();
  return (
    <li class="entry notice" data-key={entry.key}>
      <Icon name="info" />
      <h2 class="sr-only">{words.notice}</h2>
      <p dir="auto">{entry.text}</p>
    </li>
  );
}

function Clock({ at, language }: { at: string; language: Language }): JSX.Element | null {
  const text = useMemo(() => clockText(at, language), [at, language]);
  return text === null ? null : <time dateTime={at}>{text}</time>;
}

function clockText(at: string, language: Language): string | null {
  const time = new Date(at);
  if (Number.isNaN(time.getTime())) return null;
  const today = new Date().toDateString() === time.toDateString();
  const clock = { hour: '2-digit', minute: '2-digit' } as const;
  const format = today ? clock : ({ month: 'short', day: 'numeric', ...clock } as const);
  return time.toLocaleString(language === 'zh' ? 'zh-CN' : 'en-GB', format);
}
