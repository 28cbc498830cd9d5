//! Signatures as Standard Webhooks defines them, over `id.timestamp.body`, in both directions.
//! Several keys sign at a time and several are accepted, so that a rotation loses nothing.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use crate::{EventId, PrivateKey, PublicKey, Secret};

/// How far the two clocks may differ.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// Signatures that are looked at. A sender has few keys; who sends more wants work done.
const CANDIDATES: usize = 16;

/// Why a request is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header is absent or empty.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// The id holds other characters than `A-Za-z0-9_-` or is not 8 to 64 long.
    #[error("webhook-id has to be 8 to 64 of A-Z, a-z, 0-9, _ and -")]
    Id,
    /// The timestamp is not a number of seconds.
    #[error("webhook-timestamp has to be seconds since 1970")]
    Timestamp,
    /// The request is too old, or the clocks differ too much.
    #[error("webhook-timestamp is more than 300 seconds in the past")]
    TooOld,
    /// The request is from the future.
    #[error("webhook-timestamp is more than 300 seconds in the future")]
    TooNew,
    /// There is nothing to verify with: refused, and never "no check".
    #[error("no key is set, so nothing can be verified")]
    NoKey,
    /// No signature is made by a key that is valid.
    #[error("no signature matches")]
    NoMatch,
}

/// Three headers of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signature: &'a str,
}

/// Every key that signs.
#[derive(Debug, Clone, Default)]
pub struct Signer {
    /// Shared secrets, the newest first.
    pub secrets: Vec<Secret>,
    /// The private halves of pairs.
    pub private_keys: Vec<PrivateKey>,
}

/// Every key that is believed.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    /// Shared secrets.
    pub secrets: Vec<Secret>,
    /// The public halves of the other side's pairs.
    pub public_keys: Vec<PublicKey>,
}

fn mac(secret: &Secret, signed: &[u8]) -> [u8; 32] {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.bytes()) else { return [0; 32] };
    mac.update(signed);
    mac.finalize().into_bytes().into()
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

impl Signer {
    /// The value of `webhook-signature` for these bytes, one entry for each key.
    ///
    /// # Errors
    /// [`VerifyError::NoKey`] without a key: an unsigned request is not sent.
    pub fn sign(&self, id: &EventId, at: Timestamp, body: &[u8]) -> Result<String, VerifyError> {
        let signed = content(id.as_str(), &at.as_second().to_string(), body);
        let shared = self.secrets.iter().map(|key| ("v1", mac(key, &signed).to_vec()));
        let pairs = self.private_keys.iter().map(|key| {
            let signature: Signature = key.inner().sign(&signed);
            ("v1a", signature.to_bytes().to_vec())
        });
        let made: Vec<_> = shared
            .chain(pairs)
            .map(|(version, bytes)| format!("{version},{}", STANDARD.encode(bytes)))
            .collect();
        if made.is_empty() { Err(VerifyError::NoKey) } else { Ok(made.join(" ")) }
    }

    /// The name of the newest key.
    pub fn key_id(&self) -> Option<String> {
        let pair = self.private_keys.first().map(|key| key.public().id());
        self.secrets.first().map(Secret::id).or(pair)
    }
}

impl Verifier {
    /// Whether the bytes are from somebody who has a key, and fresh. Every signature is held
    /// against every key, whatever the first ones say.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(
        &self,
        headers: Signed<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<EventId, VerifyError> {
        let given = [
            (headers.id, crate::header::ID),
            (headers.timestamp, crate::header::TIMESTAMP),
            (headers.signature, crate::header::SIGNATURE),
        ];
        if let Some((_, name)) = given.into_iter().find(|(text, _)| text.is_empty()) {
            return Err(VerifyError::Missing(name));
        }
        let id = EventId::parse(headers.id).map_err(|_| VerifyError::Id)?;
        check_time(headers.timestamp, now)?;
        if self.secrets.is_empty() && self.public_keys.is_empty() {
            return Err(VerifyError::NoKey);
        }
        let signed = content(headers.id, headers.timestamp, body);
        let mut found = Choice::from(0);
        for entry in headers.signature.split(' ').take(CANDIDATES) {
            // What has another form is somebody's future version, and no reason to refuse the rest.
            match entry.split_once(',') {
                Some(("v1", text)) => found |= self.matches_secret(text, &signed),
                Some(("v1a", text)) => found |= self.matches_pair(text, &signed),
                _ => {}
            }
        }
        if found.into() { Ok(id) } else { Err(VerifyError::NoMatch) }
    }

    fn matches_secret(&self, text: &str, signed: &[u8]) -> Choice {
        let given = STANDARD.decode(text).unwrap_or_default();
        let each = self.secrets.iter().map(|secret| mac(secret, signed).ct_eq(given.as_slice()));
        each.fold(Choice::from(0), |found, one| found | one)
    }

    fn matches_pair(&self, text: &str, signed: &[u8]) -> Choice {
        let given = STANDARD.decode(text).unwrap_or_default();
        let Ok(given) = Signature::from_slice(&given) else { return Choice::from(0) };
        let each = self
            .public_keys
            .iter()
            .map(|key| Choice::from(u8::from(key.inner().verify_strict(signed, &given).is_ok())));
        each.fold(Choice::from(0), |found, one| found | one)
    }
}

fn check_time(text: &str, now: Timestamp) -> Result<(), VerifyError> {
    // `parse` would take a sign.
    if text.len() > 12 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VerifyError::Timestamp);
    }
    let at: i64 = text.parse().map_err(|_| VerifyError::Timestamp)?;
    let late = now.as_second().saturating_sub(at);
    if late.unsigned_abs() <= TOLERANCE.as_secs() {
        return Ok(());
    }
    Err(if late > 0 { VerifyError::TooOld } else { VerifyError::TooNew })
}

#[cfg(test)]
mod tests;
