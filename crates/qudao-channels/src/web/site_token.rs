//! Tokens that the tenant's own site signs: who of its customers is in front of the widget.
//!
//! A JSON Web Token (RFC 7519) for one channel: `aud` is the channel's public key, and the secret or
//! the keys that it is checked with are the channel's. Which of them is used follows from the
//! algorithm, and an algorithm without a key of its own kind is refused, so that nobody signs with
//! a public key as if it were a secret.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use qudao_core::channel::config::ChannelConfig;
use qudao_domain::{
    TenantId,
    address::{Email, Phone},
};
use qudao_storage::{ClaimKind, ContactClaim};
use serde::Deserialize;

use super::widget::{SITE_KEYS, SITE_SECRET};

/// The longest token that is read, in characters.
pub const MAX_CHARS: usize = 4096;
/// The longest that a token may be good for from now, in seconds.
const LONGEST: i64 = 12 * 3600;
/// How far the site's clock may be ahead of ours, in seconds.
const SKEW: i64 = 60;
/// The longest `sub` and `iss`.
const MAX_NAME: usize = 200;

/// What a site says of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteToken {
    /// What it calls the customer, within what it calls itself.
    pub subject: (Option<String>, String),
    /// Their address, if the site says that it verified it.
    pub email: Option<Email>,
    /// Their telephone number, if the site says that it verified it.
    pub phone: Option<Phone>,
    /// What they are called.
    pub name: Option<String>,
    /// Which language they read.
    pub locale: Option<String>,
}

/// Why a token is not believed, in words for whoever builds the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// The channel has nothing to check tokens with.
    #[error(
        "this channel takes no tokens of a site: set the secret `site_secret`, or `site_keys` among \
         the channel's settings"
    )]
    NotConfigured,
    /// It is no token.
    #[error(
        "the token is no JWT of at most 4096 characters with `sub` (1 to 200 characters), `aud` and \
         `exp` (whole seconds since 1970)"
    )]
    Malformed,
    /// It is signed in a way that the channel has no key for.
    #[error(
        "sign with HS256 and the channel's `site_secret`, or with ES256 or EdDSA and a key of `site_keys`"
    )]
    Algorithm,
    /// The signature is not by a key that is valid now.
    #[error("the token is not signed with a secret or key of this channel that is valid now")]
    Signature,
    /// It is for another channel.
    #[error("`aud` has to be the public key of this channel")]
    Audience,
    /// It is over.
    #[error("the token has expired: sign a new one")]
    Expired,
    /// It is good for too long.
    #[error("`exp` may be 12 hours from now at most")]
    TooLong,
    /// It is not good yet.
    #[error("`nbf` or `iat` is in the future: is the clock of your server right?")]
    NotYet,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    iss: Option<String>,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    phone: Option<String>,
    #[serde(default)]
    phone_verified: bool,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    locale: Option<String>,
}

impl SiteToken {
    /// Reads a token for the channel of this configuration, which strangers know by `public_key`.
    ///
    /// # Errors
    /// [`TokenFault`]. What is wrong with the claims is told to nobody who cannot sign.
    pub fn read(
        config: &ChannelConfig,
        public_key: &str,
        token: &str,
        now: Timestamp,
    ) -> Result<Self, TokenFault> {
        let secrets = config.candidates(SITE_SECRET).unwrap_or_default();
        let pems = config.list(SITE_KEYS);
        if secrets.is_empty() && pems.is_empty() {
            return Err(TokenFault::NotConfigured);
        }
        if MAX_CHARS < token.len() {
            return Err(TokenFault::Malformed);
        }
        let algorithm = algorithm(token)?;
        let keys: Vec<DecodingKey> = match algorithm {
            Algorithm::HS256 => {
                let long = secrets.iter().filter(|secret| 32 <= secret.chars().count());
                long.filter_map(|secret| DecodingKey::from_secret(secret.as_bytes()).ok()).collect()
            }
            Algorithm::ES256 => read_keys(&pems, DecodingKey::from_ec_pem),
            Algorithm::EdDSA => read_keys(&pems, DecodingKey::from_ed_pem),
            _ => return Err(TokenFault::Algorithm),
        };
        if keys.is_empty() {
            return Err(TokenFault::Algorithm);
        }
        let claims = verify(token, algorithm, &keys, public_key)?;
        claims.judge(now.as_second())
    }

    /// What it proves, as it is kept.
    pub fn claims(&self, tenant_id: TenantId) -> Vec<ContactClaim> {
        let (issuer, subject) = &self.subject;
        let named = match issuer {
            Some(issuer) => format!("{issuer}\n{subject}"),
            None => subject.clone(),
        };
        let of = |kind, value: &str| ContactClaim::of(tenant_id, kind, value);
        let mut claims = vec![of(ClaimKind::Customer, &named)];
        claims.extend(self.email.as_ref().map(|email| of(ClaimKind::Email, email.as_str())));
        claims.extend(self.phone.as_ref().map(|phone| of(ClaimKind::Phone, phone.as_str())));
        claims
    }
}

/// `none` and names that nobody knows do not even parse.
fn algorithm(token: &str) -> Result<Algorithm, TokenFault> {
    let header = decode_header(token).map_err(|error| match error.kind() {
        ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenFault::Malformed,
        _ => TokenFault::Algorithm,
    })?;
    Ok(header.alg)
}

fn read_keys(
    pems: &[&str],
    read: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>,
) -> Vec<DecodingKey> {
    // A key of the other kind is no fault: both may be listed.
    pems.iter().filter_map(|pem| read(pem.trim().as_bytes()).ok()).collect()
}

fn verify(
    token: &str,
    algorithm: Algorithm,
    keys: &[DecodingKey],
    public_key: &str,
) -> Result<Claims, TokenFault> {
    let mut rules = Validation::new(algorithm);
    rules.set_audience(&[public_key]);
    rules.set_required_spec_claims(&["aud"]);
    // By our own clock, below.
    rules.validate_exp = false;
    for key in keys {
        match decode::<Claims>(token, key, &rules) {
            Ok(read) => return Ok(read.claims),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => {}
                ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
                    return Err(TokenFault::Audience);
                }
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {}
                _ => return Err(TokenFault::Malformed),
            },
        }
    }
    Err(TokenFault::Signature)
}

impl Claims {
    fn judge(self, now: i64) -> Result<SiteToken, TokenFault> {
        if self.exp <= now {
            return Err(TokenFault::Expired);
        }
        if now.saturating_add(LONGEST) < self.exp {
            return Err(TokenFault::TooLong);
        }
        let ahead = now.saturating_add(SKEW);
        if [self.nbf, self.iat].into_iter().flatten().any(|time| ahead < time) {
            return Err(TokenFault::NotYet);
        }
        let is_name = |text: &str| {
            (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        if !is_name(&self.sub) || !self.iss.as_deref().is_none_or(is_name) {
            return Err(TokenFault::Malformed);
        }
        let short = |text: Option<String>, most: usize| {
            let text = text?.chars().filter(|char| !char.is_control()).take(most).collect();
            Some(text).filter(|text: &String| !text.trim().is_empty())
        };
        Ok(SiteToken {
            subject: (self.iss, self.sub),
            email: self
                .email
                .filter(|_| self.email_verified)
                .and_then(|text| Email::parse(&text).ok()),
            phone: self
                .phone
                .filter(|_| self.phone_verified)
                .and_then(|text| Phone::parse(&text).ok()),
            name: short(self.name, 200),
            locale: short(self.locale, 35),
        })
    }
}

#[cfg(test)]
mod tests;
