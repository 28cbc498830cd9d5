import type { JSX } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { ChatClient } from '../../../chat/src/client';
import type { Shelf } from '../../../chat/src/outbox';
import { PicturesContext, WordsContext } from '../../../chat/src/ui/context';
import { WORDS } from '../../../chat/src/words';
import { colours } from '../colour';
import type { Face, WidgetDoor } from '../door';
import { WIDGET_WORDS, type Tongue } from '../words';
import { Panel } from './Panel';

export interface WidgetProps {
  client: ChatClient;
  door: WidgetDoor;
  face: Face;
  theme: 'light' | 'dark';
  tongue: Tongue;
  shelf: Shelf;
  channelKey: string;
  open: boolean;
  unread: number;
  toggle: (open: boolean) => void;
}

export function Widget(props: WidgetProps): JSX.Element {
  const { face, theme, tongue, open, unread, toggle } = props;
  const words = WIDGET_WORDS[tongue.language];
  const launcher = useRef<HTMLButtonElement>(null);
  const wasOpen = useRef(false);
  const own = colours(face.color, theme);
  const style = own && { '--set-brand': own.brand, '--set-on-brand': own.onBrand, '--set-accent': own.accent, '--set-on-accent': own.onAccent };
  const right = (face.position === 'end') === (tongue.direction === 'ltr');

  // Before anything is painted: the focus is never nowhere.
  useLayoutEffect(() => {
    // Whoever closes it is back where they opened it.
    if (wasOpen.current && !open) launcher.current?.focus();
    wasOpen.current = open;
  }, [open]);

  const label = unread > 0 ? words.openUnread.replace('{n}', String(unread)) : words.open;
  return (
    <WordsContext.Provider value={WORDS[tongue.language]}>
      <div class={right ? 'root right' : 'root left'} lang={tongue.tag} dir={tongue.direction} style={style ?? undefined}>
        {open && (
          <PicturesContext.Provider value={props.client.pictures}>
            <Panel {...props} />
          </PicturesContext.Provider>
        )}
        <button
          ref={launcher}
          type="button"
          class={open ? 'launcher open' : 'launcher'}
          aria-label={open ? words.close : [label, face.launcher].filter(Boolean).join(': ')}
          aria-expanded={open}
          aria-haspopup="dialog"
          onClick={() => toggle(!open)}
        >
          <svg class="launcher-icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
            <path d={open ? 'M6 9l6 6 6-6' : 'M4.5 6.5A2.5 2.5 0 0 1 7 4h10a2.5 2.5 0 0 1 2.5 2.5v7A2.5 2.5 0 0 1 17 16h-5l-4.5 4v-4H7a2.5 2.5 0 0 1-2.5-2.5Z'} />
          </svg>
          {!open && face.launcher !== '' && <span class="launcher-words" dir="auto">{face.launcher}</span>}
          {unread > 0 && <span class="unread" aria-hidden="true">{unread > 9 ? '9+' : unread}</span>}
        </button>
      </div>
    </WordsContext.Provider>
  );
}
