import type { JSX } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { MarkdownWriter } from '../markdown';
import { copyText } from './clipboard';
import { useWords } from './context';

/** A reply; Preact never touches the inside, so a finished part is never drawn again. */
export function Markdown({ text, streaming }: { text: string; streaming: boolean }): JSX.Element {
  const words = useWords();
  const root = useRef<HTMLDivElement>(null);
  const writer = useRef<MarkdownWriter | null>(null);

  useLayoutEffect(() => {
    writer.current = new MarkdownWriter(root.current as HTMLElement, { copy: words.copy, code: words.code });
  }, [words]);
  useLayoutEffect(() => {
    writer.current?.show(text, !streaming);
  }, [text, streaming, words]);

  async function copyCode(event: MouseEvent): Promise<void> {
    const button = (event.target as Element).closest('.md-copy');
    const code = button?.closest('.md-code')?.querySelector('code')?.textContent;
    if (!button || code == null || !(await copyText(code))) return;
    button.textContent = words.copied;
    setTimeout(() => (button.textContent = words.copy), 1600);
  }

  return <div class={streaming ? 'md streaming' : 'md'} dir="auto" ref={root} onClick={(event) => void copyCode(event)} />;
}
