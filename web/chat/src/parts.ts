/** What a message is made of beside words. Read once, so that whatever draws it need not doubt it. */

export interface Press {
  label: string;
  /** Opens a page, or says this. */
  url?: string;
  say?: string;
}

export type Part =
  | { type: 'text'; markdown: boolean; text: string }
  | { type: 'file'; kind: 'image' | 'audio' | 'video' | 'file'; name: string; size: number; url: string; upload: string; caption: string; voice: boolean }
  | { type: 'presses'; title: string; text: string; presses: Press[] };

/** More than this on one message is no message for people. */
const MAX_PARTS = 20;

export function readParts(value: unknown): Part[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_PARTS).map(readPart).filter((part) => part !== null);
}

type Fields = Record<string, unknown>;

function readPart(value: unknown): Part | null {
  if (typeof value !== 'object' || value === null) return null;
  const part = value as Fields;
  const voice = part['type'] === 'audio' && part['voice'] === true;
  switch (part['type']) {
    case 'text':
      return { type: 'text', markdown: part['format'] === 'markdown', text: text(part['text']) };
    case 'image':
    case 'audio':
    case 'video':
    case 'file':
      return {
        type: 'file',
        kind: part['type'],
        // Of a voice message the words are told beside it, once they are known.
        name: voice ? '' : text(part['alt']) || text(part['name']),
        size: typeof part['size'] === 'number' ? part['size'] : 0,
        url: text(part['url']),
        upload: text(part['upload_id']),
        caption: text(voice ? part['alt'] : part['caption']),
        voice,
      };
    case 'buttons':
      return { type: 'presses', title: '', text: '', presses: list(part['items']).map(press) };
    case 'list':
      return { type: 'presses', title: text(part['label']), text: '', presses: list(part['rows']).map(press) };
    case 'card':
      return { type: 'presses', title: text(part['title']), text: text(part['text']), presses: list(part['items']).map(press) };
    case 'quote':
      return { type: 'text', markdown: false, text: text(part['text']).replace(/^/gm, '> ') };
    default:
      return fallback(part);
  }
}

/** Words for what this version does not know; nothing if there are none. */
function fallback(part: Fields): Part | null {
  const words = [part['fallback_text'], part['name'], part['address'], part['phone']].map(text).filter(Boolean);
  return words.length > 0 ? { type: 'text', markdown: false, text: words.join('\n') } : null;
}

function press(item: Fields): Press {
  const label = text(item['label']);
  if (item['kind'] === 'url') return { label, url: text(item['url']) };
  return { label, say: text(item['value']) || label };
}

function list(value: unknown): Fields[] {
  const items = Array.isArray(value) ? (value as unknown[]) : [];
  return items.filter((item): item is Fields => typeof item === 'object' && item !== null).slice(0, MAX_PARTS);
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** `1.4 MB`, as people read it. */
export function sizeText(bytes: number): string {
  if (bytes <= 0) return '';
  if (bytes < 1024) return `${bytes} B`;
  const [size, unit] = bytes < 1024 * 1024 ? [bytes / 1024, 'KB'] : [bytes / (1024 * 1024), 'MB'];
  return `${size.toFixed(size < 10 ? 1 : 0)} ${unit}`;
}
