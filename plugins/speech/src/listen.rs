//! Half a minute at a time: what was said in it, how sure that is, and where it begins and ends.

use std::io::Write as _;

use candle_core::Result as Computed;
use flate2::{Compression, write::ZlibEncoder};
use qudao_plugin_api::wire::Confidence;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    network::Network,
    rules::{forbid, log_sum_exp},
    vocabulary::Vocabulary,
};

/// Tokens of half a minute at most.
const TOKENS_MAX: usize = 224;
/// How freely it is tried again where the most likely words make no sense: in tenths.
const TEMPERATURES: [f32; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
/// Text that packs better than this repeats itself.
const PACKED_MAX: f32 = 2.4;
/// Less sure words than this, as the mean logarithm of a token's probability, make no sense.
const SURE_MIN: f32 = -1.0;
/// Likelier than this, nothing was said.
const NOTHING_MAX: f32 = 0.6;

/// Looks whether to stop: the caller is gone.
pub(crate) type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// What was understood of half a minute.
#[derive(Debug, Clone)]
pub(crate) struct Understood {
    /// Words and times.
    pub(crate) tokens: Vec<u32>,
    /// The mean logarithm of a token's probability.
    sure: f32,
    nothing: f32,
    packed: f32,
    temperature: f32,
}

/// The beginning of everything that is said about half a minute.
pub(crate) struct Opening<S> {
    said: S,
    logits: Vec<f32>,
    /// How likely it is that nothing was said.
    nothing: f32,
    /// The language's token; none in a model of one language.
    pub(crate) language: Option<u32>,
}

/// Listens to half a minute.
pub(crate) struct Ear<'a, N> {
    pub(crate) network: &'a N,
    pub(crate) vocabulary: &'a Vocabulary,
    pub(crate) stop: Stop<'a>,
    /// How freely words are chosen at first.
    pub(crate) temperature: f32,
}

impl Understood {
    /// Whether nothing was said: the mark of silence is likely, and the words are not.
    pub(crate) fn is_nothing(&self) -> bool {
        NOTHING_MAX < self.nothing && self.sure < SURE_MIN
    }

    pub(crate) fn confidence(&self) -> Confidence {
        Confidence {
            mean_logprob: self.sure,
            nothing_said: self.nothing,
            compression: self.packed,
            temperature: self.temperature,
        }
    }

    fn makes_sense(&self) -> bool {
        self.is_nothing() || (self.packed <= PACKED_MAX && SURE_MIN <= self.sure)
    }
}

