/**
 * Files of the conversation. One that is sent is looked at here first, so that a visitor hears at once
 * what the server would say.
 */
import { clientId, type ChatClient } from './client';
import { Refusal } from './transport';
import type { Words } from './words';

export const ACCEPTED = 'image/jpeg,image/png,image/gif,image/webp,application/pdf,audio/*,text/plain,.txt,.md,.csv,.log';
const MAX_BYTES = 10 * 1024 * 1024;

/** Sends a file; answers what went wrong, in words. */
export async function sendFile(client: ChatClient, words: Words, file: File): Promise<string | null> {
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

/** What is drawn as a picture: nothing that could hold a script. */
const SHOWN = /^image\/(jpeg|png|gif|webp)$/;

/** Fetches pictures with the visitor's token, each once: an address alone opens none of them. */
export class Pictures {
  #ask: ChatClient['ask'];
  #known = new Map<string, Promise<string | null>>();

  constructor(ask: ChatClient['ask']) {
    this.#ask = ask;
  }

  /** An address within this page; `null` if there is no such picture. */
  address(uploadId: string): Promise<string | null> {
    const known = this.#known.get(uploadId) ?? this.#fetch(uploadId);
    this.#known.set(uploadId, known);
    return known;
  }

  async #fetch(uploadId: string): Promise<string | null> {
    try {
      const response = await this.#ask(`/files/${encodeURIComponent(uploadId)}`, {});
      const picture = await response.blob();
      return SHOWN.test(picture.type) ? URL.createObjectURL(picture) : null;
    } catch (error) {
      // A line that broke may be back the next time that it is drawn.
      if (!(error instanceof Refusal) || error.status !== 404) this.#known.delete(uploadId);
      return null;
    }
  }
}
