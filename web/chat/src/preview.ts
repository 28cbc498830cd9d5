/**
 * The part of a reply that has been streamed but not yet stored.
 *
 * Deltas travel over a lossy bus and may be repeated after a reconnect, so each one says where it
 * belongs. Text is shown only up to the first hole; the stored message replaces all of it anyway.
 */
import type { DeltaFrame } from './protocol';

/** Deltas kept while waiting for an earlier one; a reply that needs more is better read when stored. */
const MAX_WAITING = 512;

export interface Preview {
  turn: string;
  epoch: number;
  text: string;
  waiting: DeltaFrame[];
}

export function startPreview(turn: string, epoch: number): Preview {
  return { turn, epoch, text: '', waiting: [] };
}

/** Puts a delta in its place; answers whether the visible text changed. */
export function applyDelta(preview: Preview, delta: DeltaFrame): boolean {
  if (delta.epoch < preview.epoch) return false;
  if (delta.epoch > preview.epoch) resetPreview(preview, delta.epoch);
  if (delta.offset > preview.text.length) {
    if (preview.waiting.length < MAX_WAITING) preview.waiting.push(delta);
    return false;
  }
  if (!append(preview, delta)) return false;
  drainWaiting(preview);
  return true;
}

/** A new attempt at the same reply starts from nothing. */
export function resetPreview(preview: Preview, epoch: number): void {
  if (epoch < preview.epoch) return;
  preview.epoch = epoch;
  preview.text = '';
  preview.waiting = [];
}

function append(preview: Preview, delta: DeltaFrame): boolean {
  const fresh = delta.text.slice(preview.text.length - delta.offset);
  preview.text += fresh;
  return fresh !== '';
}

function drainWaiting(preview: Preview): void {
  preview.waiting.sort((a, b) => a.offset - b.offset);
  while (preview.waiting[0] && preview.waiting[0].offset <= preview.text.length) {
    append(preview, preview.waiting.shift() as DeltaFrame);
  }
}
