//! Addresses of people: e-mail and telephone. Each has one form, in which it is compared.

use std::fmt;

/// The text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has to be an e-mail address such as ann@example.com")]
pub struct EmailError;

/// An address in lower case. Whether mail reaches it is for whoever writes to it to find out; this
/// only keeps out what cannot be one, and what would look like another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// RFC 5321, 4.5.3.1.3 less the two angle brackets.
    const MAX_BYTES: usize = 254;

    /// Trims, checks and lowers.
    ///
    /// # Errors
    /// [`EmailError`].
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@').ok_or(EmailError)?;
        // ASCII only: a letter of another alphabet that looks the same is another person.
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let label = |label: &str| {
            let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let sound = (1..=64).contains(&local.len())
            && local.bytes().all(plain)
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && domain.contains('.')
            && domain.split('.').all(label)
            && text.len() <= Self::MAX_BYTES;
        sound.then(|| Self(text.to_ascii_lowercase())).ok_or(EmailError)
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the sign.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no telephone number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has to be a telephone number with its country's code, such as +8613800138000")]
pub struct PhoneError;

/// A telephone number as digits after a `+` (E.164). Whether somebody has it is for whoever sends to
/// it to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phone(String);

impl Phone {
    /// Takes what people put between digits out, and checks the rest. The country's code is never
    /// guessed.
    ///
    /// # Errors
    /// [`PhoneError`].
    pub fn parse(text: &str) -> Result<Self, PhoneError> {
        let between = |letter: &char| !matches!(letter, ' ' | '-' | '.' | '(' | ')' | '\u{a0}');
        let bare: String = text.trim().chars().filter(between).collect();
        let digits = bare.strip_prefix('+').ok_or(PhoneError)?;
        let sound = (7..=15).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        if sound { Ok(Self(bare)) } else { Err(PhoneError) }
    }

    /// The number, with its `+`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number without the `+`, as WhatsApp writes it.
    pub fn digits(&self) -> &str {
        self.0.trim_start_matches('+')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_trimmed_and_lowered() {
        let email = Email::parse(" Ann.Lee+qudao@Example.COM ").unwrap();
        assert_eq!((email.as_str(), email.domain()), ("ann.lee+qudao@example.com", "example.com"));
    }

    #[test]
    fn what_cannot_be_one_or_looks_like_another_is_refused() {
        for text in [
            "",
            "ann",
            "@example.com",
            "ann@",
            "ann@localhost",
            "a@b@",
            "ann@-x.com",
            "ann@x..com",
            ".ann@example.com",
            "a..b@example.com",
            "ann@exa mple.com",
            "аnn@example.com",
            "ann@exаmple.com",
            "ann@example.com\0",
            "ann\n@example.com",
            "\"ann\"@example.com",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("a@{}.com", "b".repeat(64)),
        ] {
            assert_eq!(Email::parse(text), Err(EmailError), "{text:?}");
        }
    }

    #[test]
    fn a_number_is_digits_with_the_countrys_code() {
        for text in ["+8613800138000", " +86 138-0013-8000 ", "+86 (138) 0013.8000"] {
            let phone = Phone::parse(text).unwrap();
            assert_eq!((phone.as_str(), phone.digits()), ("+8613800138000", "8613800138000"));
        }
        for text in
            ["", "+", "13800138000", "+012345678", "+12345", "+1234567890123456", "+12x4567"]
        {
            assert_eq!(Phone::parse(text), Err(PhoneError), "{text:?}");
        }
    }
}
