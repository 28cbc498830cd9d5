//! A model that is tried on a part of a route's traffic beside those that serve, and is taken back
//! when it does worse.

use serde::{Deserialize, Serialize};

/// A model on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Which model.
    pub model: String,
    /// Whether people get its answers.
    pub mode: CanaryMode,
    /// How much of the traffic it sees, of a hundred conversations.
    pub percent: u32,
    /// Who pays for the calls of a shadow. A live one is paid like any answer.
    #[serde(default)]
    pub paid_by: Payer,
    /// How answers of a shadow are compared with those that were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// When it is taken back.
    #[serde(default)]
    pub rollback: Rollback,
    /// Whether it runs.
    #[serde(default)]
    pub state: CanaryState,
}

/// Whether people get the answers of a model on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryMode {
    /// It answers first in its part of the conversations.
    Live,
    /// It is asked as well, after the answer was given, and nobody sees what it says.
    Shadow,
}

/// Who pays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payer {
    /// The tenant.
    #[default]
    Tenant,
    /// The operator of the platform; nothing is booked to the tenant.
    Operator,
}

/// How two answers are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Agreement {
    /// 1 where they have the same letters and digits, else 0.
    Text,
    /// The cosine of their vectors.
    Embedding {
        /// The model that makes the vectors.
        model: String,
    },
    /// 1 where they are of one class, else 0.
    Label {
        /// The model that classifies.
        model: String,
    },
}

impl Agreement {
    /// The model that is asked for it.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Text => None,
            Self::Embedding { model } | Self::Label { model } => Some(model),
        }
    }
}

/// When a model on trial is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollback {
    /// Over how many minutes is compared.
    pub window_minutes: u32,
    /// Not before the canary had so many calls.
    pub min_calls: u32,
    /// When its share of failed calls is higher than that of the others by more than this, from 0 to 1.
    pub error_rate_above: f64,
    /// When it takes more than so many times as long as the others, on average.
    pub latency_ratio_above: f64,
    /// When its answers agree less than this on average, from 0 to 1; 0 asks for no agreement.
    pub agreement_below: f64,
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            window_minutes: 60,
            min_calls: 20,
            error_rate_above: 0.05,
            latency_ratio_above: 2.0,
            agreement_below: 0.0,
        }
    }
}

/// Whether a canary runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// It does.
    #[default]
    Running,
    /// It did worse and was taken back.
    RolledBack,
}

/// On which side of a trial an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Among the models that serve.
    Stable,
    /// The canary was to answer.
    Canary,
    /// The canary was asked as well.
    Shadow,
}

impl Arm {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Stable, Self::Canary, Self::Shadow];

    /// As it stands in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
        }
    }

    /// The one with this text form.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|arm| arm.as_str() == text)
    }
}

/// What calls came to, within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// Calls.
    pub calls: u32,
    /// Of those, how many failed.
    pub failures: u32,
    /// How long those took that succeeded, in milliseconds on average.
    pub latency_ms: f64,
    /// How many were compared.
    pub compared: u32,
    /// How well those agreed, on average.
    pub agreement: f64,
}

impl ArmFigures {
    fn error_rate(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { f64::from(self.failures) / f64::from(self.calls) }
    }
}

impl Rollback {
    /// Why the canary is to be taken back, if it is: a word.
    pub fn verdict(&self, canary: &ArmFigures, stable: &ArmFigures) -> Option<&'static str> {
        if canary.calls < self.min_calls.max(1) {
            return None;
        }
        if self.error_rate_above < canary.error_rate() - stable.error_rate() {
            return Some("error_rate");
        }
        let enough = 0.0 < stable.latency_ms && stable.failures < stable.calls;
        if enough && self.latency_ratio_above < canary.latency_ms / stable.latency_ms {
            return Some("latency");
        }
        let compared = self.min_calls.max(1) <= canary.compared;
        (compared && canary.agreement < self.agreement_below).then_some("agreement")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(calls: u32, failures: u32, latency_ms: f64) -> ArmFigures {
        ArmFigures { calls, failures, latency_ms, ..ArmFigures::default() }
    }

    #[test]
    fn it_is_taken_back_for_errors_latency_or_disagreement_and_not_for_few_calls() {
        let rules = Rollback { agreement_below: 0.8, ..Rollback::default() };
        let stable = figures(100, 5, 100.0);
        assert_eq!(rules.verdict(&figures(20, 2, 150.0), &stable), None);
        assert_eq!(rules.verdict(&figures(19, 19, 0.0), &stable), None);
        assert_eq!(rules.verdict(&figures(20, 3, 150.0), &stable), Some("error_rate"));
        assert_eq!(rules.verdict(&figures(20, 1, 201.0), &stable), Some("latency"));
        let differs = ArmFigures { compared: 20, agreement: 0.7, ..figures(20, 0, 90.0) };
        assert_eq!(rules.verdict(&differs, &stable), Some("agreement"));
        let few = ArmFigures { compared: 5, ..differs };
        assert_eq!(rules.verdict(&few, &stable), None);
    }

    #[test]
    fn without_anybody_to_compare_with_only_errors_count() {
        let rules = Rollback::default();
        let nobody = ArmFigures::default();
        assert_eq!(rules.verdict(&figures(50, 0, 9_000.0), &nobody), None);
        assert_eq!(rules.verdict(&figures(50, 10, 1.0), &nobody), Some("error_rate"));
    }
}
