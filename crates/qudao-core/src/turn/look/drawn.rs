//! The copy of a picture into which a model drew what it found.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_plugin_api::wire::PicturePart;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A larger copy is not kept: it would be refused by channels that take pictures of 5 MB.
const BYTES_MAX: usize = 5_000_000;

/// A drawn picture, ready to be kept.
pub(crate) struct Drawn {
    /// Its media type: one that browsers and channels show as a picture.
    pub(crate) mime: &'static str,
    /// What the file is called.
    pub(crate) name: &'static str,
    /// SHA-256.
    pub(crate) sha256: [u8; 32],
    /// What it holds.
    pub(crate) bytes: Vec<u8>,
}

impl Drawn {
    /// Puts the parts together. `None` if there are none, or if they are no picture that could be
    /// shown: what a model found is told without it then.
    pub(super) fn of(parts: impl Iterator<Item = Value>) -> Option<Self> {
        let mut bytes = Vec::new();
        for part in parts {
            let PicturePart { part, .. } = serde_json::from_value(part).ok()?;
            STANDARD.decode_vec(part, &mut bytes).ok()?;
            if BYTES_MAX < bytes.len() {
                tracing::warn!(
                    most = BYTES_MAX,
                    "a model drew a picture that is too large to send"
                );
                return None;
            }
        }
        let (mime, name) = kind_of(&bytes)?;
        Some(Self { mime, name, sha256: Sha256::digest(&bytes).into(), bytes })
    }
}

/// What a picture is, by its first bytes: a plugin's word does not make a file safe to show.
fn kind_of(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some(("image/jpeg", "found.jpg")),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some(("image/png", "found.png")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(bytes: &[&[u8]]) -> impl Iterator<Item = Value> {
        let part =
            |bytes: &&[u8]| json!({ "media_type": "image/jpeg", "part": STANDARD.encode(bytes) });
        bytes.iter().map(part).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_picture_is_put_together_from_its_parts() {
        let drawn = Drawn::of(parts(&[b"\xff\xd8", b"\xff rest"])).unwrap();
        assert_eq!((drawn.mime, drawn.name), ("image/jpeg", "found.jpg"));
        assert_eq!(drawn.bytes, b"\xff\xd8\xff rest");
        assert_eq!(drawn.sha256[..], Sha256::digest(&drawn.bytes)[..]);
    }

    #[test]
    fn what_is_no_picture_or_too_large_is_left_out() {
        assert!(Drawn::of(std::iter::empty()).is_none());
        assert!(Drawn::of(parts(&[b"<svg onload=alert(1)>"])).is_none());
        assert!(Drawn::of(parts(&[b"\xff\xd8\xff", &vec![0; BYTES_MAX]])).is_none());
        assert!(Drawn::of([json!({ "part": 7 })].into_iter()).is_none());
        let torn = json!({ "media_type": "image/jpeg", "part": "/9j/*" });
        assert!(Drawn::of([torn].into_iter()).is_none());
    }
}
