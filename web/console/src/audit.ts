/** Whether every word that was typed stands somewhere in the text. */
export function matches(text: string, wanted: string): boolean {
  const folded = text.toLowerCase();
  return wanted.toLowerCase().split(/\s+/).every((word) => folded.includes(word));
}
