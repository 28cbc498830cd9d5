import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { WIDGET_WORDS } from '../words';
import type { WidgetProps } from './Widget';

/** Asked once an answer is there and nothing is being written; changed by another press. */
export function Rating({ client, shelf, channelKey, tongue }: WidgetProps): JSX.Element | null {
  const words = WIDGET_WORDS[tongue.language];
  const name = `qudao.${channelKey}.rated`;
  const today = new Date().toISOString().slice(0, 10);
  const [score, setScore] = useState(() => kept(shelf.get(name), today));
  const answered = client.timeline.entries.some((entry) => entry.role === 'assistant' && entry.key !== undefined);
  const quiet = !client.timeline.isBusy(Date.now());
  if (!answered || !quiet || client.connection !== 'online') return null;

  async function rate(chosen: number): Promise<void> {
    const before = score;
    setScore(chosen);
    try {
      await client.ask('/rating', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ score: chosen }),
      });
      shelf.set(name, `${today} ${chosen}`);
    } catch {
      setScore(before);
    }
  }
  return (
    <div class="rating" role="group" aria-label={words.rate}>
      <span dir="auto" aria-live="polite">{score === null ? words.rate : words.thanks}</span>
      <button type="button" aria-pressed={score === 5} onClick={() => void rate(5)}>{words.good}</button>
      <button type="button" aria-pressed={score === 1} onClick={() => void rate(1)}>{words.bad}</button>
    </div>
  );
}

function kept(text: string | null, today: string): number | null {
  const [day, score] = (text ?? '').split(' ');
  return day === today ? Number(score) : null;
}
