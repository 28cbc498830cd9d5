//! Words of strangers: what a provider, a plugin or the other side of a channel says may repeat a
//! message of a person, or a part of a key.
//!
//! A log line names the class of a failure and never quotes them. Where the operator has to read
//! them all the same (a plugin's own lines, the reports of the plugin host), they are [`Redacted`]:
//! short, and without what looks like a key, an address or a number of a person. What no pattern
//! tells from an ordinary word stays; that is why messages are not shown this way either.

use std::fmt;

/// The most characters that are shown.
const SHOWN: usize = 300;
/// A run with so many digits may be a telephone, a card, or an account.
const DIGITS: usize = 7;
/// A word of letters and digits from this length may be a key.
const TOKEN: usize = 16;
/// From this length it is one even in small letters alone.
const LONG_TOKEN: usize = 32;
/// How keys begin.
const KEYS: &[&str] = &["sk-", "sk_", "pk_", "qk_", "qo_", "qs_", "vt_", "ghp_", "xox", "eyJ"];

/// Words of a stranger, fit to be seen by an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Redacted<'a>(pub &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = mask_numbers(&mask_words(self.0));
        let mut chars = masked.chars();
        for letter in chars.by_ref().take(SHOWN) {
            // One line stays one line.
            fmt::Write::write_char(f, if letter.is_control() { ' ' } else { letter })?;
        }
        if chars.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Keys and addresses of mail.
fn mask_words(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter| !in_word(letter)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        masked.push_str(if is_mail(word) {
            "<mail>"
        } else if has_key(word) {
            "<key>"
        } else {
            word
        });
        let gap = after.chars().next().map_or(0, char::len_utf8);
        masked.push_str(&after[..gap]);
        rest = &after[gap..];
    }
    masked
}

fn in_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '@' | '.' | '_' | '-' | '+' | '/' | '=')
}

fn is_mail(word: &str) -> bool {
    word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}

/// Whether a part of the word, between dots and slashes, looks like a key.
fn has_key(word: &str) -> bool {
    word.split(['.', '/', '=']).any(|part| {
        let has = |test: fn(&char) -> bool| part.chars().any(|letter| test(&letter));
        let mixed = has(char::is_ascii_digit) && has(char::is_ascii_uppercase);
        let letters = part.chars().count();
        KEYS.iter().any(|prefix| part.starts_with(prefix) && prefix.len() < part.len())
            || TOKEN <= letters && mixed
            || LONG_TOKEN <= letters && has(char::is_ascii_digit)
    })
}

/// Runs of digits with what people put between them.
fn mask_numbers(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut run = String::new();
    let flush = |run: &mut String, masked: &mut String| {
        let digits = run.chars().filter(char::is_ascii_digit).count();
        if digits < DIGITS {
            masked.push_str(run);
        } else {
            let blank = run.len() - run.trim_end_matches([' ', '.', '-', '(', '/']).len();
            masked.push_str("<number>");
            masked.push_str(&run[run.len() - blank..]);
        }
        run.clear();
    };
    for letter in text.chars() {
        let begins = letter.is_ascii_digit() || matches!(letter, '+' | '(');
        let goes_on = begins || matches!(letter, ' ' | '-' | '.' | ')' | '/');
        if if run.is_empty() { begins } else { goes_on } {
            run.push(letter);
        } else {
            flush(&mut run, &mut masked);
            masked.push(letter);
        }
    }
    flush(&mut run, &mut masked);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_addresses_and_numbers_of_people_are_not_shown() {
        for (text, shown) in [
            ("Incorrect API key provided: sk-proj-abc", "Incorrect API key provided: <key>"),
            ("Bearer qk_live_0198_xyz.", "Bearer <key>"),
            ("write to ann.lee@example.com, please", "write to <mail>, please"),
            ("call +86 138 0013 8000 now", "call <number> now"),
            ("card 4111-1111-1111-1111", "card <number>"),
            ("secret JBSWY3DPEHPK3PXP!", "secret <key>!"),
            ("hash 0123456789abcdef0123456789abcdef", "hash <key>"),
            ("two\nlines", "two lines"),
        ] {
            assert_eq!(Redacted(text).to_string(), shown);
            assert_eq!(format!("{:?}", Redacted(text)), shown);
        }
    }

    #[test]
    fn ordinary_words_stay() {
        for text in [
            "the model qwen2.5-0.5b-instruct is not loaded",
            "HTTP 429: Rate limit reached, try again in 20 s",
            "smollm2-135m-instruct: 98362 tokens (of 8192)",
            "读取超时",
        ] {
            assert_eq!(Redacted(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_shown_is_short() {
        let long = "word ".repeat(1000);
        assert_eq!(Redacted(&long).to_string().chars().count(), SHOWN + 1);
    }
}
