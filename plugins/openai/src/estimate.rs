//! Token counts for providers that report none.
//!
//! Public tokenizers spend about one token on four bytes of English and about one on a Chinese
//! character (OpenAI's own rule of thumb for English; between 0.6 and 1.3 for Chinese over the
//! common vocabularies). The estimate is for a charge that would otherwise be zero, so it is
//! rounded up.

/// Providers add a few tokens of their own around each conversation.
const FRAME: u32 = 8;

/// Tokens of a text.
#[must_use]
pub fn tokens(text: &str) -> u32 {
    let (mut narrow, mut wide) = (0_usize, 0_usize);
    for char in text.chars() {
        if char.is_ascii() { narrow += 1 } else { wide += 1 }
    }
    u32::try_from(narrow.div_ceil(4) + wide).unwrap_or(u32::MAX)
}

/// Tokens of a conversation, from its JSON: what the JSON adds about makes up for the role marks
/// that the provider adds. Images are not counted by their bytes but as one flat price.
#[must_use]
pub fn conversation(messages: &str) -> u32 {
    let mut total = FRAME;
    for part in messages.split('"') {
        total = total.saturating_add(if is_inline_image(part) { IMAGE } else { tokens(part) });
    }
    total
}

/// What a picture of ordinary size costs at most providers.
const IMAGE: u32 = 765;

fn is_inline_image(part: &str) -> bool {
    part.starts_with("data:image/") || part.starts_with("data:audio/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_is_a_quarter_of_its_letters_and_chinese_a_token_a_character() {
        assert_eq!(tokens("Hello, how are you today"), 6);
        assert_eq!(tokens("你们几点开门"), 6);
        assert_eq!(tokens(""), 0);
    }

    #[test]
    fn an_inline_image_does_not_count_by_its_bytes() {
        let image = format!(r#"[{{"url":"data:image/png;base64,{}"}}]"#, "A".repeat(400_000));
        assert!(conversation(&image) < 1_000);
    }
}
