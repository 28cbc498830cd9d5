import type { JSX } from 'preact';
import { useContext, useEffect, useState } from 'preact/hooks';
import { safeHref } from '../markdown';
import { sizeText, type Part, type Press } from '../parts';
import { PicturesContext, useWords } from './context';
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
      return part.kind === 'image' && part.upload !== '' ? <Picture {...part} /> : <File {...part} />;
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

/** A picture that the platform keeps. Until it is here, and if it never is, its name stands for it. */
function Picture(part: Extract<Part, { type: 'file' }>): JSX.Element {
  const pictures = useContext(PicturesContext);
  const [address, setAddress] = useState<string | null>(null);
  useEffect(() => {
    let drawn = true;
    void pictures?.address(part.upload).then((found) => drawn && setAddress(found));
    return () => void (drawn = false);
  }, [pictures, part.upload]);
  if (address === null) return <File {...part} />;
  return (
    <div class="file-part">
      <a class="picture" href={address} target="_blank" rel="noopener">
        <img src={address} alt={part.name} onError={() => setAddress(null)} />
      </a>
      {part.caption !== '' && <p class="words" dir="auto">{part.caption}</p>}
    </div>
  );
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
