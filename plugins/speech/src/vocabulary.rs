//! The tokens that steer a Whisper: languages, times, ends.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

use crate::file::Card;

/// Half a minute in steps of a fiftieth of a second, both ends counted.
pub(crate) const TIMES: u32 = 1_501;
/// Words of what was said before, at most: half of the places are for what is said.
const BEFORE_MAX: usize = 200;
/// What marks silence has two names.
const NOTHING: [&str; 2] = ["<|nospeech|>", "<|nocaptions|>"];

/// Which token is what.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    /// The first of those that are not words; it ends what is said.
    pub(crate) end: u32,
    /// Begins everything.
    pub(crate) start: u32,
    /// Asks for the words as they are said, not for a translation; absent in a model of one language.
    pub(crate) transcribe: Option<u32>,
    pub(crate) nothing: u32,
    /// Begins what was said before.
    before: u32,
    /// The time 0; the next ones follow.
    pub(crate) times: u32,
    /// By two or three letters; empty in a model of one language.
    pub(crate) languages: BTreeMap<String, u32>,
    /// Never said.
    pub(crate) never: Vec<u32>,
    /// Never said first.
    pub(crate) never_first: Vec<u32>,
}

impl Vocabulary {
    /// Reads a `tokenizer.json`. `known` is the count of tokens that the network knows.
    pub(crate) fn read(json: &str, card: &Card, known: usize) -> Result<Self, String> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        let find = |name: &str| {
            tokenizer.token_to_id(name).ok_or_else(|| format!("its tokenizer has no {name}"))
        };
        let (end, start) = (find("<|endoftext|>")?, find("<|startoftranscript|>")?);
        let times = find("<|notimestamps|>")? + 1;
        let nothing = NOTHING.iter().find_map(|name| find(name).ok());
        let nothing = nothing.ok_or("its tokenizer has no mark of silence")?;
        let transcribe = find("<|transcribe|>")?;
        let before = find("<|startofprev|>")?;
        let fits = usize::try_from(times + TIMES).is_ok_and(|tokens| tokens <= known);
        if !fits || ![end, start, transcribe, before, nothing, times].is_sorted() {
            return Err("its tokenizer is none of a Whisper".to_owned());
        }
        // A model of one language has the other languages' tokens and was not taught them: its first
        // language's token follows the start, at a place that is one lower.
        let (multilingual, mut languages) = (end == MULTILINGUAL_END, BTreeMap::new());
        if multilingual {
            for token in start + 1..transcribe {
                let name = tokenizer.id_to_token(token).unwrap_or_default();
                let name = name.trim_start_matches("<|").trim_end_matches("|>");
                if (2..=3).contains(&name.len()) {
                    languages.insert(name.to_owned(), token);
                }
            }
        }
        let mut never: Vec<u32> =
            card.suppress.iter().copied().filter(|token| *token < end).collect();
        never.extend(end + 1..times);
        Ok(Self {
            tokenizer,
            end,
            start,
            transcribe: multilingual.then_some(transcribe),
            nothing,
            before,
            times,
            languages,
            never,
            never_first: card.suppress_first.clone(),
        })
    }

    /// The text of tokens, without those that are no words.
    pub(crate) fn text(&self, tokens: &[u32]) -> Result<String, String> {
        let words: Vec<u32> = tokens.iter().copied().filter(|token| *token < self.end).collect();
        self.tokenizer.decode(&words, true).map_err(|error| error.to_string())
    }

    /// The tokens of words that are to be thought to have been said before.
    pub(crate) fn said_before(&self, words: &str) -> Result<Vec<u32>, String> {
        let text = format!(" {}", words.trim());
        let encoded = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        let words: Vec<u32> =
            encoded.get_ids().iter().copied().filter(|token| *token < self.end).collect();
        // What was said last counts most.
        let last = words.len().saturating_sub(BEFORE_MAX);
        Ok(std::iter::once(self.before).chain(words.into_iter().skip(last)).collect())
    }

    /// The step of a token of time.
    pub(crate) fn time(&self, token: u32) -> Option<u32> {
        token.checked_sub(self.times)
    }
}

/// Where the words of the multilingual vocabulary end; the English one has one word less.
const MULTILINGUAL_END: u32 = 50_257;
