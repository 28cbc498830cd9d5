/**
 * Markdown of a model, drawn as it streams.
 *
 * The model's text is hostile. Nothing here parses HTML: every element comes from the table below and
 * every character becomes a text node. A link keeps its address only if the scheme is on the list;
 * an image becomes its caption, because fetching it would tell a stranger that it was seen.
 */
import * as smd from 'streaming-markdown';

const SCHEMES = new Set(['https:', 'http:', 'mailto:']);

/** The address if a click on it can do no more than open a page or a letter; else `null`. */
export function safeHref(value: string): string | null {
  // What follows a blank is Markdown's optional title.
  const text = value.trim().split(/\s/, 1)[0] ?? '';
  // Relative and scheme-relative addresses would point into Qudao's own origin.
  if (!/^(https?:\/\/|mailto:)[^"<>\\`]+$/i.test(text)) return null;
  try {
    const url = new URL(text);
    if (!SCHEMES.has(url.protocol) || url.username !== '' || url.password !== '') return null;
    return url.href;
  } catch {
    return null;
  }
}

export interface CodeLabels {
  copy: string;
  code: string;
}

interface Canvas {
  nodes: Element[];
  labels: CodeLabels;
}

type Make = (canvas: Canvas) => Element[];

function element(tag: string, className?: string): Element {
  const node = document.createElement(tag);
  if (className !== undefined) node.className = className;
  return node;
}

const one =
  (tag: string, className?: string): Make =>
  () => [element(tag, className)];

/** Each token becomes a chain of elements, outermost first; text goes into the innermost. */
const ELEMENTS: Partial<Record<smd.Token, Make>> = {
  [smd.PARAGRAPH]: one('p'),
  // The page's own headings come first; the reply's begin below them.
  [smd.HEADING_1]: one('h3'),
  [smd.HEADING_2]: one('h4'),
  [smd.HEADING_3]: one('h5'),
  [smd.HEADING_4]: one('h6'),
  [smd.HEADING_5]: one('h6'),
  [smd.HEADING_6]: one('h6'),
  [smd.CODE_BLOCK]: codeBlock,
  [smd.CODE_FENCE]: codeBlock,
  [smd.CODE_INLINE]: one('code'),
  [smd.ITALIC_AST]: one('em'),
  [smd.ITALIC_UND]: one('em'),
  [smd.STRONG_AST]: one('strong'),
  [smd.STRONG_UND]: one('strong'),
  [smd.STRIKE]: one('s'),
  [smd.LINK]: one('a'),
  [smd.RAW_URL]: one('a'),
  [smd.IMAGE]: one('span', 'md-image'),
  [smd.BLOCKQUOTE]: one('blockquote'),
  [smd.LINE_BREAK]: one('br'),
  [smd.RULE]: one('hr'),
  [smd.LIST_UNORDERED]: one('ul'),
  [smd.LIST_ORDERED]: one('ol'),
  [smd.LIST_ITEM]: one('li'),
  [smd.CHECKBOX]: one('span', 'md-check'),
  [smd.EQUATION_BLOCK]: one('div', 'md-math'),
  [smd.EQUATION_INLINE]: one('span', 'md-math'),
};

function codeBlock(canvas: Canvas): Element[] {
  const figure = element('div', 'md-code');
  const bar = element('div', 'md-code-bar');
  const name = element('span', 'md-code-name');
  name.textContent = canvas.labels.code;
  const copy = element('button', 'md-copy') as HTMLButtonElement;
  copy.type = 'button';
  copy.textContent = canvas.labels.copy;
  bar.append(name, copy);
  const pre = element('pre');
  pre.setAttribute('tabindex', '0');
  const code = element('code');
  pre.append(code);
  figure.append(bar, pre);
  return [figure, pre, code];
}

function tableElements(parent: Element, type: smd.Token): Element[] | null {
  if (type === smd.TABLE) {
    const scroller = element('div', 'md-table');
    scroller.setAttribute('tabindex', '0');
    const table = element('table');
    scroller.append(table);
    return [scroller, table];
  }
  if (type === smd.TABLE_ROW) {
    const first = parent.childElementCount === 0;
    const section = first ? element('thead') : (parent.querySelector(':scope > tbody') ?? element('tbody'));
    const row = element('tr');
    section.append(row);
    return [section, row];
  }
  if (type === smd.TABLE_CELL) return [element(parent.parentElement?.tagName === 'THEAD' ? 'th' : 'td')];
  return null;
}

function renderer(canvas: Canvas): smd.Renderer<Canvas> {
  const top = (): Element => canvas.nodes[canvas.nodes.length - 1] as Element;
  return {
    data: canvas,
    add_token: (_, type) => {
      const chain = tableElements(top(), type) ?? ELEMENTS[type]?.(canvas) ?? [element('span')];
      top().append(chain[0] as Element);
      canvas.nodes.push(chain[chain.length - 1] as Element);
    },
    end_token: () => {
      if (canvas.nodes.length > 1) canvas.nodes.pop();
    },
    add_text: (_, text) => top().append(document.createTextNode(text)),
    set_attr: (_, type, value) => setAttribute(top(), type, value),
  };
}

function setAttribute(node: Element, type: smd.Attr, value: string): void {
  if (type === smd.HREF && node.tagName === 'A') {
    const href = safeHref(value);
    if (href === null) return;
    node.setAttribute('href', href);
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  } else if (type === smd.LANG) {
    const name = node.closest('.md-code')?.querySelector('.md-code-name');
    if (name && value.trim() !== '') name.textContent = value.trim().slice(0, 24);
  } else if (type === smd.CHECKED) {
    node.classList.add('checked');
  } else if (type === smd.START && node.tagName === 'OL' && /^\d{1,9}$/.test(value)) {
    node.setAttribute('start', value);
  }
}

/**
 * Gives back what an address without an end has swallowed. The parser waits for its `)` as long as the
 * reply goes on, and `[see](` in the middle of one would hide all the rest of it.
 */
function release(parser: smd.Parser): void {
  const { pending, renderer, token } = parser;
  if ((token !== smd.LINK && token !== smd.IMAGE) || !pending.startsWith('](')) return;
  parser.pending = '';
  renderer.add_text(renderer.data, pending);
  parser.len -= 1;
  parser.token = parser.tokens[parser.len] as smd.Token;
  renderer.end_token(renderer.data);
}

/** One reply, growing in `root`. */
export class MarkdownWriter {
  #root: Element;
  #labels: CodeLabels;
  #parser: smd.Parser;
  #written = '';
  #ended = false;

  constructor(root: Element, labels: CodeLabels) {
    this.#root = root;
    this.#labels = labels;
    this.#parser = this.#fresh();
  }

  /** Shows `text`; only what is new is parsed when it continues what is shown. */
  show(text: string, finished: boolean): void {
    if (this.#ended && text === this.#written && finished) return;
    if (this.#ended || !text.startsWith(this.#written)) this.#restart();
    this.#write(text.slice(this.#written.length));
    this.#written = text;
    if (!finished) return;
    release(this.#parser);
    smd.parser_end(this.#parser);
    this.#ended = true;
  }

  #write(text: string): void {
    for (const [index, line] of text.split('\n').entries()) {
      if (index > 0) {
        release(this.#parser);
        smd.parser_write(this.#parser, '\n');
      }
      smd.parser_write(this.#parser, line);
    }
  }

  #restart(): void {
    this.#parser = this.#fresh();
    this.#written = '';
    this.#ended = false;
  }

  #fresh(): smd.Parser {
    this.#root.replaceChildren();
    return smd.parser(renderer({ nodes: [this.#root], labels: this.#labels }));
  }
}
