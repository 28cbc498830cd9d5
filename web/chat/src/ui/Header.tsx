import type { JSX } from 'preact';
import type { ChatClient } from '../client';
import type { Settings } from '../settings';
import { useWords } from './context';
import { Mark } from './icons';
import { Tools } from './Tools';

interface HeaderProps {
  client: ChatClient;
  settings: Settings;
  changed: () => void;
}

export function Header({ client, settings, changed }: HeaderProps): JSX.Element {
  const words = useWords();
  const name = client.channel?.assistant || client.channel?.name || 'Qudao';
  const state = words.states[client.connection];
  return (
    <header class="header">
      <Mark />
      <div class="header-name">
        <h1>
          <span class="header-title" dir="auto">{name}</span>
          <span class="badge">{words.badge}</span>
        </h1>
        <p class={`header-state ${client.connection}`}>
          <span class="dot" aria-hidden="true" />
          {state}
        </p>
      </div>
      <Tools words={words} settings={settings} changed={changed} />
    </header>
  );
}
