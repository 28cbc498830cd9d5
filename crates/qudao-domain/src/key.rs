//! API keys: `qk_live_<id>_<43 characters>`, 256 random bits, shown once, kept as SHA-256.
//! A plain hash suffices for 256 bits of entropy (ASVS 5, 6.5.2 asks for at least 112).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::ids::ApiKeyId;

const PREFIX: &str = "qk_live_";
const SECRET_CHARS: usize = 43;

/// What is kept of a secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret's text.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The hash as the database keeps it, or `None` if it is not 32 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// 256 random bits in URL-safe base64, 43 characters.
pub fn random_secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key as its owner holds it. Never logged: `Debug` shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: ApiKeyId,
    secret: String,
}

impl ApiKey {
    /// A new key.
    pub fn generate() -> Self {
        Self { id: ApiKeyId::new(), secret: random_secret() }
    }

    /// Reads what a client sent. `None` for anything that cannot be a key.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (id, secret) = rest.split_once('_')?;
        let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if secret.len() != SECRET_CHARS || !secret.bytes().all(url_safe) {
            return None;
        }
        let id = format!("{}_{id}", ApiKeyId::PREFIX).parse().ok()?;
        Some(Self { id, secret: secret.to_owned() })
    }

    /// Which key it claims to be.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What to keep and to compare.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// The last four characters, by which a person recognises a key in a list.
    pub fn last4(&self) -> &str {
        &self.secret[SECRET_CHARS - 4..]
    }

    /// The whole key, to be shown to its owner once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id.as_uuid().simple(), self.secret)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(&key.reveal()).as_ref(), Some(&key));
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let good = ApiKey::generate().reveal();
        for text in [
            "",
            "qk_live_",
            &good[..good.len() - 1],
            &format!("{good}x"),
            &good.replace("qk_live", "qk_test"),
            &format!("{}é", &good[..good.len() - 2]),
        ] {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_secret_does_not_show_in_debug_output() {
        let key = ApiKey::generate();
        let shown = format!("{key:?} {:?}", key.hash());
        assert!(!shown.contains(&key.secret));
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_that_writes_itself_so_or_none(
            text in "(qk_live_)?[0-9a-f]{0,33}_?[A-Za-z0-9_-]{0,45}\\PC{0,3}",
        ) {
            if let Some(key) = ApiKey::parse(&text) {
                prop_assert_eq!(key.reveal(), text);
                prop_assert_eq!(key.last4().len(), 4);
            }
        }
    }
}
