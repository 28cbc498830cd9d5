import type { JSX } from 'preact';
import type { ChatClient } from '../client';
import { explain } from '../words';
import { useWords } from './context';

/** What is wrong with the line or the channel, while something is. */
export function Banner({ client }: { client: ChatClient }): JSX.Element {
  const words = useWords();
  const say =
    client.closedBy !== null
      ? explain(words, client.closedBy)
      : client.connection === 'offline'
        ? words.offline
        : client.connection === 'reconnecting'
          ? words.reconnecting
          : '';
  return (
    <div class="banner-place" role="status">
      {say !== '' && (
        <p class={client.closedBy !== null ? 'banner closed' : `banner ${client.connection}`}>
          <span dir="auto">{say}</span>
          {client.closedBy !== null && (
            <button type="button" onClick={() => client.reconnectNow()}>{words.retry}</button>
          )}
        </p>
      )}
    </div>
  );
}
