//! One reply in the making.

use crate::constraint::{Constraint, FormError};
use crate::decoder::Cache;
use crate::engine::{Finish, Output};
use crate::logprobs::{Held, TokenLogprob};
use crate::sampling::Sampler;
use crate::stream::TextStream;
use crate::tokens::Tokens;

/// A reply from its admission to its end.
pub(super) struct Reply {
    pub(super) id: u64,
    /// Whom it is for.
    pub(super) salt: String,
    /// The prompt and, after it, what was said.
    pub(super) tokens: Vec<u32>,
    /// Length of the prompt.
    pub(super) prompt: usize,
    /// Keys and values of the first of the tokens.
    pub(super) cache: Cache,
    pub(super) max_tokens: usize,
    pub(super) sampler: Sampler,
    pub(super) stream: TextStream,
    pub(super) constraint: Option<Constraint>,
    pub(super) logprobs: Option<Held>,
    pub(super) parked: bool,
}

impl Reply {
    /// What was said so far.
    pub(super) fn said(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// Whether more than the last token must still be read.
    pub(super) fn is_reading(&self) -> bool {
        self.cache.len() + 1 < self.tokens.len()
    }

    /// Takes the next token from the logits after the last one, and tells what comes of it. True
    /// when that was the end.
    pub(super) fn advance(
        &mut self,
        logits: &mut [f32],
        tokens: &Tokens,
        outputs: &mut Vec<(u64, Output)>,
    ) -> bool {
        match self.choose(logits) {
            Ok((token, told, complete)) => self.take(token, told, complete, tokens, outputs),
            Err(error) => {
                outputs.push((self.id, Output::Failed(error.to_string())));
                true
            }
        }
    }

    /// A token, its probability if that is wanted, and whether the form is complete with it.
    fn choose(
        &mut self,
        logits: &mut [f32],
    ) -> Result<(u32, Option<TokenLogprob>, bool), FormError> {
        let model = self.logprobs.as_ref().map(|held| (held.top, logits.to_vec()));
        if let Some(constraint) = &mut self.constraint {
            constraint.restrict(logits)?;
        }
        let token = self.sampler.choose(logits, &self.tokens[self.prompt..]);
        let complete = match &mut self.constraint {
            Some(constraint) => constraint.accept(token)?,
            None => false,
        };
        let told = model.map(|(top, logits)| TokenLogprob::new(&logits, token, top));
        Ok((token, told, complete))
    }

    fn take(
        &mut self,
        token: u32,
        told: Option<TokenLogprob>,
        complete: bool,
        tokens: &Tokens,
        outputs: &mut Vec<(u64, Output)>,
    ) -> bool {
        self.tokens.push(token);
        let ended = tokens.is_end(token);
        if !ended {
            let bytes = tokens.bytes(token);
            let logprob = told.as_ref().map_or(0.0, |told| told.logprob);
            if let (Some(held), Some(told)) = (&mut self.logprobs, told) {
                held.push(told, bytes.len());
            }
            let text = self.stream.push(bytes);
            self.show(text, token, logprob, outputs);
        }
        let finish = if ended || complete || self.stream.is_stopped() {
            Finish::Stop
        } else if self.said().len() >= self.max_tokens {
            Finish::Length
        } else {
            return false;
        };
        let rest = self.stream.finish();
        self.show(rest, token, 0.0, outputs);
        let stopped = self.stream.is_stopped();
        if let Some(held) = self.logprobs.as_mut().filter(|_| !stopped) {
            let left = held.finish();
            if !left.is_empty() {
                outputs.push((self.id, Output::Logprobs(left)));
            }
        }
        let (input_tokens, output_tokens) = (self.prompt, self.said().len());
        outputs.push((self.id, Output::End { finish, input_tokens, output_tokens }));
        true
    }

    fn show(&mut self, text: String, token: u32, logprob: f32, outputs: &mut Vec<(u64, Output)>) {
        let told = self.logprobs.as_mut().map(|held| held.show(text.len())).unwrap_or_default();
        if !text.is_empty() {
            outputs.push((self.id, Output::Text { text, token, logprob }));
        }
        if !told.is_empty() {
            outputs.push((self.id, Output::Logprobs(told)));
        }
    }
}
