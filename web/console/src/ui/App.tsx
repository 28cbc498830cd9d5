import type { JSX } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Settings } from '../../../chat/src/settings';
import type { Console } from '../console';
import { pagesFor } from '../scopes';
import { refusalWords, WORDS } from '../words';
import { Accept } from './Accept';
import { Account } from './Account';
import { Audit } from './Audit';
import { SurroundingsContext, useSurroundings } from './context';
import { Door } from './Door';
import { Header } from './Header';
import { Home } from './Home';
import { Keys } from './Keys';
import { Lazy } from './Lazy';
import { Members } from './Members';
import { SignIn } from './SignIn';
import { SignInFailed } from './SignInFailed';

interface AppProps {
  console: Console;
  settings: Settings;
  changed: () => void;
}

export function App({ console, settings, changed }: AppProps): JSX.Element {
  const { language } = settings;
  const words = WORDS[language];
  return (
    <SurroundingsContext.Provider value={{ console, language, words }}>
      <Place settings={settings} changed={changed} />
    </SurroundingsContext.Provider>
  );
}

function Place({ settings, changed }: Omit<AppProps, 'console'>): JSX.Element {
  const { console, words } = useSurroundings();
  const { route, session } = console;
  const tools = { settings, changed };
  if (route.page === 'invitation') return <Door {...tools}><Accept /></Door>;
  if (route.page === 'sign-in-failed') return <Door {...tools}><SignInFailed code={route.code} /></Door>;
  if (console.asking) return <Door {...tools}><p role="status">{words.loading}</p></Door>;
  if (session === null && console.trouble !== null) {
    return (
      <Door {...tools}>
        <p class="banner bad" role="alert">{refusalWords(words, console.trouble)}</p>
        <button type="button" class="button" onClick={() => void console.refresh()}>{words.retry}</button>
      </Door>
    );
  }
  const elsewhere = route.page === 'sign-in' && route.tenant !== null && route.tenant !== session?.tenant_id;
  // Another tenant begins with an empty form.
  if (session === null || elsewhere) return <Door {...tools}><SignIn key={console.tenant ?? ''} /></Door>;
  const wanted = route.page === 'sign-in' ? 'home' : route.page;
  const page = pagesFor(session.scopes).includes(wanted) ? wanted : 'home';
  return (
    <>
      <Header {...tools} page={page} />
      <Main key={[page, route.page === page && route.item].join()} title={words.pages[page]}>
        {console.trouble && <p class="banner bad" role="alert">{refusalWords(words, console.trouble)}</p>}
        {page === 'home' && <Home />}
        {page === 'channels' && <Lazy load={async () => (await import('./Channels')).Channels} />}
        {page === 'routes' && <Lazy load={async () => (await import('./Routes')).Routes} />}
        {page === 'contacts' && <Lazy load={async () => (await import('./Contacts')).Contacts} />}
        {page === 'ratings' && <Lazy load={async () => (await import('./Ratings')).Ratings} />}
        {page === 'members' && <Members />}
        {page === 'keys' && <Keys />}
        {page === 'audit' && <Audit />}
        {page === 'account' && <Account />}
      </Main>
    </>
  );
}

/** Whoever comes to another page hears its name, before it is painted: no key goes to where they were. */
function Main({ title, children }: { title: string; children: preact.ComponentChildren }): JSX.Element {
  const heading = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    document.title = `${title} · Qudao 渠道`;
    heading.current?.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, []);
  return <main ref={heading} class="main">{children}</main>;
}
