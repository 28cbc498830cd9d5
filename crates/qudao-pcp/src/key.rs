//! Keys as Standard Webhooks writes them: `whsec_` for a shared secret, `whsk_` and `whpk_` for a
//! pair of ed25519.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of a shared secret: fewer can be guessed, more are a mistake.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Why a text is no key. It never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It begins with something else.
    #[error("the key has to begin with {0}")]
    Prefix(&'static str),
    /// What follows is not base64.
    #[error("the key is not base64")]
    Base64,
    /// Too few or too many bytes, or none.
    #[error("a shared secret has 24 to 64 bytes, an ed25519 key 32")]
    Length,
    /// The bytes are no point of the curve, or one that signs anything.
    #[error("the public key is not usable")]
    Point,
}

/// A secret that both sides know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The half of a pair that signs.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

/// The half of a pair that verifies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

fn decode(text: &str, prefix: &'static str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let rest = text.strip_prefix(prefix).ok_or(KeyError::Prefix(prefix))?;
    STANDARD.decode(rest).map(Zeroizing::new).map_err(|_| KeyError::Base64)
}

/// A name for a key that tells nothing of it.
fn id_of(what: &[u8], bytes: &[u8]) -> String {
    let hash = Sha256::new().chain_update(what).chain_update(bytes).finalize();
    format!("key_{}", hex::encode(&hash[..10]))
}

fn random() -> Zeroizing<[u8; 32]> {
    Zeroizing::new(rand::random())
}

impl Secret {
    /// Reads `whsec_…`.
    ///
    /// # Errors
    /// [`KeyError`], also for an empty and a short one.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, "whsec_")?;
        if SECRET_BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(KeyError::Length) }
    }

    /// A new one of 32 random bytes.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random().to_vec()))
    }

    /// `whsec_…`: show it once and keep it sealed.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(&*self.0))
    }

    /// What it is called.
    pub fn id(&self) -> String {
        id_of(b"pcp secret", &self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PrivateKey {
    /// Reads `whsk_…`: the 32 bytes of the seed, or those and the public key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, "whsk_")?;
        if let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self(SigningKey::from_bytes(seed)));
        }
        let pair = <&[u8; 64]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length)?;
        SigningKey::from_keypair_bytes(pair).map(Self).map_err(|_| KeyError::Point)
    }

    /// A new one.
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&random()))
    }

    /// `whsk_…`: show it to nobody.
    pub fn reveal(&self) -> String {
        format!("whsk_{}", STANDARD.encode(self.0.as_bytes()))
    }

    /// The half that verifies.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn inner(&self) -> &SigningKey {
        &self.0
    }
}

impl PublicKey {
    /// Reads `whpk_…`.
    ///
    /// # Errors
    /// [`KeyError`], also for a weak point, under which anything would verify.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text, "whpk_")?;
        let bytes = <&[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Point)?;
        if key.is_weak() { Err(KeyError::Point) } else { Ok(Self(key)) }
    }

    /// What it is called.
    pub fn id(&self) -> String {
        id_of(b"pcp public key", self.0.as_bytes())
    }

    pub(crate) fn inner(&self) -> &VerifyingKey {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whpk_{}", STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_short_and_long_secrets_are_refused() {
        let with =
            |bytes: usize| Secret::parse(&format!("whsec_{}", STANDARD.encode(vec![7; bytes])));
        assert_eq!(Secret::parse(""), Err(KeyError::Prefix("whsec_")));
        assert_eq!(Secret::parse("whsec_"), Err(KeyError::Length));
        assert_eq!(with(23), Err(KeyError::Length));
        assert_eq!(with(65), Err(KeyError::Length));
        assert!(with(24).is_ok() && with(64).is_ok());
        assert_eq!(Secret::parse("whsec_$"), Err(KeyError::Base64));
    }

    #[test]
    fn keys_survive_their_text_and_no_debug_shows_one() {
        let (secret, private) = (Secret::generate(), PrivateKey::generate());
        assert_eq!(Secret::parse(&secret.reveal()), Ok(secret.clone()));
        let again = PrivateKey::parse(&private.reveal()).unwrap();
        assert_eq!(again.public(), private.public());
        assert_eq!(PublicKey::parse(&private.public().to_string()), Ok(private.public()));
        let shown = format!("{secret:?} {private:?}");
        assert!(!shown.contains(&secret.reveal()[6..]) && !shown.contains(&private.reveal()[5..]));
    }

    #[test]
    fn a_point_under_which_anything_verifies_is_no_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let text = format!("whpk_{}", STANDARD.encode(identity));
        assert_eq!(PublicKey::parse(&text), Err(KeyError::Point));
    }
}
