//! Texts that were checked once, at the edge.

use std::fmt;

use serde::Serialize;

/// Why a text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("is {chars} characters long; at most {max} are allowed")]
    TooLong {
        /// What came.
        chars: usize,
        /// What is allowed.
        max: usize,
    },
    /// A NUL, which Postgres cannot keep.
    #[error("must not contain the character U+0000")]
    Nul,
}

fn checked(text: &str, max: usize) -> Result<String, TextError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.contains('\0') {
        return Err(TextError::Nul);
    }
    let chars = text.chars().count();
    if max < chars {
        return Err(TextError::TooLong { chars, max });
    }
    Ok(text.to_owned())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The longest text that is accepted, in Unicode scalar values.
            pub const MAX_CHARS: usize = $max;

            /// Trims and checks.
            ///
            /// # Errors
            /// A [`TextError`] that says what is wrong with it.
            pub fn parse(text: &str) -> Result<Self, TextError> {
                checked(text, Self::MAX_CHARS).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, owned.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_type!(/** What a tenant calls a thing of theirs. */ Name, 120);
text_type!(/** What an end user wrote. */ MessageText, 16_000);
text_type!(/** An assistant's system prompt. */ SystemPrompt, 32_000);
text_type!(/** A channel's own id of a message or a sender. */ ExternalId, 200);

/// Why an idempotency key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has to be 1 to {max} printable ASCII characters", max = IdempotencyKey::MAX_CHARS)]
pub struct IdempotencyKeyError;

/// What a caller calls a request of theirs, so that its repetition is known for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The longest key that is accepted.
    pub const MAX_CHARS: usize = 255;

    /// Checks. Nothing is trimmed: a key is compared as it was sent.
    ///
    /// # Errors
    /// [`IdempotencyKeyError`] for an empty or overlong one, and for control characters and
    /// others that headers do not carry faithfully.
    pub fn parse(text: &str) -> Result<Self, IdempotencyKeyError> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if (1..=Self::MAX_CHARS).contains(&text.len()) && printable && !text.trim().is_empty() {
            return Ok(Self(text.to_owned()));
        }
        Err(IdempotencyKeyError)
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idempotency_key_is_printable_ascii_of_at_most_255_characters() {
        for key in ["a", "invoice 42", "\"8e03978e\"", &"k".repeat(255)] {
            assert_eq!(IdempotencyKey::parse(key).unwrap().as_str(), key);
        }
        for key in ["", " ", "a\tb", "a\u{7f}", "钥匙", &"k".repeat(256)] {
            assert_eq!(IdempotencyKey::parse(key), Err(IdempotencyKeyError), "{key:?}");
        }
    }

    #[test]
    fn white_space_around_a_name_is_cut() {
        assert_eq!(Name::parse("  Acme \n").map(Name::into_string), Ok("Acme".to_owned()));
    }

    #[test]
    fn nothing_blank_nul_and_overlong_are_refused() {
        assert_eq!(Name::parse(" \t"), Err(TextError::Empty));
        assert_eq!(Name::parse("a\0b"), Err(TextError::Nul));
        let long = "字".repeat(121);
        assert_eq!(Name::parse(&long), Err(TextError::TooLong { chars: 121, max: 120 }));
    }

    #[test]
    fn the_limit_counts_characters_and_not_bytes() {
        assert!(Name::parse(&"字".repeat(120)).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_an_idempotency_key_as_it_was_sent_or_none(text in "\\PC{0,300}|[ -~]{0,300}|.{0,9}") {
            if let Ok(key) = IdempotencyKey::parse(&text) {
                prop_assert_eq!(key.as_str(), text.as_str());
                prop_assert!(text.len() <= 255 && text.is_ascii());
            }
        }
    }
}
