/** The frame of the pages before somebody is in. */
import type { ComponentChildren, JSX } from 'preact';
import type { Settings } from '../../../chat/src/settings';
import { Tools } from '../../../chat/src/ui/Tools';
import { useWords } from './context';
import { Mark } from './icons';

interface DoorProps {
  settings: Settings;
  changed: () => void;
  children: ComponentChildren;
}

export function Door({ settings, changed, children }: DoorProps): JSX.Element {
  const words = useWords();
  return (
    <>
      <header class="door-tools">
        <Tools words={words} settings={settings} changed={changed} />
      </header>
      <main class="door">
        <div class="card">
          <Mark />
          {children}
        </div>
      </main>
    </>
  );
}
