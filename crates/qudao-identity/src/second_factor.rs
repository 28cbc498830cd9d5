//! The second factor: time-based codes (RFC 6238) from an authenticator app.

use qudao_domain::key::{self, SecretHash};
use totp_rs::{Builder, Totp};

/// Codes for the day when the device is lost.
const RECOVERY_CODES: usize = 10;
/// Characters of such a code: some 50 random bits, which nobody guesses online.
const RECOVERY_CHARS: usize = 10;

/// The names of tenant and member cannot stand in an app's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the names cannot stand in the URL of an authenticator app")]
pub struct EnrolmentError;

/// What a member needs to set up their app.
#[derive(Clone)]
pub struct Enrolment {
    /// To be kept, encrypted.
    pub secret: Vec<u8>,
    /// To be typed in.
    pub base32: String,
    /// To be shown as a QR code: `otpauth://totp/…`.
    pub url: String,
}

impl Enrolment {
    /// A new secret for this member.
    ///
    /// # Errors
    /// [`EnrolmentError`].
    pub fn new(issuer: &str, account: &str) -> Result<Self, EnrolmentError> {
        // A colon separates the two in the URL.
        let (issuer, account) = (issuer.replace(':', " "), account.replace(':', " "));
        let totp = Builder::new().with_issuer(Some(issuer)).with_account_name(account);
        let totp = totp.build().map_err(|_| EnrolmentError)?;
        let secret = totp.secret();
        Ok(Self {
            secret: secret.as_bytes().to_vec(),
            base32: secret.to_base32(),
            url: totp.to_url().map_err(|_| EnrolmentError)?,
        })
    }
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enrolment(…)")
    }
}

/// The step of a code that is right now, or was or will be within half a minute.
pub(crate) fn step_of(secret: &[u8], code: &str, unix_secs: u64) -> Option<i64> {
    let six_digits = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    if !six_digits {
        return None;
    }
    let step = totp(secret)?.check(code, unix_secs)?;
    i64::try_from(step).ok()
}

fn totp(secret: &[u8]) -> Option<Totp> {
    Builder::new().with_account_name("member").with_secret(secret).build().ok()
}

/// Codes for a member to print, each good once.
pub(crate) fn recovery_codes() -> Vec<String> {
    (0..RECOVERY_CODES)
        .map(|_| {
            let mut code: String = key::random_secret()
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(RECOVERY_CHARS)
                .collect();
            code.make_ascii_lowercase();
            code
        })
        .collect()
}

/// What is kept of such a code. Dashes and spaces are for people.
pub(crate) fn recovery_hash(member: uuid::Uuid, code: &str) -> SecretHash {
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    SecretHash::of(&format!("{member} {}", code.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits: the test vector of SHA-1.
    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = b"12345678901234567890";
        for (at, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(step_of(secret, code, at), Some(i64::try_from(at / 30).unwrap()), "{at}");
            assert_eq!(step_of(secret, code, at + 30), Some(i64::try_from(at / 30).unwrap()));
            assert_eq!(step_of(secret, code, at + 90), None);
        }
        for code in ["", "28708", "2870822", "２８７０８２", "abcdef", "-28708"] {
            assert_eq!(step_of(secret, code, 59), None, "{code}");
        }
    }

    #[test]
    fn an_enrolment_is_what_an_app_reads() {
        let enrolment = Enrolment::new("Acme: a shop", "ann@example.com").unwrap();
        assert!(enrolment.url.starts_with("otpauth://totp/"), "{}", enrolment.url);
        assert!(enrolment.url.contains(&format!("secret={}", enrolment.base32)));
        assert!(20 <= enrolment.secret.len());
        assert!(!format!("{enrolment:?}").contains(&enrolment.base32));
    }

    #[test]
    fn recovery_codes_differ_and_spaces_do_not_matter() {
        let codes = recovery_codes();
        assert_eq!(codes.iter().collect::<std::collections::HashSet<_>>().len(), RECOVERY_CODES);
        let member = uuid::Uuid::nil();
        let spaced = format!("{}-{} ", &codes[0][..5], codes[0][5..].to_uppercase());
        assert!(recovery_hash(member, &spaced).matches(&recovery_hash(member, &codes[0])));
        assert!(codes.iter().all(|code| code.len() == RECOVERY_CHARS));
    }
}
