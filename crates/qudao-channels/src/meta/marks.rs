//! Markdown as WhatsApp writes it: `*bold*`, `_italic_`, `~strike~`, code and lists.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The same words with WhatsApp's marks. Headings are bold, links have their address behind them,
/// tables are lines.
pub(super) fn whatsapp(markdown: &str) -> String {
    let mut writer = Writer::default();
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_ext(markdown, options) {
        writer.take(event);
    }
    writer.out.trim().to_owned()
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The next number of each open list; `None` for one with dashes.
    lists: Vec<Option<u64>>,
    /// The open link's address, and where its words begin.
    link: Option<(String, usize)>,
    quotes: usize,
    cells: usize,
    in_code: bool,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Code(code) => self.out.push_str(&format!("`{code}`")),
            Event::Text(text) | Event::InlineHtml(text) | Event::Html(text) => self.say(&text),
            Event::SoftBreak | Event::HardBreak => self.say("\n"),
            Event::Rule => {
                self.gap(2);
                self.out.push_str("---");
            }
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        if self.quotes == 0 || self.in_code {
            self.out.push_str(text);
        } else {
            self.out.push_str(&text.replace('\n', "\n> "));
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => {
                // The first paragraph of a row goes on behind its dash, of a quote behind its mark.
                let begun = self.out.ends_with("- ") || self.out.ends_with(". ");
                if !begun && !self.out.ends_with("> ") {
                    self.gap(2);
                    if self.quotes > 0 {
                        self.out.push_str("> ");
                    }
                }
            }
            Tag::Heading { .. } => {
                self.gap(2);
                self.out.push('*');
            }
            Tag::BlockQuote(_) => {
                self.gap(2);
                self.quotes += 1;
                self.out.push_str("> ");
            }
            Tag::CodeBlock(_) => {
                self.gap(2);
                self.in_code = true;
                self.out.push_str("```\n");
            }
            Tag::List(first) => {
                self.gap(if self.lists.is_empty() { 2 } else { 1 });
                self.lists.push(first);
            }
            Tag::Item => {
                self.gap(1);
                self.out.push_str(&"  ".repeat(self.lists.len().saturating_sub(1)));
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                };
                self.out.push_str(&mark);
            }
            Tag::Strong => self.out.push('*'),
            Tag::Emphasis => self.out.push('_'),
            Tag::Strikethrough => self.out.push('~'),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.link = Some((dest_url.into_string(), self.out.len()));
            }
            Tag::Table(_) => self.gap(2),
            Tag::TableHead | Tag::TableRow => {
                self.gap(1);
                self.cells = 0;
            }
            Tag::TableCell => {
                if self.cells > 0 {
                    self.out.push_str(" | ");
                }
                self.cells += 1;
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) | TagEnd::Strong => self.out.push('*'),
            TagEnd::Emphasis => self.out.push('_'),
            TagEnd::Strikethrough => self.out.push('~'),
            TagEnd::BlockQuote(_) => self.quotes = self.quotes.saturating_sub(1),
            TagEnd::CodeBlock => {
                self.gap(1);
                self.in_code = false;
                self.out.push_str("```");
            }
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::Link | TagEnd::Image => {
                let Some((address, from)) = self.link.take() else { return };
                let said = &self.out[from..];
                if said.is_empty() {
                    self.out.push_str(&address);
                } else if said != address && !address.is_empty() {
                    self.out.push_str(&format!(" ({address})"));
                }
            }
            _ => {}
        }
    }

    /// So many line ends between what was said and what comes.
    fn gap(&mut self, lines: usize) {
        if self.out.is_empty() {
            return;
        }
        let ended = self.out.chars().rev().take_while(|letter| *letter == '\n').count();
        self.out.push_str(&"\n".repeat(lines.saturating_sub(ended)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_whatsapps() {
        let markdown = "# Order 17\n\n**Leaves** *today*, ~~not~~ `x`, see [the page](https://a.example).\n\n\
            - one\n- two\n  1. three\n\n> quoted\n> words\n\n```rust\nlet x = \"**\";\n```\n\n\
            | a | b |\n|---|---|\n| 1 | 2 |\n\n😀 مرحبا";
        let wanted = "*Order 17*\n\n*Leaves* _today_, ~not~ `x`, see the page (https://a.example).\n\n\
            - one\n- two\n  1. three\n\n> quoted\n> words\n\n```\nlet x = \"**\";\n```\n\n\
            a | b\n1 | 2\n\n😀 مرحبا";
        assert_eq!(whatsapp(markdown), wanted);
    }
}
