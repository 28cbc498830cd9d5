//! Reading of JSON that others write. What is absent or of another type than expected is `None`:
//! a platform adds fields and kinds without asking, and no such thing may cost a person's words.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::Reject,
    event::{Event, EventBody, Person, Thread},
};
use serde_json::Value;

use crate::signature::sha256;

/// The longest id that is kept as it is, in bytes.
const ID_MAX: usize = 200;
/// How far a platform's clock may be from this one in what it signs.
const SKEW: Duration = Duration::from_secs(300);

/// The body as JSON.
///
/// # Errors
/// [`Reject::Malformed`].
pub(crate) fn json(body: &[u8]) -> Result<Value, Reject> {
    serde_json::from_slice(body).map_err(|_| Reject::Malformed("it is not JSON"))
}

/// The text at a JSON pointer; `None` if it is empty.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// The same as an owned text.
pub(crate) fn owned(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}

/// The id at a JSON pointer, whether it is written as a text or as a number.
pub(crate) fn id(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::String(text) if !text.is_empty() => Some(short(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An id that fits, and is the same for the same id.
pub(crate) fn short(id: &str) -> String {
    if id.len() <= ID_MAX {
        return id.to_owned();
    }
    let start: String = id.chars().take(60).filter(char::is_ascii).collect();
    format!("{start}~{}", hex::encode(sha256(&[id.as_bytes()])))
}

/// The list at a JSON pointer; empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// An id for what has none, made of what it says.
pub(crate) fn made_id(raw: &Value) -> String {
    let hash = sha256(&[raw.to_string().as_bytes()]);
    format!("sha-{}", hex::encode(&hash[..20]))
}

/// A kind's name in letters, digits and underscores.
pub(crate) fn kind(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let kind: String = name.chars().take(60).map(plain).collect();
    if kind.is_empty() { "unnamed".to_owned() } else { kind }
}

/// Something that is stored and counted and means nothing here.
pub(crate) fn unknown(name: &str) -> EventBody {
    EventBody::Unknown { kind: kind(name) }
}

/// An event of which only its raw form is known.
pub(crate) fn stored(name: &str, raw: &Value) -> Event {
    Event {
        id: made_id(raw),
        thread: Thread::default(),
        sender: Person::default(),
        body: unknown(name),
        attribution: None,
        at: None,
        raw: raw.clone(),
    }
}

/// Seconds since 1970, written as a number or as digits, with or without a fraction.
pub(crate) fn seconds(value: &Value, pointer: &str) -> Option<Timestamp> {
    let whole = match value.pointer(pointer)? {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text.split('.').next()?.parse().ok()?,
        _ => return None,
    };
    Timestamp::from_second(whole).ok()
}

/// Milliseconds since 1970.
pub(crate) fn millis(value: &Value, pointer: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(value.pointer(pointer)?.as_i64()?).ok()
}

/// Whether the time that a platform signed, in seconds, is near enough to now.
pub(crate) fn is_fresh(signed: &str, now: Timestamp) -> bool {
    let digits = !signed.is_empty() && signed.bytes().all(|byte| byte.is_ascii_digit());
    let Some(at) = signed.parse().ok().and_then(|at| Timestamp::from_second(at).ok()) else {
        return false;
    };
    digits && at.duration_since(now).unsigned_abs() <= SKEW
}

/// An address that reads the same to every reader: the host requests no other.
fn address(text: &str) -> Option<url::Url> {
    let odd = |letter: char| letter.is_control() || letter.is_whitespace() || letter == '\\';
    let read = url::Url::parse(text).ok().filter(|_| text.len() <= 2048 && !text.contains(odd))?;
    let plain = text.starts_with(&format!("{}://{}", read.scheme(), read.host_str()?));
    (plain && read.fragment().is_none()).then_some(read)
}

/// Whether an address is over TLS and its host is one of these domains or below one.
pub(crate) fn is_within(text: &str, domains: &[&str]) -> bool {
    let Some(read) = address(text) else { return false };
    let host = read.host_str().unwrap_or_default();
    let below = |domain: &&str| {
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let usual = read.port().is_none_or(|port| port == 8443);
    read.scheme() == "https" && usual && domains.iter().any(below)
}

/// Whether two addresses lead to the same server.
pub(crate) fn same_origin(one: &str, other: &str) -> bool {
    let (one, other) = (address(one), address(other));
    one.zip(other)
        .is_some_and(|(one, other)| one.origin().is_tuple() && one.origin() == other.origin())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_as_expected_is_absent() {
        let value = json!({ "a": { "b": 7, "c": "", "d": "17.5", "e": [1] }, "n": null });
        assert_eq!(id(&value, "/a/b").as_deref(), Some("7"));
        assert_eq!(text(&value, "/a/c"), None);
        assert_eq!(text(&value, "/a/b/x"), None);
        assert_eq!(seconds(&value, "/a/d"), Timestamp::from_second(17).ok());
        assert_eq!(list(&value, "/a/e").len(), 1);
        assert!(list(&value, "/n").is_empty());
    }

    #[test]
    fn ids_and_kinds_fit_into_what_keeps_them() {
        let long = "é".repeat(500);
        assert!(short(&long).len() <= 200);
        assert_eq!(short(&long), short(&long));
        assert_ne!(short(&long), short(&"é".repeat(501)));
        assert_eq!(kind("page.view-1\u{202e}"), "page_view_1_");
        assert_eq!(kind(""), "unnamed");
    }

    #[test]
    fn a_token_goes_to_its_own_platform_alone() {
        let known = |address: &str| is_within(address, &["slack.com"]);
        assert!(known("https://files.slack.com/a"));
        assert!(known("https://slack.com/a"));
        let others = [
            "http://slack.com",
            "https://notslack.com",
            "https://slack.com.evil",
            "x",
            "https://\tslack.com",
            "https:slack.com",
            "https://slack.com#x",
            "https://a@slack.com",
            "https://slack.com:22",
            "https://s\\.slack.com",
        ];
        for other in others {
            assert!(!known(other), "{other}");
        }
        assert!(same_origin("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/b"));
        assert!(!same_origin("http://127.0.0.1:1", "http://127.0.0.1:12"));
        assert!(!same_origin("data:x", "data:x"));
    }

    #[test]
    fn a_time_five_minutes_off_is_fresh_and_a_second_more_is_not() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for fresh in ["1000000", "999700", "1000300"] {
            assert!(is_fresh(fresh, now), "{fresh}");
        }
        for stale in ["999699", "1000301", "", "-5", "+1000000", "1e6", "99999999999999999999"] {
            assert!(!is_fresh(stale, now), "{stale}");
        }
    }
}
