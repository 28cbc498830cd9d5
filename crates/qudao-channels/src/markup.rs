//! Markdown as the HTML that mail programs and clients of Matrix show.
//!
//! What is written is safe by how it is made: HTML within the words is shown as words, the writer
//! escapes them, links lead where [`is_safe`] says, and there is no picture, so that nothing of a
//! message tells anybody that it was read.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html::push_html};

/// Where a link may lead.
const SCHEMES: [&str; 4] = ["https:", "http:", "mailto:", "tel:"];

/// The HTML of a text in Markdown.
pub(crate) fn html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    // Of each link that is open, whether it is shown as one.
    let mut links = Vec::new();
    let safe = Parser::new_ext(markdown, options).filter_map(|event| match event {
        Event::Html(words) | Event::InlineHtml(words) => Some(Event::Text(words)),
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        Event::Start(Tag::Link { ref dest_url, .. }) => {
            links.push(is_safe(dest_url));
            links.last().copied().unwrap_or_default().then_some(event)
        }
        Event::End(TagEnd::Link) => links.pop().unwrap_or_default().then_some(event),
        other => Some(other),
    });
    let mut made = String::with_capacity(markdown.len() * 3 / 2);
    push_html(&mut made, safe);
    made
}

/// The HTML of a plain text: its lines, and nothing of it read as a tag.
pub(crate) fn html_of_plain(text: &str) -> String {
    let mut made = String::with_capacity(text.len() * 5 / 4);
    for letter in text.chars().filter(|letter| *letter != '\r') {
        match letter {
            '<' => made.push_str("&lt;"),
            '>' => made.push_str("&gt;"),
            '&' => made.push_str("&amp;"),
            '"' => made.push_str("&quot;"),
            '\n' => made.push_str("<br>\n"),
            other => made.push(other),
        }
    }
    format!("<p>{made}</p>")
}

/// Whether a link leads to a page, an address or a number.
fn is_safe(address: &str) -> bool {
    let lower = address.trim_start().to_ascii_lowercase();
    SCHEMES.iter().any(|scheme| lower.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shapes_are_kept_and_scripts_are_not() {
        let made = html("**bold** [x](javascript:alert(1)) <script>alert(1)</script>\n\n- a\n- b");
        assert!(made.contains("<strong>bold</strong>"), "{made}");
        assert!(made.contains("<li>a</li>"), "{made}");
        assert!(made.contains("&lt;script&gt;") && !made.contains("javascript"), "{made}");
        assert_eq!(html("![pixel](https://a.example/p.gif)"), "<p>pixel</p>\n");
        assert_eq!(html("[a](https://b.example)"), "<p><a href=\"https://b.example\">a</a></p>\n");
    }

    #[test]
    fn a_plain_text_is_not_read_as_html() {
        assert_eq!(html_of_plain("a < b\nمرحبا 😀"), "<p>a &lt; b<br>\nمرحبا 😀</p>");
    }

    proptest! {
        #[test]
        fn no_tag_is_made_but_those_of_shapes(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "<script>", "</p>", "<img src=x onerror=y>", "[a](", "javascript:x)", "![](x)", "](data:x)", "<!--",
                "\n\n", "> ", "- ", "`", "```\n", "<https://a.example>", "\"", "'", "&#60;b>", "|a|\n|-|\n", "~~", "**", "<a href=\"j\">",
            ]), 0..12)
        ) {
            let made = html(&pieces.concat());
            for tag in made.split('<').skip(1) {
                let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
                let known = [
                    "p", "strong", "em", "del", "code", "pre", "a", "ul", "ol", "li", "blockquote", "h1", "h2", "h3",
                    "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "hr", "br",
                ];
                prop_assert!(known.contains(&name.as_str()), "{}", made);
                prop_assert!(!tag.starts_with("a ") || tag.starts_with("a href=\"https:"), "{}", made);
            }
        }
    }
}
