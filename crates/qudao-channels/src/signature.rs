//! Checks of what platforms sign. All of them compare in constant time and try every valid secret,
//! so that neither the answer's time nor a rotation tells or loses anything.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// HMAC-SHA256 of the parts, one after the other.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// SHA-1 of the parts, one after the other.
pub(crate) fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// Whether two byte strings are the same. Takes as long whatever they are, but for their length.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// Whether any valid secret makes what was given. All of them are tried.
pub(crate) fn any<'a>(
    secrets: impl IntoIterator<Item = &'a str>,
    given: &[u8],
    made_with: impl Fn(&str) -> Vec<u8>,
) -> bool {
    secrets.into_iter().fold(false, |found, secret| found | same(&made_with(secret), given))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_published_value_is_made() {
        let mac = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(mac), wanted);
        assert_eq!(hex::encode(sha1(&[b"a", b"bc"])), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn every_secret_is_tried_and_no_other() {
        let made = |secret: &str| hmac_sha256(secret.as_bytes(), &[b"x"]).to_vec();
        assert!(any(["new", "old"], &made("old"), made));
        assert!(!any(["new", "old"], &made("older"), made));
        assert!(!any([], &made("old"), made));
        assert!(!any(["new"], b"", made));
    }
}
