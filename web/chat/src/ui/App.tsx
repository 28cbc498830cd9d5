import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { ChatClient } from '../client';
import type { Settings } from '../settings';
import { explain, WORDS } from '../words';
import { Attach } from './Attach';
import { Banner } from './Banner';
import { Composer } from './Composer';
import { PicturesContext, WordsContext } from './context';
import { Header } from './Header';
import { Mark } from './icons';
import { Log } from './Log';

interface AppProps {
  client: ChatClient;
  settings: Settings;
  changed: () => void;
}

export function App({ client, settings, changed }: AppProps): JSX.Element {
  const words = WORDS[settings.language];
  const [text, setText] = useState('');
  const input = useRef<HTMLTextAreaElement>(null);
  const name = client.channel?.assistant || client.channel?.name;

  useEffect(() => {
    document.title = name ? `${name} · Qudao 渠道` : 'Qudao 渠道';
  }, [name]);
  useLayoutEffect(() => {
    // A keyboard that opens by itself would hide the greeting on a phone.
    if (matchMedia('(pointer: fine)').matches) input.current?.focus();
  }, []);

  function submit(): void {
    client.send(text.trim());
    setText('');
  }
  function edit(id: string): void {
    setText(client.discard(id));
    input.current?.focus();
  }

  if (client.closedBy !== null && client.channel === null) {
    return (
      <WordsContext.Provider value={words}>
        <main class="lost">
          <Mark />
          <h1>{words.lostTitle}</h1>
          <p>{explain(words, client.closedBy)}</p>
          <button type="button" onClick={() => client.reconnectNow()}>{words.reload}</button>
        </main>
      </WordsContext.Provider>
    );
  }
  return (
    <WordsContext.Provider value={words}>
      <PicturesContext.Provider value={client.pictures}>
        <div class="page">
          <Header client={client} settings={settings} changed={changed} />
          <Log
            main
            client={client}
            language={settings.language}
            edit={edit}
            say={(chip) => client.send(chip)}
            welcome={{ greeting: client.channel?.greeting || words.hello, intro: words.intro, suggestions: words.suggestions }}
          />
          <footer class="footer">
            <Banner client={client} />
            <Composer client={client} text={text} setText={setText} submit={submit} input={input} note={words.disclosure}>
              {client.channel?.uploads && <Attach client={client} />}
            </Composer>
          </footer>
        </div>
      </PicturesContext.Provider>
    </WordsContext.Provider>
  );
}
