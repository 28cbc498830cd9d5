import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { ChatClient } from '../client';
import type { Entry } from '../timeline';
import type { Language } from '../words';
import { useWords } from './context';
import { Icon, Mark } from './icons';
import { Message } from './Message';

interface LogProps {
  client: ChatClient;
  language: Language;
  edit: (id: string) => void;
  /** Says what was pressed. */
  say: (text: string) => void;
  /** What is there before anything was said. */
  welcome: Welcoming;
  /** The chat is all of its page, and not a part of one. */
  main?: boolean;
}

export interface Welcoming {
  greeting: string;
  intro: string;
  suggestions: readonly string[];
}

/** A reader within this distance of the end follows the stream; anyone higher is left in peace. */
const NEAR_END_PX = 48;

export function Log({ client, language, edit, say, welcome, main = false }: LogProps): JSX.Element {
  const words = useWords();
  const { entries } = client.timeline;
  const busy = client.timeline.isBusy(Date.now());
  const streaming = entries.some((entry) => entry.streaming);
  const scroll = useFollow(entries);
  const empty = entries.length === 0 && client.channel !== null && (client.loaded || !client.returning);
  const lastId = entries.at(-1)?.id;
  const Frame = main ? 'main' : 'div';
  return (
    <Frame class="log-frame">
      <div
        class="log"
        ref={scroll.log}
        onScroll={scroll.onScroll}
        role="log"
        aria-live="off"
        aria-label={words.conversation}
        tabIndex={0}
      >
        <div class="column" ref={scroll.content}>
          {empty && <Welcome {...welcome} say={say} />}
          <ol class="entries">
            {entries.map((entry) => (
              <Message
                key={entry.id}
                entry={entry}
                language={language}
                offline={client.connection !== 'online'}
                last={entry.id === lastId}
                retry={(id) => client.retry(id)}
                edit={edit}
                say={say}
              />
            ))}
          </ol>
          {busy && !streaming && (
            <div class="entry assistant thinking" data-test="thinking">
              <Mark />
              <p class="dots"><span /><span /><span /><span class="sr-only">{words.thinking}</span></p>
            </div>
          )}
        </div>
      </div>
      <Announcer entries={entries} loaded={client.loaded} />
      {!scroll.following && (
        <button type="button" class={scroll.unseen ? 'to-end unseen' : 'to-end'} aria-label={scroll.unseen ? words.newMessages : words.toBottom} onClick={scroll.toEnd}>
          <Icon name="down" />
          {scroll.unseen && <span>{words.newMessages}</span>}
        </button>
      )}
    </Frame>
  );
}

function Welcome({ greeting, intro, suggestions, say }: Welcoming & { say: (text: string) => void }): JSX.Element {
  return (
    <section class="welcome">
      <Mark />
      <h2 dir="auto">{greeting}</h2>
      {intro !== '' && <p dir="auto">{intro}</p>}
      {suggestions.length > 0 && (
        <ul class="chips">
          {suggestions.map((text) => (
            <li key={text}>
              <button type="button" dir="auto" onClick={() => say(text)}>{text}</button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

/** Tells a screen reader each finished reply once, and nothing of the history. */
function Announcer({ entries, loaded }: { entries: Entry[]; loaded: boolean }): JSX.Element {
  const told = useRef<string | null>(null);
  const [text, setText] = useState('');
  const place = useRef<HTMLDivElement>(null);
  const last = entries.findLast((entry) => entry.role !== 'user' && entry.key !== undefined);
  useEffect(() => {
    if (!loaded) return;
    const key = last?.key ?? '';
    if (told.current !== null && told.current !== key && last) setText(spoken(last, place.current?.getRootNode() as ParentNode));
    told.current = key;
  }, [last?.key, loaded]);
  return <div ref={place} class="sr-only" role="status" aria-live="polite" dir="auto">{text}</div>;
}

/** The words of a reply as they are drawn: nobody wants its asterisks read aloud. */
function spoken(entry: Entry, root: ParentNode): string {
  const drawn = root.querySelector(`[data-key="${entry.key}"] .md`);
  return drawn?.textContent || entry.text;
}

/** Keeps the end in view while the reader is there, and only then. */
function useFollow(entries: Entry[]) {
  const log = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const stick = useRef(true);
  const lastTop = useRef(0);
  const [following, setFollowing] = useState(true);
  const [unseen, setUnseen] = useState(false);
  const lastTyped = entries.findLast((entry) => entry.id.startsWith('c:'))?.id;

  function toEnd(): void {
    stick.current = true;
    setFollowing(true);
    setUnseen(false);
    jump();
  }
  function jump(): void {
    const node = log.current;
    if (node && stick.current) node.scrollTop = node.scrollHeight;
  }
  function onScroll(): void {
    const node = log.current as HTMLDivElement;
    const distance = node.scrollHeight - node.scrollTop - node.clientHeight;
    if (distance <= NEAR_END_PX) stick.current = true;
    else if (node.scrollTop < lastTop.current) stick.current = false;
    lastTop.current = node.scrollTop;
    setFollowing(stick.current);
    if (stick.current) setUnseen(false);
  }

  // What is typed on this page comes into view; what the visitor typed in another tab does not.
  useLayoutEffect(toEnd, [lastTyped]);
  useLayoutEffect(() => {
    if (stick.current) jump();
    else setUnseen(true);
  }, [entries]);
  // The keyboard of a phone, a growing input and late fonts change heights without a render.
  useEffect(() => {
    const observer = new ResizeObserver(jump);
    observer.observe(log.current as Element);
    observer.observe(content.current as Element);
    return () => observer.disconnect();
  }, []);
  return { log, content, onScroll, toEnd, following, unseen };
}
