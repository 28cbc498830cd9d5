//! The decision: who may answer, in which order. It asks for one signal after the other, and only for
//! those on which it still depends.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Arm, CanaryMode, CanaryState, Condition, Health, Personal, Reading, Routing, Rule, Signal,
    Signals, Target,
};

/// What a decision needs next, or the decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// This signal; the step is repeated when it was gathered, known or not.
    Need(Signal),
    /// It is made.
    Decided(Choice),
}

/// Who may answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The rule that matched; without one the route's models answer.
    pub rule: Option<String>,
    /// The models, in the order in which they are asked.
    pub candidates: Vec<String>,
    /// Models to which words leave the machine must not be asked.
    pub local_only: bool,
    /// Which side of the route's trial this is on.
    pub arm: Arm,
    /// What was found about each rule up to the one that matched.
    pub considered: Vec<Considered>,
}

/// What was found about a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Which rule.
    pub rule: String,
    /// Whether it matched.
    pub matched: bool,
    /// The signal on which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_on: Option<String>,
}

/// Whether a condition holds.
enum Holds {
    Yes,
    No,
    /// Nobody has looked yet.
    Not(Signal),
}

/// Takes one step. `models` answer where no rule matches; `key` is what one conversation has in
/// common, so that it stays with its model.
pub fn step(
    routing: &Routing,
    models: &[String],
    signals: &Signals,
    health: &dyn Fn(&str) -> Health,
    key: &[u8],
) -> Step {
    let mut considered = Vec::new();
    for rule in &routing.rules {
        match first_failure(rule, signals, health) {
            Ok(None) => {
                considered.push(note(rule, None));
                let candidates = order(&rule.targets, key);
                let may = rule.canary && !rule.local_only;
                return Step::Decided(choose(
                    routing,
                    Some(rule),
                    candidates,
                    may,
                    considered,
                    key,
                ));
            }
            Ok(Some(failed)) => considered.push(note(rule, Some(failed))),
            Err(signal) => return Step::Need(signal),
        }
    }
    Step::Decided(choose(routing, None, models.to_vec(), true, considered, key))
}

fn note(rule: &Rule, failed_on: Option<&str>) -> Considered {
    Considered {
        rule: rule.name.clone(),
        matched: failed_on.is_none(),
        failed_on: failed_on.map(str::to_owned),
    }
}

fn choose(
    routing: &Routing,
    rule: Option<&Rule>,
    mut candidates: Vec<String>,
    may_try: bool,
    considered: Vec<Considered>,
    key: &[u8],
) -> Choice {
    let mut arm = Arm::Stable;
    let running = routing.canary.as_ref().filter(|canary| canary.state == CanaryState::Running);
    if let Some(canary) = running.filter(|_| may_try)
        && draw(key, &canary.model) % 100 < u64::from(canary.percent)
    {
        match canary.mode {
            CanaryMode::Live => {
                candidates.retain(|model| *model != canary.model);
                candidates.insert(0, canary.model.clone());
                arm = Arm::Canary;
            }
            CanaryMode::Shadow => arm = Arm::Shadow,
        }
    }
    Choice {
        rule: rule.map(|rule| rule.name.clone()),
        local_only: rule.is_some_and(|rule| rule.local_only),
        candidates,
        arm,
        considered,
    }
}

/// The signal on which the rule fails, if it does. Cheap ones are looked at first, and what fails on
/// those needs no dear one.
fn first_failure<'a>(
    rule: &'a Rule,
    signals: &Signals,
    health: &dyn Fn(&str) -> Health,
) -> Result<Option<&'a str>, Signal> {
    let mut needed: Option<Signal> = None;
    for condition in &rule.when {
        match holds(condition, signals, health) {
            Holds::Yes => {}
            Holds::No => return Ok(Some(name(condition))),
            Holds::Not(signal) => needed = Some(needed.map_or(signal, |other| other.min(signal))),
        }
    }
    needed.map_or(Ok(None), Err)
}

