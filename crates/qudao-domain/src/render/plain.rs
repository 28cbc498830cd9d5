//! Markdown in plain words, for channels that show none of it.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// What a person reads in this Markdown: no marks, lists with dashes or numbers, links with their
/// address behind them, tables as lines.
pub fn plain_text(markdown: &str) -> String {
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
    link: Option<(String, usize)>,
    cells: usize,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) => {
                self.out.push_str(&text);
            }
            Event::Html(text) => self.out.push_str(&text),
            Event::SoftBreak | Event::HardBreak => self.out.push('\n'),
            Event::Rule => self.block("—"),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::Heading { .. } | Tag::CodeBlock(_) | Tag::Table(_)
                if !self.out.ends_with("- ") && !self.out.ends_with(". ") =>
            {
                self.gap(if self.lists.is_empty() { 2 } else { 1 });
            }
            Tag::List(first) => {
                self.gap(if self.lists.is_empty() { 2 } else { 1 });
                self.lists.push(first);
            }
            Tag::Item => {
                self.gap(1);
                let depth = self.lists.len().saturating_sub(1);
                self.out.push_str(&"  ".repeat(depth));
                match self.lists.last_mut() {
                    Some(Some(number)) => {
                        self.out.push_str(&format!("{number}. "));
                        *number += 1;
                    }
                    _ => self.out.push_str("- "),
                }
            }
            Tag::TableRow | Tag::TableHead => {
                self.gap(1);
                self.cells = 0;
            }
            Tag::TableCell => {
                if 0 < self.cells {
                    self.out.push_str(" | ");
                }
                self.cells += 1;
            }
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.link = Some((dest_url.into_string(), self.out.len()));
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::Link | TagEnd::Image => {
                let Some((address, from)) = self.link.take() else { return };
                let said = self.out.get(from..).unwrap_or_default();
                if said.is_empty() {
                    self.out.push_str(&address);
                } else if said != address && !address.is_empty() {
                    self.out.push_str(&format!(" ({address})"));
                }
            }
            _ => {}
        }
    }

    fn block(&mut self, text: &str) {
        self.gap(2);
        self.out.push_str(text);
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
    fn marks_go_and_what_they_mean_stays() {
        let markdown = "# Order 17\n\n**Leaves** *today*, see [the page](https://a.example/17).\n\n\
            - one\n- two\n  1. three\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nlet x;\n```";
        assert_eq!(
            plain_text(markdown),
            "Order 17\n\nLeaves today, see the page (https://a.example/17).\n\n- one\n- two\n  1. \
             three\n\na | b\n1 | 2\n\nlet x;"
        );
    }

    #[test]
    fn an_address_is_not_said_twice() {
        assert_eq!(plain_text("<https://a.example>"), "https://a.example");
        assert_eq!(plain_text("![](https://a.example/x.png)"), "https://a.example/x.png");
    }
}