impl<N: Network> Ear<'_, N> {
    /// Begins: the language, unless it is known, whether anything is said, and what is to be thought to
    /// have been said before in that language.
    pub(crate) fn open(
        &self,
        memory: &N::Memory,
        language: Option<u32>,
        before: &dyn Fn(Option<u32>) -> Vec<u32>,
    ) -> Computed<Opening<N::Said>> {
        let Vocabulary { start, transcribe, nothing, languages, .. } = self.vocabulary;
        let mut said = self.network.begin();
        let mut logits = self.say(*start, &mut said, memory)?;
        let place = |token: u32| usize::try_from(token).unwrap_or(usize::MAX);
        let at = |logits: &[f32], token: u32| {
            logits.get(place(token)).copied().unwrap_or(f32::NEG_INFINITY)
        };
        let nothing = (at(&logits, *nothing) - log_sum_exp(&logits)).exp();
        let likeliest = |logits: &[f32]| {
            let tokens = languages.values().copied();
            tokens.max_by(|a, b| at(logits, *a).total_cmp(&at(logits, *b)))
        };
        let language = language.or_else(|| likeliest(&logits));
        let before = before(language);
        if !before.is_empty() {
            said = self.network.begin();
            for token in before.into_iter().chain([*start]) {
                logits = self.say(token, &mut said, memory)?;
            }
        }
        for token in [language, *transcribe].into_iter().flatten() {
            logits = self.say(token, &mut said, memory)?;
        }
        Ok(Opening { said, logits, nothing, language })
    }

    /// Understands half a minute: the likeliest words, and where they make no sense, others.
    pub(crate) fn understand(
        &self,
        memory: &N::Memory,
        opening: &Opening<N::Said>,
    ) -> Result<Understood, EarError> {
        let mut tried: Vec<Understood> = Vec::new();
        let more = TEMPERATURES.into_iter().filter(|more| self.temperature < *more);
        for temperature in std::iter::once(self.temperature).chain(more) {
            let understood = self.try_once(memory, opening, temperature)?;
            if understood.makes_sense() {
                return Ok(understood);
            }
            tried.push(understood);
        }
        // The surest of those that do not repeat themselves, if there is one.
        let better = |a: &Understood, b: &Understood| {
            let plain = |one: &Understood| one.packed <= PACKED_MAX;
            plain(a).cmp(&plain(b)).then(a.sure.total_cmp(&b.sure))
        };
        tried.into_iter().max_by(better).ok_or(EarError::Stopped)
    }

    fn try_once(
        &self,
        memory: &N::Memory,
        opening: &Opening<N::Said>,
        temperature: f32,
    ) -> Result<Understood, EarError> {
        let Opening { said, logits, nothing, .. } = opening;
        let (mut said, mut logits) = (said.clone(), logits.clone());
        // The same sound is understood in the same way.
        let mut chance = StdRng::seed_from_u64(u64::from(temperature.to_bits()));
        let (mut tokens, mut sum) = (Vec::new(), 0.0);
        while tokens.len() < TOKENS_MAX {
            if (self.stop)() {
                return Err(EarError::Stopped);
            }
            forbid(&mut logits, &tokens, self.vocabulary);
            let token = choose(&logits, temperature, &mut chance);
            let at = usize::try_from(token).unwrap_or(usize::MAX);
            sum += logits.get(at).copied().unwrap_or_default() - log_sum_exp(&logits);
            if token == self.vocabulary.end {
                break;
            }
            tokens.push(token);
            match self.network.say(token, &mut said, memory).map_err(EarError::Computation)? {
                Some(next) => logits = next,
                None => break,
            }
        }
        let text = self.vocabulary.text(&tokens).map_err(EarError::Text)?;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
        let sure = sum / (tokens.len() + 1) as f32;
        let packed = packed(text.trim());
        Ok(Understood { tokens, sure, nothing: *nothing, packed, temperature })
    }

    fn say(&self, token: u32, said: &mut N::Said, memory: &N::Memory) -> Computed<Vec<f32>> {
        match self.network.say(token, said, memory)? {
            Some(logits) => Ok(logits),
            None => candle_core::bail!("the network has too few places"),
        }
    }
}

/// Why half a minute was not understood.
#[derive(Debug)]
pub(crate) enum EarError {
    /// The caller is gone.
    Stopped,
    /// The device failed.
    Computation(candle_core::Error),
    /// The tokens make no text.
    Text(String),
}

fn choose(logits: &[f32], temperature: f32, chance: &mut StdRng) -> u32 {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let likeliest = || {
        let most = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        place(most.unwrap_or_default())
    };
    if temperature == 0.0 {
        return likeliest();
    }
    let scaled: Vec<f32> = logits.iter().map(|logit| logit / temperature).collect();
    let all = log_sum_exp(&scaled);
    let mut left: f32 = chance.random();
    for (at, logit) in scaled.iter().enumerate() {
        left -= (logit - all).exp();
        if left < 0.0 {
            return place(at);
        }
    }
    likeliest()
}

/// How much shorter a text becomes when it is packed.
#[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
fn packed(text: &str) -> f32 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    packed.map_or(1.0, |packed| text.len() as f32 / packed.len().max(1) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_repeats_itself_packs_well() {
        assert!(packed("") < PACKED_MAX);
        assert!(
            packed("Hello, my order has not arrived yet. Can you help me please?") < PACKED_MAX
        );
        assert!(PACKED_MAX < packed(&"and then ".repeat(20)));
    }

    #[test]
    fn without_heat_the_likeliest_is_chosen_and_with_it_others_are_too() {
        let mut chance = StdRng::seed_from_u64(1);
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 0.9];
        assert_eq!(choose(&logits, 0.0, &mut chance), 1);
        let mut seen = [0; 4];
        for _ in 0..300 {
            seen[usize::try_from(choose(&logits, 1.0, &mut chance)).unwrap()] += 1;
        }
        assert!(seen[2] == 0 && 20 < seen[0] && seen[0] < seen[1], "{seen:?}");
    }
}
