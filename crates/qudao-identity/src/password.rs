//! Passwords: what may be one, and what is kept of it.
//!
//! argon2id with 19 MiB, two passes and one lane, the first choice of OWASP's cheat sheet on
//! password storage. Hashing is slow on purpose, so it is done on threads of its own, few at a time,
//! and refused when too many wait: otherwise a flood of sign-ins would take the machine.

use std::{fmt, sync::Arc};

use argon2::{
    Argon2, PasswordVerifier as _,
    password_hash::{PasswordHasher as _, phc::PasswordHash},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many wait for a place at most, for each place.
const WAITING_PER_PLACE: usize = 16;

/// Why a password was refused, or could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("has to have at least {} characters", Password::MIN_CHARS)]
    TooShort,
    /// Too long: hashing it would take too long.
    #[error("has to have at most {} characters", Password::MAX_CHARS)]
    TooLong,
    /// One of those that are tried first.
    #[error("is too easy to guess; {0}")]
    Guessable(String),
    /// Too many sign in at this moment.
    #[error("too many people sign in at this moment")]
    Busy,
}

/// A password that somebody chose. Never logged: `Debug` does not show it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// The fewest characters (ASVS 5, 6.2.1 asks for eight).
    pub const MIN_CHARS: usize = 10;
    /// The most characters (ASVS 5, 6.2.9 asks to take at least 64).
    pub const MAX_CHARS: usize = 128;

    /// Checks a new password. `known` are words that an attacker would try, such as the name.
    ///
    /// # Errors
    /// [`PasswordError`] but for `Busy`.
    pub fn choose(text: &str, known: &[&str]) -> Result<Self, PasswordError> {
        let chars = text.chars().count();
        if chars < Self::MIN_CHARS {
            return Err(PasswordError::TooShort);
        }
        if Self::MAX_CHARS < chars {
            return Err(PasswordError::TooLong);
        }
        let strength = zxcvbn::zxcvbn(text, known);
        if strength.score() < zxcvbn::Score::Three {
            let why = strength.feedback().and_then(zxcvbn::feedback::Feedback::warning);
            let why = why.map_or_else(|| "add a word or two".to_owned(), |why| why.to_string());
            return Err(PasswordError::Guessable(why));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

pub(crate) struct Hasher {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The hash of a password that nobody has: comparing with it takes as long as with a real one.
    nobody: String,
}

impl Hasher {
    pub(crate) fn new(places: usize) -> Self {
        let places = places.max(1);
        Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: Arc::new(Semaphore::new(places * (1 + WAITING_PER_PLACE))),
            nobody: hash(&qudao_domain::key::random_secret()),
        }
    }

    pub(crate) async fn hash(&self, Password(text): &Password) -> Result<String, PasswordError> {
        let text = text.clone();
        self.run(move || hash(&text)).await
    }

    /// Whether this is the password behind the hash. Takes as long without a hash, and is `false`.
    pub(crate) async fn matches(
        &self,
        text: &str,
        kept: Option<&str>,
    ) -> Result<bool, PasswordError> {
        if Password::MAX_CHARS < text.chars().count() {
            return Ok(false);
        }
        let known = kept.is_some();
        let kept = kept.unwrap_or(&self.nobody).to_owned();
        let text = text.to_owned();
        self.run(move || known & verify(&text, &kept)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _waiting = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| PasswordError::Busy)?;
        // The place is kept until the work is done, even if nobody waits for it any more.
        let done = spawn_blocking(move || {
            let outcome = work();
            drop(place);
            outcome
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            PasswordError::Busy
        })
    }
}

fn hash(text: &str) -> String {
    let hashed: Result<PasswordHash, _> = Argon2::default().hash_password(text.as_bytes());
    // Fails on lengths only, which are checked; an empty text is the hash of no password.
    hashed.map(|hash| hash.to_string()).unwrap_or_default()
}

fn verify(text: &str, kept: &str) -> bool {
    let Ok(kept) = PasswordHash::new(kept) else { return false };
    Argon2::default().verify_password(text.as_bytes(), &kept).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_passwords_are_refused_with_a_reason() {
        assert_eq!(Password::choose("short", &[]).unwrap_err(), PasswordError::TooShort);
        assert_eq!(Password::choose(&"长".repeat(129), &[]).unwrap_err(), PasswordError::TooLong);
        for text in ["password123", "1234567890", "qwertyuiop", "acmecorporation"] {
            let refused = Password::choose(text, &["acmecorporation"]).unwrap_err();
            assert!(matches!(refused, PasswordError::Guessable(_)), "{text}: {refused}");
        }
        for text in ["correct horse battery", "我们的小店开在河边的第三棵树下"] {
            assert!(Password::choose(text, &[]).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn only_the_same_password_matches_and_no_hash_matches_nothing() {
        let hasher = Hasher::new(1);
        let password = Password::choose("correct horse battery", &[]).unwrap();
        let (one, two) =
            (hasher.hash(&password).await.unwrap(), hasher.hash(&password).await.unwrap());
        assert_ne!(one, two, "each has a salt of its own");
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_eq!(hasher.matches("correct horse battery", Some(&one)).await, Ok(true));
        assert_eq!(hasher.matches("correct horse batterz", Some(&one)).await, Ok(false));
        assert_eq!(hasher.matches("", Some("")).await, Ok(false));
        assert_eq!(hasher.matches("correct horse battery", None).await, Ok(false));
        // What nobody's password is compared with costs as much as anybody's.
        let cost = |hash: &str| hash.split('$').take(4).collect::<Vec<_>>().join("$");
        assert_eq!(cost(&hasher.nobody), cost(&one));
        assert!(!format!("{password:?}").contains("horse"));
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let hasher = Hasher::new(1);
        let all = (0..40).map(|_| hasher.matches("x", None));
        let all = futures_util::future::join_all(all).await;
        let busy = all.into_iter().filter(|one| *one == Err(PasswordError::Busy)).count();
        assert!(20 <= busy, "{busy}");
    }
}
