import type { JSX } from 'preact';
import { safeHref } from '../markdown';
import { sizeText, type Part, type Press } from '../parts';
import { useWords } from './context';
import { Icon } from './icons';
import { Markdown } from './Markdown';

/** A message of several parts. Addresses are as little trusted as a model's. */
export function Parts({ parts, say }: { parts: Part[]; say: (text: string) => void }): JSX.Element {
  return (
    <div class="parts">
      {parts.map((part, index) => (
        <PartView key={index} part={part} say={say} />
      ))}
    </div>
  );
}

function PartView({ part, say }: { part: Part; say: (text: string) => void }): JSX.Element {
  switch (part.type) {
    case 'text':
      return part.markdown ? <Markdown text={part.text} streaming={false} /> : <p class="words" dir="auto">{part.text}</p>;
    case 'file':
      return <File {...part} />;
    case 'presses':
      return (
        <div class="presses">
          {part.title !== '' && <p class="presses-title" dir="auto">{part.title}</p>}
          {part.text !== '' && <p class="words" dir="auto">{part.text}</p>}
          <ul>
            {part.presses.map((press, index) => (
              <li key={index}><PressView press={press} say={say} /></li>
            ))}
          </ul>
        </div>
      );
  }
}

function PressView({ press, say }: { press: Press; say: (text: string) => void }): JSX.Element {
  if (press.url === undefined) {
    return <button type="button" class="press" dir="auto" onClick={() => say(press.say ?? press.label)}>{press.label}</button>;
  }
  const href = safeHref(press.url);
  if (href === null) return <span class="press dead" dir="auto">{press.label}</span>;
  return <a class="press" dir="auto" href={href} target="_blank" rel="noopener noreferrer nofollow">{press.label}</a>;
}

function File({ name, size, url, caption, voice }: Extract<Part, { type: 'file' }>): JSX.Element {
  const words = useWords();
  const href = url === '' ? null : safeHref(url);
  const inside = (
    <>
      <Icon name={voice ? 'mic' : 'file'} />
      <span class="file-name" dir="auto">{voice ? words.voiceMessage : name}</span>
      {size > 0 && <span class="file-size">{sizeText(size)}</span>}
    </>
  );
  return (
    <div class="file-part">
      {href === null ? <span class="file">{inside}</span> : <a class="file" href={href} target="_blank" rel="noopener noreferrer nofollow">{inside}</a>}
      {caption !== '' && <p class="words" dir="auto">{caption}</p>}
    </div>
  );
}
