//! Choosing the next token.

use pulp::NullaryFnOnce;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::ops::{exp, vectorised};

/// Numbers that the vector unit works on at once, at most.
const LANES: usize = 16;

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

    /// Chooses from the logits, which are other numbers then; `reply` holds the tokens so far.
    pub fn choose(&mut self, logits: &mut [f32], reply: &[u32]) -> u32 {
        self.penalise(logits, reply);
        if self.settings.temperature <= 0.0 {
            return likeliest(logits);
        }
        let Settings { temperature, top_p, top_k, .. } = self.settings;
        let largest = largest(logits);
        let sum = vectorised(Weigh { logits, largest, temperature });
        let weights = &*logits;
        if top_k == 0 && top_p >= 1.0 {
            return self.draw((0u32..).zip(weights.iter().copied()), sum);
        }
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        // All tokens below their share of what may be left out weigh less than that together, so
        // they are not among those that are kept. Half of it, for the rounding of the sums.
        let left_out = if top_k == 0 { (1.0 - top_p) * sum } else { 0.0 };
        let least = (left_out / weights.len() as f32 / 2.0).max(f32::MIN_POSITIVE);
        let mut kept: Vec<(u32, f32)> =
            (0u32..).zip(weights.iter().copied()).filter(|(_, weight)| *weight >= least).collect();
        if (1..kept.len()).contains(&top_k) {
            kept.select_nth_unstable_by(top_k, descending);
            kept.truncate(top_k);
        }
        kept.sort_unstable_by(descending);
        let sum = if top_k == 0 { sum } else { kept.iter().map(|(_, weight)| weight).sum() };
        let (mut count, mut mass) = (0, 0f32);
        for (_, weight) in &kept {
            count += 1;
            mass += weight;
            if mass >= top_p * sum {
                break;
            }
        }
        self.draw(kept.into_iter().take(count), mass)
    }

    /// One of the tokens, each as often as it weighs; `sum` is what they weigh together.
    fn draw(&mut self, tokens: impl Iterator<Item = (u32, f32)>, sum: f32) -> u32 {
        let mut point = self.random.random::<f32>() * sum;
        let mut last = 0;
        for (token, weight) in tokens.filter(|(_, weight)| *weight > 0.0) {
            last = token;
            point -= weight;
            if point <= 0.0 {
                break;
            }
        }
        last
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
    let largest = largest(logits);
    (0u32..).zip(logits).find(|(_, logit)| **logit == largest).map_or(0, |(token, _)| token)
}

/// The largest of them. In lanes: one after the other, a quarter of a million take longer than the
/// model's smaller layers.
fn largest(logits: &[f32]) -> f32 {
    struct Largest<'a>(&'a [f32]);
    impl NullaryFnOnce for Largest<'_> {
        type Output = f32;

        #[inline(always)]
        fn call(self) -> f32 {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let groups = self.0.chunks_exact(LANES);
            let rest = groups.remainder().iter().copied();
            for group in groups {
                for lane in 0..LANES {
                    lanes[lane] = lanes[lane].max(group[lane]);
                }
            }
            rest.chain(lanes).fold(f32::NEG_INFINITY, f32::max)
        }
    }
    vectorised(Largest(logits))
}

/// Puts in the place of each logit how often its token comes for each time that the likeliest one
/// does. A token that is ruled out weighs nothing. Returns the sum.
struct Weigh<'a> {
    logits: &'a mut [f32],
    largest: f32,
    temperature: f32,
}

impl NullaryFnOnce for Weigh<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let scale = 1.0 / self.temperature;
        let weigh = |logit: f32| {
            let weight = exp((logit - self.largest) * scale);
            if logit == f32::NEG_INFINITY { 0.0 } else { weight }
        };
        let mut lanes = [0f32; LANES];
        let mut groups = self.logits.chunks_exact_mut(LANES);
        for group in &mut groups {
            for lane in 0..LANES {
                group[lane] = weigh(group[lane]);
                lanes[lane] += group[lane];
            }
        }
        let mut rest = 0.0;
        for logit in groups.into_remainder() {
            *logit = weigh(*logit);
            rest += *logit;
        }
        lanes.iter().sum::<f32>() + rest
    }
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

    /// What is kept, by a sort of all tokens.
    fn nucleus(settings: &Settings, logits: &[f32], slack: f64) -> Vec<u32> {
        let mut all: Vec<(u32, f64)> = (0u32..)
            .zip(logits)
            .map(|(token, logit)| {
                (token, (f64::from(*logit) / f64::from(settings.temperature)).exp())
            })
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if settings.top_k > 0 {
            all.truncate(settings.top_k);
        }
        let sum: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut mass = 0.0;
        let enough = f64::from(settings.top_p) * sum + slack * sum;
        let kept = all.iter().take_while(|(_, weight)| {
            let wanted = mass < enough;
            mass += weight;
            wanted
        });
        kept.map(|(token, _)| *token).collect()
    }

    proptest::proptest! {
        #[test]
        fn what_is_drawn_is_what_a_sort_of_all_would_keep(
            logits in proptest::collection::vec(-12.0f32..12.0, 1..300),
            temperature in 0.2f32..3.0,
            top_p in 0.05f32..=1.0,
            top_k in 0usize..40,
        ) {
            let settings = Settings { temperature, top_p, top_k, ..settings() };
            let most = nucleus(&settings, &logits, 1e-5);
            let drawn = draw(settings.clone(), &logits, 300);
            proptest::prop_assert!(drawn.iter().all(|token| most.contains(token)));
            // What comes at least every tenth time is seen.
            let least = nucleus(&settings, &logits, -1e-5);
            let weight = |token: &u32| (f64::from(logits[*token as usize] / temperature)).exp();
            let sum: f64 = least.iter().map(weight).sum();
            for token in least.iter().filter(|token| weight(token) > sum / 10.0) {
                proptest::prop_assert!(drawn.contains(token), "{token} of {least:?} never came");
            }
        }
    }

    #[test]
    fn what_a_form_rules_out_is_never_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        logits[700] = -50.0;
        assert_eq!(draw(settings(), &logits, 50), [700; 50]);
        let kept = Settings { top_p: 0.9, top_k: 5, ..settings() };
        assert_eq!(draw(kept, &logits, 50), [700; 50]);
        assert_eq!(draw(Settings { temperature: 0.0, ..settings() }, &logits, 1), [700]);
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
