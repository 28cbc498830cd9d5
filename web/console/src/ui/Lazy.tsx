import type { ComponentType, JSX } from 'preact';
import { useEffect, useLayoutEffect, useState } from 'preact/hooks';
import { useWords } from './context';

/** A page whose script comes when somebody goes there. */
export function Lazy({ load }: { load: () => Promise<ComponentType> }): JSX.Element {
  const words = useWords();
  const [Found, setFound] = useState<ComponentType | null>(null);
  const [lost, setLost] = useState(false);
  function fetchIt(): void {
    setLost(false);
    load().then((found) => setFound(() => found), () => setLost(true));
  }
  useEffect(fetchIt, []);
  useLayoutEffect(() => {
    const main = document.querySelector('main');
    // Whoever comes to the page hears its name, unless they were faster and are in it already.
    if (Found && main && !main.contains(document.activeElement)) main.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true });
  }, [Found]);
  if (Found) return <Found />;
  if (!lost) return <p class="muted" role="status">{words.loading}</p>;
  return (
    <div class="banner bad" role="alert">
      {words.pageLost} <button type="button" class="link" onClick={() => location.reload()}>{words.retry}</button>
    </div>
  );
}
