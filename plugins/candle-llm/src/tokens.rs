//! Text to tokens and back.
//!
//! The tokenizer is built from the GGUF, or read from a `tokenizer.json` beside it. What a person
//! writes never becomes a control token: only the text of the chat template may.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{NormalizerWrapper, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::LoadError;
use crate::gguf::{Gguf, number};

/// Token types of the format: control tokens and user-defined ones.
const CONTROL: u64 = 3;
const UNKNOWN: u64 = 2;
const USER_DEFINED: u64 = 4;
const NORMAL: u64 = 1;

/// Sum of the squares of the lengths of all tokens: for the largest vocabularies, 20 million.
const WORK_MAX: u64 = 1 << 30;

/// Text in the template, or of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The template: control tokens are recognised.
    Template,
    /// A message: everything is plain text.
    Message,
}

/// The tokenizer of a model.
pub struct Tokens {
    /// One for both origins, of which it is told before each text: a second one would take as long to
    /// make and as much memory as the first, a tenth of a second and 60 MB for the largest vocabularies.
    tokenizer: Mutex<Tokenizer>,
    bytes: Bytes,
    end: Vec<u32>,
    begin: Option<u32>,
    prefix_begin: bool,
}

/// Bytes of every token, one after the other; none for control tokens. A quarter of a million
/// allocations of their own would take three times as much.
struct Bytes {
    all: Vec<u8>,
    /// Where those of each token end.
    ends: Vec<u32>,
}

impl Bytes {
    fn new(tokens: impl Iterator<Item = Vec<u8>>) -> Result<Self, LoadError> {
        let mut bytes = Self { all: Vec::new(), ends: Vec::new() };
        for token in tokens {
            bytes.all.extend_from_slice(&token);
            bytes.ends.push(u32::try_from(bytes.all.len()).map_err(failed)?);
        }
        Ok(bytes)
    }

    fn of(&self, token: usize) -> &[u8] {
        let Some(end) = self.ends.get(token) else { return &[] };
        let start = token.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start as usize..*end as usize]
    }
}

impl Tokens {
    /// Builds the tokenizer.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`], [`LoadError::Missing`].
    pub fn load(gguf: &Gguf) -> Result<Self, LoadError> {
        let names: Vec<String> = gguf
            .list("tokenizer.ggml.tokens")
            .ok_or_else(|| {
                LoadError::Tokenizer("the GGUF has no `tokenizer.ggml.tokens`".to_owned())
            })?
            .iter()
            .map(|value| value.to_string().cloned())
            .collect::<Result<_, _>>()
            .map_err(|_| failed("a token that is no text"))?;
        // The merges are found by looking at each piece from each of its places.
        let work: u64 = names.iter().map(|name| (name.len() * name.len()) as u64).sum();
        if WORK_MAX < work {
            return Err(failed("its tokens are too long"));
        }
        let types = types(gguf, names.len());
        let beside = gguf.path().with_file_name("tokenizer.json");
        let tokenizer = if beside.is_file() {
            from_file(&beside)?
        } else {
            match gguf.text("tokenizer.ggml.model") {
                Some("gpt2") => byte_level(gguf, &names, &types)?,
                Some("llama") => sentence_piece(gguf, &names, &types)?,
                other => {
                    let reason =
                        format!("tokenizer model `{}` is not supported", other.unwrap_or("(none)"));
                    return Err(LoadError::Tokenizer(reason));
                }
            }
        };
        let pieces = gguf.text("tokenizer.ggml.model") == Some("llama");
        let bytes = names.iter().zip(&types).map(|(name, kind)| token_bytes(name, *kind, pieces));
        let bytes = Bytes::new(bytes)?;
        let id = |key: &str| gguf.number(key).and_then(|id| u32::try_from(id).ok());
        let begin = id("tokenizer.ggml.bos_token_id");
        let prefix_begin =
            gguf.flag("tokenizer.ggml.add_bos_token").unwrap_or(pieces) && begin.is_some();
        let end = end_tokens(
            &names,
            id("tokenizer.ggml.eos_token_id"),
            id("tokenizer.ggml.eot_token_id"),
        );
        let tokenizer = Mutex::new(tokenizer);
        Ok(Self { tokenizer, bytes, end, begin, prefix_begin })
    }

