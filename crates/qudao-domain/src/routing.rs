//! Routes: which models may answer, under which conditions, in which order. What is decided here is
//! decided from values alone; who gathers them is elsewhere, so that a decision can be made again from
//! its record.

use serde::{Deserialize, Serialize};

use crate::Micros;

pub mod agree;
pub mod breaker;
pub mod canary;
pub mod decide;
pub mod personal;
pub mod signals;

pub use breaker::{Admission, Breaker, BreakerSettings, Health};
pub use canary::{Agreement, Arm, ArmFigures, Canary, CanaryMode, CanaryState, Payer, Rollback};
pub use decide::{Choice, Considered, Step, step};
pub use personal::Personal;
pub use signals::{Modality, Reading, Sentiment, Signal, Signals};

/// Rules of one route, at most.
pub const RULES_MAX: usize = 32;
/// Conditions of one rule, at most.
pub const CONDITIONS_MAX: usize = 16;
/// Models of one rule, at most.
pub const TARGETS_MAX: usize = 20;
/// The largest weight of a target.
pub const WEIGHT_MAX: u32 = 1_000;

/// What a route has beside the models that answer where no rule matches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routing {
    /// The first that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// The model that finds the sentiment of messages, where a rule asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentiment_model: Option<String>,
    /// A model that is tried on a part of the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

impl Routing {
    /// Whether some rule keeps words on the machine. What is shown to a model before the rules are
    /// looked at is then shown to none by which it would leave.
    pub fn keeps_local(&self) -> bool {
        self.rules.iter().any(|rule| rule.local_only)
    }

    /// Every model that it names, with repetitions.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let targets = self.rules.iter().flat_map(|rule| &rule.targets);
        let canary = self.canary.iter().flat_map(|canary| {
            let judge = canary.agreement.as_ref().and_then(Agreement::model);
            [Some(canary.model.as_str()), judge].into_iter().flatten()
        });
        let sentiment = self.sentiment_model.as_deref();
        targets.map(|target| target.model.as_str()).chain(sentiment).chain(canary)
    }
}

/// Who answers, if all conditions hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called, in decision records.
    pub name: String,
    /// All of them have to hold; without any it always matches.
    #[serde(default)]
    pub when: Vec<Condition>,
    /// Who answers then, and nobody else.
    pub targets: Vec<Target>,
    /// Models to which words leave the machine are passed over, even if they are named.
    #[serde(default)]
    pub local_only: bool,
    /// Whether the route's canary may take part in what this rule matches.
    #[serde(default)]
    pub canary: bool,
}

/// A model that may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name.
    pub model: String,
    /// Targets with a weight share what comes; those without one are asked after them, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Something about a message, or about the platform at that moment. It does not hold where its signal
/// is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// How the messages sound.
    Sentiment {
        /// The classes, as the model calls them.
        any_of: Vec<String>,
        /// The least probability, from 0 to 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_least: Option<f64>,
    },
    /// In which language the messages are.
    Language {
        /// Codes of two letters (ISO 639-1), or of three where a language has no other.
        any_of: Vec<String>,
    },
    /// Personal data among all that a model would read, the earlier messages too.
    PersonalData {
        /// Of these kinds.
        any_of: Vec<Personal>,
    },
    /// How long the messages are.
    Characters {
        /// At least so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_least: Option<u64>,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_most: Option<u64>,
    },
    /// How long all is that a model would read, in tokens as they are estimated.
    PromptTokens {
        /// At least so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_least: Option<u64>,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_most: Option<u64>,
    },
    /// What the messages are made of.
    Modality {
        /// One of these at least is among them.
        any_of: Vec<Modality>,
    },
    /// What the tenant can spend.
    Balance {
        /// Less than this, in the tenant's currency.
        #[serde(with = "decimal")]
        below: Micros,
    },
    /// What the tenant has been charged since the month began, in UTC.
    SpentThisMonth {
        /// This or more, in the tenant's currency.
        #[serde(with = "decimal")]
        at_least: Micros,
    },
    /// How a model does.
    Health {
        /// Which model.
        model: String,
        /// In one of these states.
        any_of: Vec<Health>,
    },
}

/// Amounts as they are written for people: `"12.5"`.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::Micros;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        amount: &Micros,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Micros, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
