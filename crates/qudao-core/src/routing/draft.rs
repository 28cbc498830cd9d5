//! A decision while what comes of it is still open.

use std::time::Duration;

use metrics::counter;
use qudao_domain::{
    ConversationId, DecisionId, RouteId, TurnId,
    routing::{Arm, Choice, Routing, Signals},
};
use qudao_storage::NewDecision;
use serde::Serialize;
use serde_json::json;

use super::Matter;

/// What was decided, and which models were asked since.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: DecisionId,
    pub(crate) route_id: RouteId,
    turn_id: TurnId,
    conversation_id: Option<ConversationId>,
    pub(crate) choice: Choice,
    signals: Signals,
    /// The model on trial, where this is a part of its trial.
    trial: Option<String>,
    tries: Vec<Try>,
    /// How the first model that was asked did.
    first: Option<(bool, Option<Duration>)>,
}

/// A model that was asked or passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Try {
    model: String,
    /// `answered`, or why it did not: a word of a closed set.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
}

impl Draft {
    pub(crate) fn new(
        route_id: RouteId,
        routing: &Routing,
        matter: &Matter,
        (choice, signals): (Choice, Signals),
    ) -> Self {
        let on_trial = choice.arm != Arm::Stable;
        let canary = routing.canary.as_ref().filter(|_| on_trial);
        Self {
            id: DecisionId::new(),
            route_id,
            turn_id: matter.id,
            conversation_id: matter.conversation_id,
            trial: canary.map(|canary| canary.model.clone()),
            choice,
            signals,
            tries: Vec::new(),
            first: None,
        }
    }

    /// A model was not asked, for this reason. What is found again and again is noted once.
    pub(crate) fn passed_over(&mut self, model: &str, why: &str) {
        let known = |noted: &Try| noted.model == model && noted.outcome == why;
        if !self.tries.iter().any(known) {
            let (model, outcome) = (model.to_owned(), why.to_owned());
            self.tries.push(Try { model, outcome, latency_ms: None });
        }
    }

    /// A model was asked: how long its first word took, if it came, and what came of it.
    pub(crate) fn asked(&mut self, model: &str, outcome: &str, latency: Option<Duration>) {
        let answered = outcome == ANSWERED;
        if self.first.is_none() {
            self.first = Some((!answered, latency));
        }
        let latency_ms = latency.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let (model, outcome) = (model.to_owned(), outcome.to_owned());
        self.tries.push(Try { model, outcome, latency_ms });
    }

    /// Models that were asked or passed over and did not answer.
    pub(crate) fn fallbacks(&self) -> u32 {
        let failed = self.tries.iter().filter(|noted| noted.outcome != ANSWERED);
        let mut models: Vec<_> = failed.map(|noted| noted.model.as_str()).collect();
        models.sort_unstable();
        models.dedup();
        u32::try_from(models.len()).unwrap_or(u32::MAX)
    }

    /// Whether anything was asked or passed over.
    pub(crate) fn is_empty(&self) -> bool {
        self.tries.is_empty()
    }

    /// The record: who answered, if anybody did, and why it ended so.
    pub(crate) fn finish(&self, model: Option<&str>, door: &'static str, end: &str) -> NewDecision {
        let fallbacks = self.fallbacks();
        let outcome = if model.is_some() { "answered" } else { "unanswered" };
        counter!("qudao_route_decisions_total", "door" => door, "outcome" => outcome).increment(1);
        if 0 < fallbacks {
            counter!("qudao_route_fallbacks_total", "door" => door).increment(u64::from(fallbacks));
        }
        let Choice { rule, candidates, local_only, considered, arm } = &self.choice;
        let mut body = json!({
            "door": door,
            "rule": rule,
            "considered": considered,
            "signals": self.signals,
            "candidates": candidates,
            "local_only": local_only,
            "tries": self.tries,
            "end": end,
        });
        if let Some(trial) = &self.trial {
            body["trial"] = json!(trial);
        }
        NewDecision {
            id: self.id,
            turn_id: self.turn_id,
            route_id: self.route_id,
            conversation_id: self.conversation_id,
            model: model.map(str::to_owned),
            fallbacks,
            arm: *arm,
            failed: self.first.map(|(failed, _)| failed),
            latency: self.first.and_then(|(_, latency)| latency),
            body,
        }
    }
}

/// What came of a model that answered.
pub(crate) const ANSWERED: &str = "answered";
