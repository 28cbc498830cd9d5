import type { JSX } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Attach } from '../../../chat/src/ui/Attach';
import { Banner } from '../../../chat/src/ui/Banner';
import { Composer } from '../../../chat/src/ui/Composer';
import { useWords } from '../../../chat/src/ui/context';
import { Icon } from '../../../chat/src/ui/icons';
import { Log } from '../../../chat/src/ui/Log';
import { download, transcript } from '../transcript';
import { WIDGET_WORDS } from '../words';
import { Copy } from './Copy';
import { Rating } from './Rating';
import type { WidgetProps } from './Widget';

const REACHED_BY_TAB = 'button:not(:disabled), input:not([tabindex="-1"]), textarea:not(:disabled), a[href], [tabindex="0"]';
/** As in widget.css: below it the panel covers the page. */
const COVERING = '(max-width: 480px)';

export function Panel(props: WidgetProps): JSX.Element {
  const { client, face, tongue, toggle } = props;
  const words = useWords();
  const own = WIDGET_WORDS[tongue.language];
  const panel = useRef<HTMLDivElement>(null);
  const input = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState('');
  const [copying, setCopying] = useState(false);
  const title = face.title || client.channel?.name || 'Qudao';

  useLayoutEffect(() => {
    // A keyboard that opens by itself would hide the greeting on a phone.
    if (matchMedia('(pointer: fine)').matches) input.current?.focus();
    else panel.current?.focus();
  }, []);

  function keyDown(event: KeyboardEvent): void {
    if (event.key === 'Escape') {
      event.stopPropagation();
      toggle(false);
    } else if (event.key === 'Tab') {
      keepInside(event, panel.current as HTMLElement);
    }
  }
  function submit(): void {
    client.send(text.trim());
    setText('');
  }
  function edit(id: string): void {
    setText(client.discard(id));
    input.current?.focus();
  }
  function say(words: string): void {
    client.send(words);
    input.current?.focus();
  }
  function save(): void {
    const names = { you: words.you, assistant: title };
    download(transcript(client.timeline.entries, names, tongue.tag), 'conversation.txt');
  }

  const intro = face.intro || (face.ai_disclosure ? own.intro : '');
  return (
    <div
      ref={panel}
      class="panel"
      role="dialog"
      aria-modal={matchMedia(COVERING).matches}
      aria-labelledby="qudao-title"
      tabIndex={-1}
      onKeyDown={keyDown}
    >
      <header class="top">
        <div class="header-name">
          <h2 id="qudao-title">
            <span class="header-title" dir="auto">{title}</span>
            {face.ai_disclosure && <span class="badge">{words.badge}</span>}
          </h2>
          <p class={`header-state ${client.connection}`}>
            <span class="dot" aria-hidden="true" />
            <span dir="auto">{words.states[client.connection]}</span>
          </p>
        </div>
        {face.transcript && client.timeline.cursor !== '' && (
          <button type="button" class="tool" aria-label={own.save} title={own.save} onClick={() => (face.transcript_mail ? setCopying(!copying) : save())}>
            <Icon name="save" />
          </button>
        )}
        <button type="button" class="tool" aria-label={own.close} title={own.close} onClick={() => toggle(false)}>
          <Icon name="close" />
        </button>
      </header>
      <Log
        client={client}
        language={tongue.language}
        edit={edit}
        say={say}
        welcome={{ greeting: client.channel?.greeting || words.hello, intro, suggestions: face.quick_replies }}
      />
      <footer class="footer">
        <Banner client={client} />
        {copying && <Copy {...props} save={save} done={() => setCopying(false)} />}
        {face.csat && <Rating {...props} />}
        <Composer
          client={client}
          text={text}
          setText={setText}
          submit={submit}
          input={input}
          note={face.ai_disclosure ? words.disclosure : ''}
        >
          {face.uploads && <Attach client={client} />}
        </Composer>
      </footer>
    </div>
  );
}

/** Tab goes round within the dialog. */
function keepInside(event: KeyboardEvent, panel: HTMLElement): void {
  const reached = [...panel.querySelectorAll<HTMLElement>(REACHED_BY_TAB)].filter((node) => node.offsetParent !== null);
  const [first, last] = [reached[0], reached.at(-1)];
  const active = (panel.getRootNode() as ShadowRoot).activeElement;
  if (!first || !last) return;
  if (event.shiftKey && (active === first || active === panel)) last.focus();
  else if (!event.shiftKey && active === last) first.focus();
  else return;
  event.preventDefault();
}
