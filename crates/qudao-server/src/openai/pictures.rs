//! Pictures in a conversation. The platform decodes none: it hands them on to models that do. What
//! is not the picture that it says it is goes no further.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_plugin_api::wire::{ChatMessage, Content};
use serde_json::Value;

use crate::error::FieldCheck;

/// Of one picture, decoded, in bytes.
const BYTES_MAX: usize = 10 << 20;
const PICTURES_MAX: usize = 32;
/// The longest address of a picture, in bytes.
const ADDRESS_BYTES_MAX: usize = 4096;

/// A media type, and how its files begin: bytes and their place.
type Form = (&'static str, &'static [(usize, &'static [u8])]);

const FORMS: &[Form] = &[
    ("image/png", &[(0, b"\x89PNG\r\n\x1a\n")]),
    ("image/jpeg", &[(0, b"\xff\xd8\xff")]),
    ("image/gif", &[(0, b"GIF8")]),
    ("image/webp", &[(0, b"RIFF"), (8, b"WEBP")]),
];

/// Refuses what is no picture, by the place where it stands.
pub(crate) fn check(messages: &[ChatMessage], check: &mut FieldCheck) {
    let mut pictures = 0;
    for (at, message) in messages.iter().enumerate() {
        let Some(Content::Parts(parts)) = &message.content else { continue };
        for (part_at, part) in parts.iter().enumerate() {
            if part["type"] != "image_url" {
                continue;
            }
            pictures += 1;
            if let Err(reason) = check_part(part) {
                let pointer = format!("/messages/{at}/content/{part_at}/image_url/url");
                check.refuse(&pointer, reason);
            }
        }
    }
    if PICTURES_MAX < pictures {
        check.refuse("/messages", format_args!("may have {PICTURES_MAX} pictures at most"));
    }
}

fn check_part(part: &Value) -> Result<(), String> {
    let address = part["image_url"]["url"].as_str().or_else(|| part["image_url"].as_str());
    let address = address.ok_or("is missing")?;
    // Schemes are the same in either case.
    match address.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest)) {
        Some((scheme, rest)) if scheme == "data" => check_inline(rest),
        Some((scheme, _)) if scheme == "https" || scheme == "http" => {
            let fits = address.len() <= ADDRESS_BYTES_MAX;
            if fits { Ok(()) } else { Err(format!("has more than {ADDRESS_BYTES_MAX} bytes")) }
        }
        _ => Err("must begin with data:, https:// or http://".to_owned()),
    }
}

fn check_inline(rest: &str) -> Result<(), String> {
    let form = "must have the form data:image/png;base64,…";
    let (media_type, encoded) = rest.split_once(";base64,").ok_or(form)?;
    let known = FORMS.iter().find(|(name, _)| media_type.eq_ignore_ascii_case(name));
    let Some((name, marks)) = known else {
        let names: Vec<_> = FORMS.iter().map(|(name, _)| *name).collect();
        return Err(format!("must be one of {}", names.join(", ")));
    };
    if BYTES_MAX.div_ceil(3) * 4 < encoded.len() {
        return Err(format!("has more than {BYTES_MAX} bytes"));
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| "is not base64".to_owned())?;
    let begins = |(at, mark): &(usize, &[u8])| bytes.get(*at..at + mark.len()) == Some(mark);
    if marks.iter().all(begins) { Ok(()) } else { Err(format!("is not the {name} it says it is")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reason(url: &str) -> String {
        check_part(&json!({ "type": "image_url", "image_url": { "url": url } }))
            .err()
            .unwrap_or_default()
    }

    fn inline(media_type: &str, bytes: &[u8]) -> String {
        format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
    }

    #[test]
    fn a_picture_is_what_it_says_it_is() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        assert_eq!(reason(&inline("image/png", png)), "");
        assert_eq!(reason(&inline("image/webp", b"RIFF\0\0\0\0WEBPVP8 ")), "");
        assert_eq!(reason("https://example.com/a.png"), "");
        for (url, expected) in [
            (inline("image/jpeg", png), "not the image/jpeg"),
            (inline("image/png", b"<svg onload=alert(1)>"), "not the image/png"),
            (inline("image/png", b""), "not the image/png"),
            (inline("image/webp", b"RIFF\0\0\0\0WAVE"), "not the image/webp"),
            (inline("image/svg+xml", b"<svg/>"), "must be one of"),
            (inline("text/html", b"<p>"), "must be one of"),
            ("data:image/png,plain".to_owned(), "must have the form"),
            ("data:image/png;base64,%%%".to_owned(), "not base64"),
            ("file:///etc/passwd".to_owned(), "must begin with"),
            ("javascript:alert(1)".to_owned(), "must begin with"),
            ("/etc/passwd".to_owned(), "must begin with"),
            (format!("https://{}", "a".repeat(5_000)), "more than 4096"),
            (inline("image/png", &vec![0; BYTES_MAX + 3]), "more than 10485760"),
        ] {
            let shown: String = url.chars().take(60).collect();
            assert!(reason(&url).contains(expected), "{shown}: {}", reason(&url));
        }
    }

    proptest! {
        #[test]
        fn any_address_is_judged(address in "(data:|DATA:|https:|)[ -~]{0,40}(;base64,)?\\PC{0,40}") {
            drop(check_part(&json!({ "image_url": { "url": address } })));
        }
    }
}
