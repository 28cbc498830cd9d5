//! The probabilities of a reply's tokens, told when their text is.

use std::collections::VecDeque;

/// A token with its probability, and the likeliest ones for its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability, as the model has it: before penalties, temperature
    /// and forms.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// What the logits say about a token.
    pub fn new(logits: &[f32], token: u32, top: usize) -> Self {
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 20")]
        let whole = largest + sum.ln() as f32;
        let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top < all.len() {
            all.select_nth_unstable_by(top, descending);
            all.truncate(top);
        }
        all.sort_unstable_by(descending);
        let top = all.into_iter().map(|(token, logit)| (token, logit - whole)).collect();
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Self { token, logprob: logit - whole, top }
    }
}

/// Holds a token's probability back for as long as its text is held back, and for ever if a stop
/// string swallowed it.
pub struct Held {
    /// How many alternatives are told.
    pub top: usize,
    waiting: VecDeque<(usize, TokenLogprob)>,
    made: usize,
    shown: usize,
}

impl Held {
    /// Nothing held back.
    pub fn new(top: usize) -> Self {
        Self { top, waiting: VecDeque::new(), made: 0, shown: 0 }
    }

    /// A token of so many bytes.
    pub fn push(&mut self, logprob: TokenLogprob, bytes: usize) {
        self.waiting.push_back((self.made, logprob));
        self.made += bytes;
    }

    /// So much text was shown: the tokens that it began in.
    pub fn show(&mut self, bytes: usize) -> Vec<TokenLogprob> {
        self.shown += bytes;
        let shown = self.shown;
        self.take(|start| start < shown)
    }

    /// All that is left, at an end that no stop string made.
    pub fn finish(&mut self) -> Vec<TokenLogprob> {
        self.take(|_| true)
    }

    fn take(&mut self, is_due: impl Fn(usize) -> bool) -> Vec<TokenLogprob> {
        let mut due = Vec::new();
        while self.waiting.front().is_some_and(|(start, _)| is_due(*start)) {
            due.extend(self.waiting.pop_front().map(|(_, logprob)| logprob));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_the_likeliest_come_first() {
        let logits = [1.0, 3.0, 2.0, -1.0];
        let told = TokenLogprob::new(&logits, 2, 4);
        let sum: f32 = told.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert_eq!(told.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2, 0, 3]);
        assert!((told.logprob - told.top[1].1).abs() < 1e-6);
        assert!(TokenLogprob::new(&logits, 0, 0).top.is_empty());
        assert_eq!(TokenLogprob::new(&logits, 0, 9).top.len(), 4);
    }

    #[test]
    fn a_token_is_told_when_its_text_is_shown_and_not_if_it_never_is() {
        let of = |token| TokenLogprob { token, logprob: -1.0, top: Vec::new() };
        let told = |all: Vec<TokenLogprob>| all.iter().map(|t| t.token).collect::<Vec<_>>();
        let mut held = Held::new(0);
        held.push(of(1), 3);
        held.push(of(2), 2);
        assert!(held.show(0).is_empty());
        assert_eq!(told(held.show(3)), [1]);
        held.push(of(3), 4);
        assert_eq!(told(held.show(1)), [2]);
        assert!(held.show(0).is_empty());
        assert_eq!(told(held.finish()), [3]);
    }
}
