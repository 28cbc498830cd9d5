//! A text as the network reads it: tokens, and the words that they belong to.

use tokenizers::{Tokenizer, TruncationParams};

use crate::{error::EncoderError, file::Card};

/// A text that is ready to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The pieces' numbers, with the marks of both ends.
    pub ids: Vec<u32>,
    /// The words of the text, with the tokens that each has become. A text without spaces, such as
    /// Chinese, has the tokenizer's pieces for words.
    pub words: Vec<Word>,
    /// The text was longer than the network reads.
    pub truncated: bool,
}

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it stands in the text.
    pub text: String,
    /// Where it begins, in characters from 0.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Its tokens, as places in [`Read::ids`].
    pub tokens: std::ops::Range<usize>,
}

/// Cuts texts into tokens.
pub(crate) struct Reader(Tokenizer);

impl Reader {
    pub(crate) fn new(json: &str, card: &Card, vocabulary: usize) -> Result<Self, EncoderError> {
        let broken = |error: tokenizers::Error| EncoderError::Tokenizer(error.to_string());
        let mut tokenizer: Tokenizer = json.parse().map_err(broken)?;
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: card.max_tokens, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(broken)?;
        if vocabulary < tokenizer.get_vocab_size(true) {
            let reason = "it knows more pieces than the network".to_owned();
            return Err(EncoderError::Tokenizer(reason));
        }
        Ok(Self(tokenizer))
    }

    /// Reads a text with something put before it.
    pub(crate) fn read(&self, prefix: &str, text: &str) -> Result<Read, EncoderError> {
        let whole = format!("{prefix}{text}");
        let encoding = self
            .0
            .encode(whole, true)
            .map_err(|error| EncoderError::Tokenizer(error.to_string()))?;
        let places = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
        let mut words: Vec<Word> = Vec::new();
        for (token, (&(start, end), &special)) in places.enumerate() {
            let (start, end) = (start.max(prefix.len()), end);
            if special != 0 || end <= start {
                continue;
            }
            let (start, end) = (start - prefix.len(), end - prefix.len());
            // A piece without a space before it goes on with the word before it.
            let goes_on = words
                .last()
                .is_some_and(|word| word.end == start && is_alphabetic_pair(text, start));
            match words.last_mut() {
                Some(word) if goes_on => {
                    word.end = end;
                    word.tokens.end = token + 1;
                }
                _ => words.push(Word { text: String::new(), start, end, tokens: token..token + 1 }),
            }
        }
        let words = words.into_iter().filter_map(|word| in_characters(text, word)).collect();
        Ok(Read {
            ids: encoding.get_ids().to_vec(),
            words,
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }
}

/// Whether the characters on both sides of a place belong to one word of a script with spaces.
fn is_alphabetic_pair(text: &str, at: usize) -> bool {
    let Some((before, after)) = text.split_at_checked(at) else { return false };
    let spaced = |c: char| (c.is_alphanumeric() || c == '\'' || c == '’') && (c as u32) < 0x2E80;
    before.chars().next_back().is_some_and(spaced) && after.chars().next().is_some_and(spaced)
}

/// A word whose places are bytes, with places in characters and without the spaces around it.
fn in_characters(text: &str, word: Word) -> Option<Word> {
    let raw = text.get(word.start..word.end)?;
    let trimmed = raw.trim();
    if trimmed.is_empty() {
        return None;
    }
    let ahead = raw.len() - raw.trim_start().len();
    let start = text.get(..word.start + ahead)?.chars().count();
    let end = start + trimmed.chars().count();
    Some(Word { text: trimmed.to_owned(), start, end, ..word })
}
