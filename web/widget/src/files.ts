/** Sending a file: looked at here first, so that a visitor hears at once what the server would say. */
import { clientId, type ChatClient } from '../../chat/src/client';
import { Refusal } from '../../chat/src/transport';
import type { WidgetWords } from './words';

export const ACCEPTED = 'image/jpeg,image/png,image/gif,image/webp,application/pdf,audio/*,text/plain,.txt,.md,.csv,.log';
const MAX_BYTES = 10 * 1024 * 1024;

/** Sends a file; answers what went wrong, in words. */
export async function sendFile(client: ChatClient, words: WidgetWords, file: File): Promise<string | null> {
  if (file.size > MAX_BYTES) return words.fileTooLarge;
  if (client.connection !== 'online') return words.fileOffline;
  const query = `id=${clientId()}&name=${encodeURIComponent(file.name)}`;
  try {
    await client.ask(`/files?${query}`, {
      method: 'POST',
      // Not the file's own type: a page of another site would have to ask for each.
      headers: { 'content-type': 'text/plain' },
      body: file,
    });
    return null;
  } catch (error) {
    const code = error instanceof Refusal ? error.code : '';
    if (code === 'unsupported_media_type') return words.fileKind;
    return code === 'body_too_large' ? words.fileTooLarge : words.fileFailed;
  }
}
