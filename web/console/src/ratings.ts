/** Sums of ratings: how often each score was given, 1 first. */

export function combine(all: readonly (readonly number[])[]): number[] {
  return [0, 1, 2, 3, 4].map((at) => all.reduce((sum, scores) => sum + (scores[at] ?? 0), 0));
}

/** How many are good: 4 or 5. */
export function good(scores: readonly number[]): number {
  return (scores[3] ?? 0) + (scores[4] ?? 0);
}

export function percent(part: number, whole: number): string {
  return whole === 0 ? '–' : `${Math.round((part / whole) * 100)} %`;
}