    /// Tokens of a text.
    pub fn encode(&self, text: &str, origin: Origin) -> Vec<u32> {
        let mut tokenizer = self.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        tokenizer.set_encode_special_tokens(origin == Origin::Message);
        // The tokenizer fails only on what it cannot normalise, which no `str` is; an empty
        // result then is a missing word, not a failed reply.
        tokenizer
            .encode_fast(text, false)
            .map(|encoding| encoding.get_ids().to_vec())
            .unwrap_or_default()
    }

    /// The token that begins every prompt, if the model wants one and the template has not
    /// written it.
    pub fn prefix(&self) -> Option<u32> {
        self.begin.filter(|_| self.prefix_begin)
    }

    /// The bytes that a token adds to the reply.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.of(token as usize)
    }

    /// Whether the token ends a reply.
    pub fn is_end(&self, token: u32) -> bool {
        self.end.contains(&token)
    }

    /// The tokens that end a reply.
    pub fn ends(&self) -> &[u32] {
        &self.end
    }

    /// The bytes of every token, as [`Tokens::bytes`] has them.
    pub fn all_bytes(&self) -> Vec<Vec<u8>> {
        (0..self.bytes.ends.len()).map(|token| self.bytes.of(token).to_vec()).collect()
    }

    /// The written form of a token, for templates.
    pub fn name(&self, token: u32) -> String {
        let tokenizer = self.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        tokenizer.id_to_token(token).unwrap_or_default()
    }
}

fn failed(error: impl std::fmt::Display) -> LoadError {
    LoadError::Tokenizer(error.to_string())
}

fn from_file(path: &Path) -> Result<Tokenizer, LoadError> {
    Tokenizer::from_file(path).map_err(|error| failed(format!("{}: {error}", path.display())))
}

fn types(gguf: &Gguf, count: usize) -> Vec<u64> {
    let mut types: Vec<u64> = gguf
        .list("tokenizer.ggml.token_type")
        .unwrap_or_default()
        .iter()
        .map(|value| number(value).unwrap_or(NORMAL))
        .collect();
    types.resize(count, NORMAL);
    types
}

/// Every way the four families end a turn; which of them exist depends on the vocabulary.
fn end_tokens(names: &[String], end: Option<u32>, turn: Option<u32>) -> Vec<u32> {
    const NAMES: [&str; 6] = [
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<end_of_turn>",
    ];
    let named = names.iter().enumerate().filter(|(_, name)| NAMES.contains(&name.as_str()));
    let mut all: Vec<u32> = named.filter_map(|(id, _)| u32::try_from(id).ok()).collect();
    all.extend(end.into_iter().chain(turn));
    all.sort_unstable();
    all.dedup();
    all
}

fn add_marked_tokens(
    tokenizer: &mut Tokenizer,
    names: &[String],
    types: &[u64],
) -> Result<(), LoadError> {
    let of = |wanted: &[u64], special: bool| -> Vec<AddedToken> {
        let marked = names.iter().zip(types).filter(|(_, kind)| wanted.contains(kind));
        marked.map(|(name, _)| AddedToken::from(name.clone(), special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(of(&[CONTROL, UNKNOWN], true)).map_err(failed)?;
    tokenizer.add_tokens(of(&[USER_DEFINED], false)).map_err(failed)?;
    Ok(())
}

fn vocabulary(names: &[String]) -> impl Iterator<Item = (String, u32)> {
    names.iter().zip(0u32..).map(|(name, id)| (name.clone(), id))
}

/// Byte-level pairs (GPT-2 and its heirs). Each heir cuts text in its own way before the merges;
/// the wrong cut gives wrong tokens and a model that seems stupid, not an error.
fn byte_level(gguf: &Gguf, names: &[String], types: &[u64]) -> Result<Tokenizer, LoadError> {
    let merges = gguf
        .list("tokenizer.ggml.merges")
        .ok_or_else(|| failed("the GGUF has no `tokenizer.ggml.merges`"))?
        .iter()
        .filter_map(|value| value.to_string().ok()?.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect::<Vec<_>>();
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary(names).collect::<Vocab>(), merges)
        .ignore_merges(gguf.text("tokenizer.ggml.pre") == Some("llama-bpe"))
        .build()
        .map_err(failed)?;
    let mut tokenizer = Tokenizer::new(bpe);
    let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
    tokenizer.with_pre_tokenizer(Some(cut(pre)?));
    if pre == "qwen2" {
        tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, true, true))));
    add_marked_tokens(&mut tokenizer, names, types)?;
    Ok(tokenizer)
}

