import { describe, expect, it } from 'vitest';
import { MarkdownWriter, safeHref } from '../src/markdown';
import { PAYLOADS } from './payloads';

const TAGS = new Set('P H3 H4 H5 H6 DIV SPAN PRE CODE BUTTON EM STRONG S A BLOCKQUOTE BR HR UL OL LI TABLE THEAD TBODY TR TH TD'.split(' '));
const ATTRIBUTES: Record<string, RegExp> = {
  class: /^md-(code|code-bar|code-name|copy|image|check|math|table)( checked)?$|^checked$/,
  href: /^(https?:\/\/[^"<>\s]+|mailto:[^"<>\s]+)$/,
  target: /^_blank$/,
  rel: /^noopener noreferrer nofollow$/,
  type: /^button$/,
  start: /^\d{1,9}$/,
  tabindex: /^0$/,
};

function draw(text: string, cuts: (text: string) => string[]): HTMLElement {
  const root = document.createElement('div');
  const writer = new MarkdownWriter(root, { copy: 'Copy', code: 'code' });
  let shown = '';
  for (const piece of cuts(text)) writer.show((shown += piece), false);
  writer.show(text, true);
  return root;
}
const whole = (text: string) => [text];
const letters = (text: string) => [...text];
const by = (size: number) => (text: string) => {
  const all = [...text];
  return Array.from({ length: Math.ceil(all.length / size) }, (_, at) => all.slice(at * size, (at + 1) * size).join(''));
};

function assertHarmless(root: HTMLElement): void {
  for (const node of root.querySelectorAll('*')) {
    expect(TAGS, node.outerHTML).toContain(node.tagName);
    for (const { name, value } of node.attributes) {
      expect(ATTRIBUTES[name]?.test(value), `${name}="${value}"`).toBe(true);
    }
    if (node.tagName !== 'A' || !node.hasAttribute('href')) continue;
    expect(node.getAttribute('rel')).toBe('noopener noreferrer nofollow');
    expect(node.getAttribute('target')).toBe('_blank');
  }
}

describe('hostile text', () => {
  it('the corpus is large enough to mean something', () => {
    expect(new Set(PAYLOADS).size).toBeGreaterThanOrEqual(90);
  });

  it.each(PAYLOADS.map((payload, index) => [`${index} ${payload.slice(0, 60)}`, payload]))('%s leaves only harmless elements, however it is cut', (_, payload) => {
    for (const cuts of [whole, letters, by(2), by(3), by(7)]) {
      assertHarmless(draw(payload, cuts));
      assertHarmless(draw(`Some *text* first\n\n${payload}\n\nand after`, cuts));
    }
  });

  it('all of it in one reply is harmless too, and what comes after is still drawn', () => {
    const root = draw(`${PAYLOADS.slice(0, 90).join('\n\n')}\n\nlast words`, by(5));
    assertHarmless(root);
    expect(root.textContent).toContain('last words');
  });

  it('HTML stays readable as text', () => {
    expect(draw('Use `<div>` or <b>bold</b> tags', letters).textContent).toBe('Use <div> or <b>bold</b> tags');
  });
});

describe('links', () => {
  it('only pages and letters keep their address', () => {
    expect(safeHref('https://example.com/a?b=c#d')).toBe('https://example.com/a?b=c#d');
    expect(safeHref('HTTP://EXAMPLE.com')).toBe('http://example.com/');
    expect(safeHref('mailto:a@example.com')).toBe('mailto:a@example.com');
    expect(safeHref('https://example.com "title"')).toBe('https://example.com/');
    const refused = ['https://ok.example"', 'https://ok.example/<b>', 'javascript:alert(1)', ' javascript:alert(1)', 'java\nscript:alert(1)', 'data:text/html,x', 'tel:1', '/path', '//host', 'https:host', '', 'https://', 'https://a:b@c.example/', 'https://a@c.example/', 'https://:b@c.example/'];
    for (const value of refused) expect(safeHref(value), value).toBeNull();
  });

  it('a link opens apart and says nothing about where it was', () => {
    const link = draw('[site](https://example.com)', letters).querySelector('a');
    expect(link?.outerHTML).toBe('<a href="https://example.com/" target="_blank" rel="noopener noreferrer nofollow">site</a>');
  });

  it('an image is its caption only', () => {
    const root = draw('![a cat](https://example.com/cat.png)', letters);
    expect(root.querySelector('img')).toBeNull();
    expect(root.innerHTML).not.toContain('example.com');
    expect(root.textContent).toBe('a cat');
  });
});

describe('an address without an end', () => {
  it.each(['[see](https://example.com', '![a cat](https://example.com/cat.png', '![x]('.repeat(40), '[a](b [c](d', '**[x](y**'])('%s hides nothing of what comes after it', (opening) => {
    const text = `before\n\n${opening}\n\nafter **all**\n\n[ok](https://ok.example)`;
    const expected = draw(text, whole);
    expect(expected.textContent).toContain('after all');
    expect(expected.querySelector('a[href="https://ok.example/"]')?.textContent).toBe('ok');
    for (const cuts of [letters, by(2), by(3), by(7)]) expect(draw(text, cuts).innerHTML).toBe(expected.innerHTML);
  });

  it('is shown as it was written when the reply ends in it', () => {
    for (const cuts of [whole, letters, by(3)]) expect(draw('go [here](https://example.com', cuts).textContent).toBe('go here](https://example.com');
  });
});

describe('drawing', () => {
  const REPLY = '# Title\n\nSome **bold**, *slanted* and `code`.\n\n1. one\n2. two\n   - inner\n\n```rust\nfn main() {}\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n> quote\n\n你好，**世界**。😀\n';

  it('a reply looks the same however it was cut', () => {
    const expected = draw(REPLY, whole).innerHTML;
    for (const cuts of [letters, by(2), by(3), by(5), by(11)]) expect(draw(REPLY, cuts).innerHTML).toBe(expected);
  });

  it('draws headings below the page headings, lists, code and tables', () => {
    const root = draw(REPLY, by(4));
    expect(root.querySelector('h3')?.textContent).toBe('Title');
    expect(root.querySelectorAll('ol > li')).toHaveLength(2);
    expect(root.querySelector('.md-code-name')?.textContent).toBe('rust');
    expect(root.querySelector('.md-code pre > code')?.textContent).toBe('fn main() {}');
    expect(root.querySelectorAll('thead th')).toHaveLength(2);
    expect(root.querySelectorAll('tbody')).toHaveLength(1);
    expect(root.querySelectorAll('tbody td')).toHaveLength(4);
    expect(root.querySelector('strong:last-of-type')?.textContent).toBe('bold');
  });

  it('growing text keeps the elements that are already drawn', () => {
    const root = document.createElement('div');
    const writer = new MarkdownWriter(root, { copy: 'Copy', code: 'code' });
    writer.show('First paragraph\n\nSec', false);
    const first = root.firstElementChild;
    writer.show('First paragraph\n\nSecond', false);
    writer.show('First paragraph\n\nSecond', true);
    expect(root.firstElementChild).toBe(first);
    expect(root.textContent).toBe('First paragraphSecond');
  });

  it('text that does not continue what is drawn starts anew', () => {
    const root = document.createElement('div');
    const writer = new MarkdownWriter(root, { copy: 'Copy', code: 'code' });
    writer.show('a wrong start', false);
    writer.show('right', true);
    expect(root.textContent).toBe('right');
  });

  it('a long reply in small pieces is drawn in linear time', () => {
    const text = REPLY.repeat(120);
    const started = performance.now();
    draw(text, by(4));
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
