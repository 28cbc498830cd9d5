//! Parts of a message, read leniently: what is not known is shown by its fallback.

use qudao_domain::message::{Part, TextFormat};
use serde_json::Value;

/// Reads a part. One of an unknown kind, or with fields that cannot be read, becomes its
/// `fallback_text`, else its `text`, `alt` or `name`; `None` if it has no words at all.
pub fn read_part(part: &Value) -> Option<Part> {
    if let Ok(part) = serde_json::from_value(part.clone()) {
        return Some(part);
    }
    let words = ["fallback_text", "text", "alt", "name"].into_iter();
    let text = words.filter_map(|name| part.get(name)?.as_str()).find(|text| !text.is_empty())?;
    Some(Part::Text { format: TextFormat::Plain, text: text.to_owned() })
}

/// Reads parts; see [`read_part`].
pub fn read_parts(parts: &[Value]) -> Vec<Part> {
    parts.iter().filter_map(read_part).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_part_is_its_fallback_and_one_without_words_is_nothing() {
        let parts =
            [json!({"type": "poll", "fallback_text": "Tea or coffee?"}), json!({"type": 7})];
        let plain = |text: &str| Part::Text { format: TextFormat::Plain, text: text.to_owned() };
        assert_eq!(read_parts(&parts), [plain("Tea or coffee?")]);
    }
}
