//! The head: from the encoder's vectors to the probabilities of three classes. Trained by
//! `scripts/sentiment/train.sh`, which also writes `MODEL_CARD.md`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// What the training wrote.
const TRAINED: &str = include_str!("../head.json");

/// A trained head.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The classes.
    pub labels: Vec<String>,
    /// The layers whose means it reads.
    pub taps: Vec<usize>,
    /// The least probability of a class that is named.
    pub abstain_below: f32,
    /// For each class a number for each number of the means.
    weights: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    labels: Vec<String>,
    taps: Vec<usize>,
    abstain_below: f32,
    /// The weights of each class and its bias last, as little-endian 32-bit floats in base64. The
    /// temperature is in them.
    weights: Vec<String>,
}

impl Head {
    /// The head that this plugin was built with, for an encoder with rows of `hidden` numbers.
    ///
    /// # Errors
    /// What does not fit.
    pub fn trained(hidden: usize) -> Result<Self, String> {
        let written: Written = serde_json::from_str(TRAINED).map_err(|error| error.to_string())?;
        let Written { labels, taps, abstain_below, weights } = written;
        let (mut all, mut bias) = (Vec::new(), Vec::new());
        for class in &weights {
            let bytes = STANDARD.decode(class).map_err(|error| error.to_string())?;
            let (numbers, _) = bytes.as_chunks::<4>();
            let mut numbers: Vec<f32> =
                numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            bias.extend(numbers.pop());
            if numbers.len() != taps.len() * hidden {
                return Err(format!(
                    "the head reads {} numbers, the encoder has {} of them: it was trained on \
                     multilingual-e5-small",
                    numbers.len(),
                    taps.len() * hidden,
                ));
            }
            all.push(numbers);
        }
        if all.len() != labels.len() || bias.len() != labels.len() || labels.len() < 2 {
            return Err("the head has another number of classes than of weights".to_owned());
        }
        Ok(Self { labels, taps, abstain_below, weights: all, bias })
    }

    /// The classes' scores, whose differences are logarithms of how much likelier one is.
    #[must_use]
    pub fn logits(&self, means: &[f32]) -> Vec<f32> {
        let class = |(weights, bias): (&Vec<f32>, &f32)| {
            weights.iter().zip(means).map(|(weight, number)| weight * number).sum::<f32>() + bias
        };
        self.weights.iter().zip(&self.bias).map(class).collect()
    }

    /// How much a class gains on the others with each number of the means, where they stand now.
    #[must_use]
    pub fn direction(&self, probabilities: &[f32], class: usize) -> Vec<f32> {
        let others = 1.0 - probabilities[class];
        let mut direction = self.weights[class].clone();
        for (at, weights) in self.weights.iter().enumerate().filter(|(at, _)| *at != class) {
            let share = if 0.0 < others { probabilities[at] / others } else { 0.0 };
            direction.iter_mut().zip(weights).for_each(|(sum, weight)| *sum -= share * weight);
        }
        direction
    }
}

/// Probabilities of scores.
#[must_use]
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = raised.iter().sum();
    raised.into_iter().map(|number| number / sum).collect()
}

/// By how much a class leads, as the logarithm of its odds.
#[must_use]
pub(crate) fn lead(logits: &[f32], class: usize) -> f32 {
    let others = logits.iter().enumerate().filter(|(at, _)| *at != class);
    let others: Vec<f32> = others.map(|(_, logit)| *logit).collect();
    let most = others.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = others.iter().map(|logit| (logit - most).exp()).sum();
    logits[class] - most - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trained_head_fits_its_encoder_and_no_other() {
        let head = Head::trained(384).unwrap();
        assert_eq!(head.labels, ["negative", "neutral", "positive"]);
        assert!((0.0..1.0).contains(&head.abstain_below));
        assert!(Head::trained(385).unwrap_err().contains("multilingual-e5-small"));
    }

    #[test]
    fn probabilities_add_up_and_a_lead_is_the_logarithm_of_odds() {
        let logits = [1.0, -2.0, 0.5];
        let probabilities = softmax(&logits);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let odds = probabilities[0] / (1.0 - probabilities[0]);
        assert!((lead(&logits, 0) - odds.ln()).abs() < 1e-5);
        assert!(softmax(&[1000.0, 0.0])[0].is_finite());
    }
}