const fn name(condition: &Condition) -> &'static str {
    match condition {
        Condition::Sentiment { .. } => "sentiment",
        Condition::Language { .. } => "language",
        Condition::PersonalData { .. } => "personal_data",
        Condition::Characters { .. } => "characters",
        Condition::PromptTokens { .. } => "prompt_tokens",
        Condition::Modality { .. } => "modality",
        Condition::Balance { .. } => "balance",
        Condition::SpentThisMonth { .. } => "spent_this_month",
        Condition::Health { .. } => "health",
    }
}

fn holds(condition: &Condition, signals: &Signals, health: &dyn Fn(&str) -> Health) -> Holds {
    match condition {
        Condition::Sentiment { any_of, at_least } => {
            test(signals.sentiment.as_ref(), Signal::Sentiment, |found| {
                any_of.contains(&found.label)
                    && at_least.is_none_or(|least| least <= found.probability)
            })
        }
        Condition::Language { any_of } => {
            test(signals.language.as_ref(), Signal::Language, |found| any_of.contains(found))
        }
        Condition::PersonalData { any_of } => {
            test(signals.personal_data.as_ref(), Signal::PersonalData, |found| {
                let wanted = |kind| any_of.contains(&Personal::Any) || any_of.contains(kind);
                found.iter().any(wanted)
            })
        }
        Condition::Characters { at_least, at_most } => {
            test(signals.characters.as_ref(), Signal::Characters, |found| {
                within(*found, *at_least, *at_most)
            })
        }
        Condition::PromptTokens { at_least, at_most } => {
            test(signals.prompt_tokens.as_ref(), Signal::PromptTokens, |found| {
                within(*found, *at_least, *at_most)
            })
        }
        Condition::Modality { any_of } => {
            test(signals.modality.as_ref(), Signal::Modality, |found| {
                found.iter().any(|part| any_of.contains(part))
            })
        }
        Condition::Balance { below } => {
            test(signals.balance.as_ref(), Signal::Balance, |found| found < below)
        }
        Condition::SpentThisMonth { at_least } => {
            test(signals.spent_this_month.as_ref(), Signal::SpentThisMonth, |found| {
                at_least <= found
            })
        }
        Condition::Health { model, any_of } => match any_of.contains(&health(model)) {
            true => Holds::Yes,
            false => Holds::No,
        },
    }
}

fn within(found: u64, at_least: Option<u64>, at_most: Option<u64>) -> bool {
    at_least.is_none_or(|least| least <= found) && at_most.is_none_or(|most| found <= most)
}

fn test<T>(found: Option<&Reading<T>>, signal: Signal, holds: impl FnOnce(&T) -> bool) -> Holds {
    match found.map(Reading::known) {
        None => Holds::Not(signal),
        Some(Some(value)) if holds(value) => Holds::Yes,
        // What is not known does not hold.
        Some(_) => Holds::No,
    }
}

/// Those with weights by their draw, then the others as they stand. Leaving one out changes nothing
/// about the order of the rest (weighted rendezvous hashing).
fn order(targets: &[Target], key: &[u8]) -> Vec<String> {
    let weighted = targets.iter().filter_map(|target| Some((target, target.weight?)));
    let mut drawn: Vec<(f64, &Target)> = weighted
        .map(|(target, weight)| {
            (exponential(key, &target.model) / f64::from(weight.max(1)), target)
        })
        .collect();
    drawn.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let plain = targets.iter().filter(|target| target.weight.is_none());
    drawn.into_iter().map(|(_, target)| target).chain(plain).map(|t| t.model.clone()).collect()
}

/// A number that is the same for the same key and model, and looks drawn from an exponential
/// distribution of rate 1.
fn exponential(key: &[u8], model: &str) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let uniform = ((draw(key, model) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln()
}

fn draw(key: &[u8], model: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(key);
    hash.update(model.as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}