/// How a byte-level vocabulary cuts text, by the name that GGUF gives it.
fn cut(pre: &str) -> Result<PreTokenizerWrapper, LoadError> {
    // Digits one by one, or up to three; otherwise these two are the same expression.
    let words = |digits: &str| {
        format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
    let split = |pattern: String| {
        Split::new(SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false)
            .map_err(failed)
    };
    let plain = ByteLevel::new(false, true, false);
    Ok(match pre {
        "smollm" | "starcoder" | "refact" | "command-r" => {
            let words = ByteLevel::new(false, true, true);
            Sequence::new(vec![Digits::new(true).into(), words.into()]).into()
        }
        "qwen2" | "deepseek-r1-qwen" | "megrez" => {
            Sequence::new(vec![split(words(r"\p{N}"))?.into(), plain.into()]).into()
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "dbrx" => {
            Sequence::new(vec![split(words(r"\p{N}{1,3}"))?.into(), plain.into()]).into()
        }
        _ => ByteLevel::new(false, true, true).into(),
    })
}

/// SentencePiece pairs (Gemma, Llama 2). The file has a score for each piece and no merges: the
/// merges are all the ways to put a piece together from two others, best score first.
fn sentence_piece(gguf: &Gguf, names: &[String], types: &[u64]) -> Result<Tokenizer, LoadError> {
    let scores = gguf
        .list("tokenizer.ggml.scores")
        .ok_or_else(|| failed("the GGUF has no `tokenizer.ggml.scores`"))?;
    let ids: Vocab = vocabulary(names).collect();
    let mut merges: Vec<(f32, u32, u32, u32)> = Vec::new();
    for (((name, score), kind), id) in names.iter().zip(scores).zip(types).zip(0u32..) {
        if *kind != NORMAL {
            continue;
        }
        let score = score.to_f32().unwrap_or(0.0);
        for (at, _) in name.char_indices().skip(1) {
            let (left, right) = name.split_at(at);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                merges.push((score, id, *left, *right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let merges = merges
        .into_iter()
        .map(|(_, _, left, right)| (names[left as usize].clone(), names[right as usize].clone()))
        .collect::<Vec<_>>();
    let unknown =
        names.iter().zip(types).find(|(_, kind)| **kind == UNKNOWN).map(|(name, _)| name.clone());
    let mut builder =
        BPE::builder().vocab_and_merges(ids, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
    let spaces: NormalizerWrapper = Replace::new(" ", "▁").map_err(failed)?.into();
    let normalizer = if gguf.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
        NormalizerSequence::new(vec![Prepend::new("▁".to_owned()).into(), spaces]).into()
    } else {
        spaces
    };
    tokenizer.with_normalizer(Some(normalizer)).map_err(failed)?;
    let back: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    tokenizer.with_decoder(Some(DecoderSequence::new(back)));
    add_marked_tokens(&mut tokenizer, names, types)?;
    Ok(tokenizer)
}

/// The bytes behind a token's name. Byte-level vocabularies write each byte as one printable
/// character; SentencePiece writes a space as `▁` and a lone byte as `<0xE4>`.
fn token_bytes(name: &str, kind: u64, pieces: bool) -> Vec<u8> {
    if matches!(kind, CONTROL | UNKNOWN) {
        return Vec::new();
    }
    if pieces {
        let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return vec![byte];
        }
        return name.replace('▁', " ").into_bytes();
    }
    if kind == USER_DEFINED {
        return name.as_bytes().to_vec();
    }
    let bytes: Option<Vec<u8>> = name.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| name.as_bytes().to_vec())
}

/// GPT-2's table of printable stand-ins for the 256 bytes: the printable ones stand for
/// themselves, the others are numbered from U+0100 in order.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if code < 0x100 {
        return u8::try_from(code).ok().filter(|_| printable(code));
    }
    let index = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0u32..256).filter(|byte| !printable(*byte)).nth(index).and_then(|byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests;
