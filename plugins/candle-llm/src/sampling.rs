//! Choosing the next token.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How far back the repetition penalty looks, in tokens.
const REPEAT_WINDOW: usize = 64;

/// Settings of one reply.
#[derive(Clone, Debug)]
pub struct Settings {
    /// 0 = always the likeliest token.
    pub temperature: f32,
    /// Keep the likeliest tokens until their probabilities add up to this.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens; 0 = all.
    pub top_k: usize,
    /// Divides the logits of recent tokens; 1 = off.
    pub repeat_penalty: f32,
    /// Subtracted per earlier occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once for a token that is in the reply already.
    pub presence_penalty: f32,
    /// Start of the random sequence.
    pub seed: u64,
}

/// The sampler of one reply.
pub struct Sampler {
    settings: Settings,
    random: StdRng,
}

impl Sampler {
    /// A sampler that gives the same choices for the same settings and logits.
    pub fn new(settings: Settings) -> Self {
        let random = StdRng::seed_from_u64(settings.seed);
        Self { settings, random }
    }

    /// Chooses from the logits; `reply` holds the tokens so far.
    pub fn choose(&mut self, logits: &mut [f32], reply: &[u32]) -> u32 {
        self.penalise(logits, reply);
        if self.settings.temperature <= 0.0 {
            return likeliest(logits);
        }
        let mut candidates: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let keep = match self.settings.top_k {
            0 => candidates.len(),
            k => k.min(candidates.len()),
        };
        if keep < candidates.len() {
            candidates.select_nth_unstable_by(keep, descending);
            candidates.truncate(keep);
        }
        candidates.sort_unstable_by(descending);
        let largest = candidates.first().map_or(0.0, |c| c.1);
        let mut sum = 0f32;
        for candidate in &mut candidates {
            candidate.1 = ((candidate.1 - largest) / self.settings.temperature).exp();
            sum += candidate.1;
        }
        let (mut kept, mut mass) = (0, 0f32);
        for candidate in &candidates {
            kept += 1;
            mass += candidate.1;
            if mass >= self.settings.top_p * sum {
                break;
            }
        }
        let mut point = self.random.random::<f32>() * mass;
        for (token, weight) in &candidates[..kept] {
            point -= weight;
            if point <= 0.0 {
                return *token;
            }
        }
        candidates.first().map_or(0, |c| c.0)
    }

    fn penalise(&self, logits: &mut [f32], reply: &[u32]) {
        let settings = &self.settings;
        if settings.repeat_penalty != 1.0 {
            let mut recent = reply[reply.len().saturating_sub(REPEAT_WINDOW)..].to_vec();
            recent.sort_unstable();
            recent.dedup();
            for token in recent {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 {
                        *logit / settings.repeat_penalty
                    } else {
                        *logit * settings.repeat_penalty
                    };
                }
            }
        }
        if settings.frequency_penalty != 0.0 || settings.presence_penalty != 0.0 {
            let mut counts = std::collections::HashMap::<u32, f32>::new();
            reply.iter().for_each(|token| *counts.entry(*token).or_default() += 1.0);
            for (token, count) in counts {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit -= settings.frequency_penalty * count + settings.presence_penalty;
                }
            }
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 7,
        }
    }

    fn draw(settings: Settings, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings);
        (0..count).map(|_| sampler.choose(&mut logits.to_vec(), &[])).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_does_not() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let first = draw(settings(), &logits, 40);
        assert_eq!(first, draw(settings(), &logits, 40));
        assert_ne!(first, draw(Settings { seed: 8, ..settings() }, &logits, 40));
    }

    #[test]
    fn without_temperature_the_likeliest_token_is_taken() {
        let cold = Settings { temperature: 0.0, ..settings() };
        assert_eq!(draw(cold, &[0.1, 3.0, 2.9], 3), [1, 1, 1]);
    }

    #[test]
    fn tokens_come_as_often_as_their_probability() {
        let logits = [0.0, 3f32.ln()];
        let drawn = draw(settings(), &logits, 4000);
        let share = drawn.iter().filter(|t| **t == 1).count() as f32 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }

    #[test]
    fn top_k_and_top_p_cut_the_unlikely_tokens_off() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let top_k = Settings { top_k: 2, ..settings() };
        assert!(draw(top_k, &logits, 500).iter().all(|token| *token < 2));
        let top_p = Settings { top_p: 0.5, ..settings() };
        assert!(draw(top_p, &logits, 500).iter().all(|token| *token == 0));
        assert!(draw(settings(), &logits, 500).contains(&3));
    }

    #[test]
    fn penalties_push_repeated_tokens_down() {
        let cold = |change: fn(&mut Settings)| {
            let mut settings = Settings { temperature: 0.0, ..settings() };
            change(&mut settings);
            Sampler::new(settings).choose(&mut [2.0, 1.9], &[0, 0])
        };
        assert_eq!(cold(|_| ()), 0);
        assert_eq!(cold(|s| s.repeat_penalty = 1.2), 1);
        assert_eq!(cold(|s| s.frequency_penalty = 0.1), 1);
        assert_eq!(cold(|s| s.presence_penalty = 0.2), 1);
    }
}
