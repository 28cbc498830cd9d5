//! Markdown as the HTML that mail programs and clients of Matrix show.

use std::sync::LazyLock;

use pulldown_cmark::{Options, Parser, html::push_html};

/// What remains after the sanitiser: words and their shape. No picture, so that nothing of a
/// message tells anybody that it was read.
static SANITISER: LazyLock<ammonia::Builder<'static>> = LazyLock::new(|| {
    let mut builder = ammonia::Builder::default();
    builder.rm_tags(["img", "map", "area"]).link_rel(Some("noopener noreferrer nofollow"));
    builder
});

/// The HTML of a text in Markdown. HTML inside the text is shown as words or left out.
pub(crate) fn html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut made = String::with_capacity(markdown.len() * 3 / 2);
    push_html(&mut made, Parser::new_ext(markdown, options));
    SANITISER.clean(&made).to_string()
}

/// The HTML of a plain text: its lines, and nothing of it read as a tag.
pub(crate) fn html_of_plain(text: &str) -> String {
    let escaped = ammonia::clean_text(text);
    // The sanitiser's own escape writes spaces and line feeds as entities.
    let readable = escaped.replace("&#32;", " ").replace("&#10;", "<br>\n").replace("&#13;", "");
    format!("<p>{readable}</p>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_kept_and_scripts_are_not() {
        let made = html("**bold** [x](javascript:alert(1)) <script>alert(1)</script>\n\n- a\n- b");
        assert!(made.contains("<strong>bold</strong>"), "{made}");
        assert!(made.contains("<li>a</li>"), "{made}");
        assert!(!made.contains("script"), "{made}");
        assert!(!html("![](https://a.example/pixel.gif)").contains("img"));
    }

    #[test]
    fn a_plain_text_is_not_read_as_html() {
        let made = html_of_plain("a < b\nمرحبا 😀");
        assert!(made.contains("a &lt; b<br>"), "{made}");
        assert!(made.contains("مرحبا 😀"), "{made}");
    }
}
