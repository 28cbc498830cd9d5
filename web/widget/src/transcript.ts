/** The conversation as a text file. */
import type { Entry } from '../../chat/src/timeline';

export function transcript(entries: readonly Entry[], names: { you: string; assistant: string }, tag: string): string {
  const said = entries.filter((entry) => entry.key !== undefined);
  const lines = said.map((entry) => {
    const time = new Date(entry.at);
    const at = Number.isNaN(time.getTime()) ? '' : time.toLocaleString(tag, { dateStyle: 'medium', timeStyle: 'short' });
    const who = entry.role === 'user' ? names.you : names.assistant;
    return `${at} · ${who}\n${entry.text}\n`;
  });
  return lines.join('\n');
}

export function download(text: string, name: string): void {
  const address = URL.createObjectURL(new Blob(['\ufeff', text], { type: 'text/plain;charset=utf-8' }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
