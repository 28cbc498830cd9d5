//! Reading what platforms send without trusting its shape: what is absent or of another kind is
//! empty, and what is too long to be an id becomes its hash.

use jiff::Timestamp;
use serde_json::Value;

use crate::signature::sha256;

/// The longest id that events may carry, in characters.
const ID_MAX: usize = 200;

/// The text at a JSON pointer; empty if there is none. Numbers are taken as written.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// As [`text`], but `None` instead of an empty one.
pub(crate) fn some_text(value: &Value, pointer: &str) -> Option<String> {
    Some(text(value, pointer)).filter(|text| !text.is_empty())
}

/// The whole number at a JSON pointer, also if it is written as a text.
pub(crate) fn number(value: &Value, pointer: &str) -> Option<i64> {
    match value.pointer(pointer)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The finite number at a JSON pointer, also if it is written as a text.
pub(crate) fn decimal(value: &Value, pointer: &str) -> Option<f64> {
    let read = match value.pointer(pointer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    read.filter(|number| number.is_finite())
}

/// The elements at a JSON pointer; none if there is no list.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Milliseconds of the Unix epoch as a time.
pub(crate) fn from_millis(millis: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis).ok()
}

/// Whether a time is at most so many seconds from now, in the past or in the future.
pub(crate) fn within(at: i64, now: Timestamp, past_s: i64, future_s: i64) -> bool {
    let age = now.as_second().saturating_sub(at);
    (-future_s..=past_s).contains(&age)
}

/// An id that fits: itself, or the hash of one that is empty or too long.
pub(crate) fn id(text: &str) -> String {
    let clean = !text.is_empty() && !text.contains('\0') && text.chars().count() <= ID_MAX;
    if clean { text.to_owned() } else { hash(&[text.as_bytes()]) }
}

/// An id for what has none of its own.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    hex::encode(sha256(parts))
}

/// What a platform calls something, as a name that can be counted by: letters, digits and
/// underscores, at most 60 of them.
pub(crate) fn kind(name: &str) -> String {
    let clean = name.chars().take(60);
    let clean: String =
        clean.map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    if clean.is_empty() { "nameless".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_is_empty_and_what_is_written_otherwise_is_read() {
        let value = json!({"a": {"n": "17", "f": "1.5", "x": "NaN"}, "i": 9});
        assert_eq!(text(&value, "/a/n"), "17");
        assert_eq!(text(&value, "/i"), "9");
        assert_eq!(text(&value, "/a"), "");
        assert_eq!(number(&value, "/a/n"), Some(17));
        assert_eq!(decimal(&value, "/a/f"), Some(1.5));
        assert_eq!(decimal(&value, "/a/x"), None);
        assert!(list(&value, "/a").is_empty());
    }

    #[test]
    fn an_id_fits_whatever_it_was() {
        assert_eq!(id("$a:b"), "$a:b");
        assert_eq!(id("").len(), 64);
        assert_eq!(id(&"😀".repeat(201)).len(), 64);
        assert_eq!(id(&"😀".repeat(200)), "😀".repeat(200));
        assert_eq!(kind("m.room.member"), "m_room_member");
        assert_eq!(kind(""), "nameless");
    }
}
