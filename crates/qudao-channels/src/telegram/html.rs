//! Markdown as the HTML that Telegram reads: a handful of tags, everything else as words.
//! <https://core.telegram.org/bots/api#html-style>

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The Markdown as Telegram's HTML.
pub(super) fn telegram_html(markdown: &str) -> String {
    let mut writer = Writer::default();
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_ext(markdown, options) {
        writer.take(event);
    }
    writer.out.trim().to_owned()
}

/// `<`, `>`, `&` and quotes as references.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(letter),
        }
    }
    out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The next number of each open list; `None` for one with dots.
    lists: Vec<Option<u64>>,
    /// The cells of the table that is being read, by rows.
    table: Option<Vec<Vec<String>>>,
    /// The open link leads somewhere that Telegram shows.
    links: Vec<bool>,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::InlineHtml(text) | Event::Html(text) => self.say(&text),
            Event::Code(text) => match &self.table {
                Some(_) => self.say(&text),
                None => self.out.push_str(&format!("<code>{}</code>", escape(&text))),
            },
            Event::SoftBreak | Event::HardBreak => self.say("\n"),
            Event::Rule => {
                self.gap(2);
                self.out.push_str("———");
            }
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        if let Some(cell) = self.table.as_mut().and_then(|rows| rows.last_mut()?.last_mut()) {
            cell.push_str(&text.replace('\n', " "));
        } else {
            self.out.push_str(&escape(text));
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph if self.after_mark() => {}
            Tag::Paragraph => self.gap(self.distance()),
            Tag::Heading { .. } => {
                self.gap(2);
                self.out.push_str("<b>");
            }
            Tag::BlockQuote(_) => {
                self.gap(2);
                self.out.push_str("<blockquote>");
            }
            Tag::CodeBlock(kind) => self.open_code(&kind),
            Tag::List(first) => {
                self.gap(self.distance());
                self.lists.push(first);
            }
            Tag::Item => self.open_item(),
            Tag::Table(_) => self.table = Some(Vec::new()),
            Tag::TableHead | Tag::TableRow => {
                if let Some(rows) = &mut self.table {
                    rows.push(Vec::new());
                }
            }
            Tag::TableCell => {
                if let Some(row) = self.table.as_mut().and_then(|rows| rows.last_mut()) {
                    row.push(String::new());
                }
            }
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => self.open_link(&dest_url),
            tag => self.inline(match tag {
                Tag::Strong => "<b>",
                Tag::Emphasis => "<i>",
                Tag::Strikethrough => "<s>",
                _ => "",
            }),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => self.out.push_str("</b>"),
            TagEnd::BlockQuote(_) => {
                self.out.truncate(self.out.trim_end().len());
                self.out.push_str("</blockquote>");
            }
            TagEnd::CodeBlock => {
                self.out.truncate(self.out.trim_end_matches('\n').len());
                self.out.push_str("</code></pre>");
            }
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::Table => self.close_table(),
            TagEnd::Link | TagEnd::Image => {
                if self.links.pop() == Some(true) && self.table.is_none() {
                    self.out.push_str("</a>");
                }
            }
            tag => self.inline(match tag {
                TagEnd::Strong => "</b>",
                TagEnd::Emphasis => "</i>",
                TagEnd::Strikethrough => "</s>",
                _ => "",
            }),
        }
    }

    /// A tag within words; a table has none.
    fn inline(&mut self, tag: &str) {
        if self.table.is_none() {
            self.out.push_str(tag);
        }
    }

    fn open_code(&mut self, kind: &CodeBlockKind<'_>) {
        self.gap(self.distance());
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || "+-_#".contains(*letter);
        let language: String = match kind {
            CodeBlockKind::Fenced(words) => words.chars().take_while(plain).take(30).collect(),
            CodeBlockKind::Indented => String::new(),
        };
        if language.is_empty() {
            self.out.push_str("<pre><code>");
        } else {
            self.out.push_str(&format!("<pre><code class=\"language-{language}\">"));
        }
    }

    fn open_item(&mut self) {
        self.gap(1);
        self.out.push_str(&"  ".repeat(self.lists.len().saturating_sub(1)));
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.out.push_str(&format!("{number}. "));
                *number += 1;
            }
            _ => self.out.push_str("• "),
        }
    }

    fn open_link(&mut self, address: &str) {
        let shown = ["https://", "http://", "tg://", "mailto:"];
        let shown = shown.iter().any(|scheme| address.starts_with(scheme));
        if shown && self.table.is_none() {
            self.out.push_str(&format!("<a href=\"{}\">", escape(address)));
        }
        self.links.push(shown && self.table.is_none());
    }

    /// Columns of the same width, in letters that are as wide as each other.
    fn close_table(&mut self) {
        let Some(rows) = self.table.take() else { return };
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let lines: Vec<_> = rows.iter().map(line).collect();
        self.gap(2);
        self.out.push_str(&format!("<pre>{}</pre>", escape(&lines.join("\n"))));
    }

    fn distance(&self) -> usize {
        if self.lists.is_empty() { 2 } else { 1 }
    }

    /// A list's dot or number, or an opening tag, is followed by its words.
    fn after_mark(&self) -> bool {
        self.out.ends_with("• ") || self.out.ends_with(". ") || self.out.ends_with("<blockquote>")
    }

    /// So many line ends between what was said and what comes.
    fn gap(&mut self, lines: usize) {
        if self.out.is_empty() || self.out.ends_with("<blockquote>") {
            return;
        }
        let ended = self.out.chars().rev().take_while(|letter| *letter == '\n').count();
        self.out.push_str(&"\n".repeat(lines.saturating_sub(ended)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markdown_becomes_the_tags_that_telegram_knows() {
        let markdown = "# Order 17\n\n**Leaves** *today* ~~late~~, `x < y`, [see](https://a.example/?a=1&b=2)\n\n\
            - one\n- two\n\n1. a\n2. b\n\n> said\n\n```rust\nlet x = 1 < 2;\n```\n\n| a | bb |\n|---|---|\n| 11 | 2 |";
        assert_eq!(
            telegram_html(markdown),
            "<b>Order 17</b>\n\n<b>Leaves</b> <i>today</i> <s>late</s>, <code>x &lt; y</code>, \
             <a href=\"https://a.example/?a=1&amp;b=2\">see</a>\n\n• one\n• two\n\n1. a\n2. b\n\n\
             <blockquote>said</blockquote>\n\n<pre><code class=\"language-rust\">let x = 1 &lt; 2;\
             </code></pre>\n\n<pre>a   bb\n11  2</pre>"
        );
    }

    #[test]
    fn what_telegram_does_not_know_stays_words() {
        assert_eq!(telegram_html("<script>x</script>"), "&lt;script&gt;x&lt;/script&gt;");
        assert_eq!(telegram_html("[x](javascript:alert(1))"), "x");
    }

    proptest! {
        /// Tags are closed in the order in which they were opened, whatever comes.
        #[test]
        fn its_tags_are_balanced(text in "(?s)[a*_~`#>|\\-\\[\\]()<&\n 1.]{0,120}") {
            let html = telegram_html(&text);
            let mut open = Vec::new();
            let mut rest = html.as_str();
            while let Some(at) = rest.find('<') {
                let end = rest[at..].find('>').unwrap() + at;
                let tag = &rest[at + 1..end];
                match tag.strip_prefix('/') {
                    Some(name) => prop_assert_eq!(open.pop(), Some(name.to_owned()), "{}", html),
                    None => open.push(tag.split(' ').next().unwrap().to_owned()),
                }
                rest = &rest[end + 1..];
            }
            prop_assert!(open.is_empty(), "{}", html);
        }
    }
}
