/** What state a channel is in, and what a form about one means. */
import { Refusal, type WrongField } from './api';
import type { Channel, ChannelKind, KindField } from './protocol';

export type ChannelState = 'live' | 'sandbox' | 'closed' | 'fault' | 'untried';

/** The worst that is to be said of it. */
export function channelState(channel: Channel): ChannelState {
  if (!channel.open) return 'closed';
  const { partner } = channel;
  if (partner?.endpoint === 'paused' || partner?.endpoint === 'disabled') return 'fault';
  if (partner) return partner.sandbox ? 'sandbox' : 'live';
  if (channel.fault !== null) return 'fault';
  return isTried(channel.kind) && channel.connected_at === null ? 'untried' : 'live';
}

/** Whether this kind of channel has a platform whose credentials can be tried. */
export function isTried(kind: string): boolean {
  return kind !== 'web' && kind !== 'partner';
}

/** What a form holds: each field's text, one line per item of a list. */
export type Values = Record<string, string>;

/** What a form shows of what is set. */
export function readValues(kind: ChannelKind, settings: Record<string, unknown>): Values {
  const values: Values = {};
  for (const field of kind.fields) {
    const value = field.secret ? undefined : settings[field.name];
    values[field.name] = Array.isArray(value) ? value.join('\n') : value === undefined || value === null ? '' : String(value);
  }
  return values;
}

/** The body of a request: what is empty is left out. */
export function readForm(kind: ChannelKind, values: Values): { settings: Record<string, unknown>; secrets: Record<string, string> } {
  const settings: Record<string, unknown> = {};
  const secrets: Record<string, string> = {};
  for (const field of kind.fields) {
    const text = (values[field.name] ?? '').trim();
    if (text === '') continue;
    if (field.secret) secrets[field.name] = text;
    else settings[field.name] = settingOf(field, text);
  }
  return { settings, secrets };
}

function settingOf(field: KindField, text: string): unknown {
  switch (field.form) {
    case 'bool':
      return text === 'true';
    case 'number':
      // The server says what is wrong with what is no number.
      return /^-?\d+$/.test(text) ? Number(text) : text;
    case 'list':
      return entries(text);
    default:
      return text;
  }
}

/** One entry a line, but for keys in PEM, which have several. */
function entries(text: string): string[] {
  const [keys, rest] = [text.match(PEM) ?? [], text.replace(PEM, '')];
  return [...rest.split('\n'), ...keys].map((entry) => entry.trim()).filter((entry) => entry !== '');
}

const PEM = /-----BEGIN [^-]+-----[\s\S]*?-----END [^-]+-----/g;

/** What the server would silently not understand: sites that are none, and colours. */
export function checkWeb(settings: Record<string, unknown>): void {
  const wrong: WrongField[] = [];
  for (const site of (settings['origins'] as string[] | undefined) ?? []) {
    if (!isSite(site)) wrong.push({ pointer: '/settings/origins', detail: `${site}: has to be a site such as https://shop.example` });
  }
  const color = settings['color'];
  if (typeof color === 'string' && !/^#[0-9a-f]{6}$/i.test(color)) wrong.push({ pointer: '/settings/color', detail: 'has to be a colour such as #0b7468' });
  if (wrong.length > 0) throw new Refusal(422, 'validation_failed', '', wrong);
}

function isSite(text: string): boolean {
  if (!/^https?:\/\//i.test(text) || text.includes('*') || !URL.canParse(text)) return false;
  const url = new URL(text);
  return url.pathname === '/' && url.search === '' && url.hash === '' && url.username === '' && url.password === '';
}

/** What a page of the business needs to show the chat. */
export function snippet(origin: string, key: string): string {
  return `<script src="${origin}/widget.js" data-key="${key}" async></script>`;
}

/** Sentences after each other: Chinese has no space between them. */
export function sentences(texts: readonly string[], language: string): string {
  return texts.filter((text) => text !== '').join(language === 'zh' ? '' : ' ');
}

const UNITS = [['day', 86_400_000], ['hour', 3_600_000], ['minute', 60_000]] as const;

/** How long ago something was, roughly. */
export function ago(iso: string, nowMs: number, language: string): string {
  const since = Math.max(0, nowMs - Date.parse(iso));
  const format = new Intl.RelativeTimeFormat(language === 'zh' ? 'zh-CN' : 'en', { numeric: 'auto' });
  const [unit, length] = UNITS.find(([, ms]) => ms <= since) ?? ['second', Number.POSITIVE_INFINITY];
  return format.format(-Math.floor(since / length), unit);
}

/** What is wrong with a channel, which begins with the name of a setting: its label is what people see. */
export function labelled(fault: string, kind: ChannelKind | null, language: string): string {
  const [, name, rest] = /^(\w+): (.*)$/s.exec(fault) ?? [];
  const field = kind?.fields.find((one) => one.name === name);
  return field ? `${language === 'zh' ? field.label_zh : field.label}: ${rest}` : fault;
}
