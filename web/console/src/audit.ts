/** Whether every word that was typed stands somewhere in the text. */
export function matches(text: string, wanted: string): boolean {
  const folded = text.toLowerCase();
  return wanted.toLowerCase().split(/\s+/).every((word) => folded.includes(word));
}

/** The id of what was acted upon, which the log names by its place: `members/mbr_…`. */
export function targetId(event: { target: string }): string {
  return event.target.slice(event.target.lastIndexOf('/') + 1);
}
