//! A model on trial that is asked as well, after the answer was given: nobody sees what it says. How it
//! did is written beside the decision, and a trial that does worse than its route allows is ended.

use std::{pin::Pin, sync::Arc, time::Duration};

use metrics::counter;
use qudao_billing::{Metered, settle};
use qudao_domain::{
    ChannelId, Currency, DecisionId, Micros, RouteId, TenantId, TurnId,
    routing::{
        Agreement, Arm, ArmFigures, Canary, CanaryMode, Payer, Routing,
        agree::{cosine, same_text},
    },
    state::{EndReason, FairCharging},
};
use qudao_plugin_api::wire::{
    Ask, ChatRequest, Classified, ClassifyRequest, EmbedRequest, Embedded, Usage,
};
use qudao_plugin_host::{Call, CallError, Event, ModelKind};
use qudao_storage::{AuditEvent, ShadowRun, StorageError};
use qudao_telemetry::Trace;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Instant};

use super::Matter;
use crate::{Core, api::Aside, failpoint};

/// The longest that a model on trial may take, and each of those that compare.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long its decision's record is waited for.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);

/// A route's trial, beside one turn or call.
pub(crate) struct Shadow {
    tenant_id: TenantId,
    currency: Currency,
    policy: FairCharging,
    channel_id: ChannelId,
    turn_id: TurnId,
    place: Trace,
    decision_id: DecisionId,
    route_id: RouteId,
    arm: Arm,
    canary: Canary,
    /// What was asked.
    request: ChatRequest,
}

/// What a model on trial said.
struct Said {
    text: String,
    latency: Option<Duration>,
    cost: Micros,
}

impl Shadow {
    /// The trial that a decision is a part of, if it is.
    pub(crate) fn of(
        routing: &Routing,
        matter: &Matter,
        draft: &super::Draft,
        request: ChatRequest,
    ) -> Option<Self> {
        let canary = routing.canary.clone().filter(|_| draft.choice.arm != Arm::Stable)?;
        Some(Self {
            tenant_id: matter.tenant_id,
            currency: matter.currency,
            policy: matter.policy,
            channel_id: matter.channel_id,
            turn_id: matter.id,
            place: matter.place,
            decision_id: draft.id,
            route_id: draft.route_id,
            arm: draft.choice.arm,
            canary,
            request,
        })
    }

    fn aside(&self, purpose: &str) -> Aside {
        Aside {
            tenant_id: self.tenant_id,
            currency: self.currency,
            policy: self.policy,
            channel_id: self.channel_id,
            id: self.turn_id.aside(purpose),
            place: self.place,
        }
    }
}

impl Core {
    /// Goes on with a trial when the answer was given and its decision is written down. `answer` is
    /// what was said; `None` if nobody answered.
    pub(crate) fn go_on_trial(
        self: &Arc<Self>,
        shadow: Shadow,
        answer: Option<String>,
        recorded: Option<oneshot::Receiver<()>>,
    ) {
        let core = Arc::clone(self);
        // Boxed with its type, for a trial asks models as calls do, which may be on trial.
        let trial: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            if let Some(recorded) = recorded
                && !matches!(tokio::time::timeout(RECORD_PATIENCE, recorded).await, Ok(Ok(())))
            {
                return;
            }
            if let Some(answer) = answer.filter(|_| shadow.arm == Arm::Shadow) {
                core.run_shadow(&shadow, &answer).await;
            }
            core.judge(&shadow).await;
        });
        self.spawn(trial);
    }

    async fn run_shadow(self: &Arc<Self>, shadow: &Shadow, answer: &str) {
        let began = Instant::now();
        let asked = tokio::time::timeout(PATIENCE, self.ask_shadow(shadow)).await;
        let asked = asked.unwrap_or_else(|_| Err("timeout".to_owned()));
        failpoint!("shadow.asked");
        let outcome = if asked.is_ok() { "answered" } else { "failed" };
        counter!("qudao_shadow_calls_total", "outcome" => outcome).increment(1);
        let agreement = match &asked {
            Ok(said) => self.compare(shadow, answer, &said.text).await,
            Err(_) => None,
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let run = ShadowRun {
            decision_id: shadow.decision_id,
            failed: asked.is_err(),
            latency: asked.as_ref().ok().and_then(|said| said.latency),
            agreement,
            body: json!({
                "model": shadow.canary.model,
                "outcome": asked.as_ref().map_or_else(String::as_str, |_| "answered"),
                "took_ms": took_ms,
                "agreement": agreement,
                "paid_by": shadow.canary.paid_by,
                "cost": asked.as_ref().map_or(Micros::ZERO, |said| said.cost).to_string(),
                "currency": shadow.currency,
            }),
        };
        if let Err(error) = self.write_shadow(shadow.tenant_id, &run).await {
            tracing::warn!(%error, "how a model on trial did was not written down");
        }
    }

    async fn write_shadow(&self, tenant: TenantId, run: &ShadowRun) -> Result<(), StorageError> {
        let mut tx = self.store.begin(tenant).await?;
        tx.record_shadow(run).await?;
        tx.commit().await
    }

    async fn ask_shadow(self: &Arc<Self>, shadow: &Shadow) -> Result<Said, String> {
        let mut request = shadow.request.clone();
        shadow.canary.model.clone_into(&mut request.model);
        match shadow.canary.paid_by {
            Payer::Tenant => {
                let asked = self.ask_aside_in_words(shadow.aside("shadow"), request.into()).await;
                let whole = asked.map_err(|error| error.class().to_owned())?;
                Ok(Said { text: whole.text, latency: whole.first, cost: whole.charge })
            }
            Payer::Operator => self.ask_for_operator(shadow, request).await,
        }
    }

    /// A call that is booked to nobody. What it would have cost is counted, so that the operator sees
    /// it.
    async fn ask_for_operator(
        self: &Arc<Self>,
        shadow: &Shadow,
        request: ChatRequest,
    ) -> Result<Said, String> {
        let called = Instant::now();
        let model = &shadow.canary.model;
        let stream = self.call_unpaid(model, request.into(), shadow.place);
        let mut stream = stream.map_err(|error| error.class().to_owned())?;
        let (mut text, mut latency) = (String::new(), None);
        let usage = loop {
            match stream.next().await {
                Some(Event::Token { text: piece, reasoning, .. }) => {
                    latency.get_or_insert_with(|| called.elapsed());
                    if !reasoning {
                        text.push_str(&piece);
                    }
                }
                Some(Event::End { usage, .. }) => break usage,
                Some(Event::Error(error)) => return Err(error.class().to_owned()),
                Some(Event::Data(_) | Event::Usage(_) | Event::Progress(_)) => {}
                None => return Err("protocol".to_owned()),
            }
        };
        let cost = self.would_cost(model, shadow, usage).await;
        counter!("qudao_shadow_cost_micros_total").increment(cost.get().unsigned_abs());
        Ok(Said { text, latency, cost })
    }

    fn call_unpaid(
        &self,
        model: &str,
        mut ask: Ask,
        trace: Trace,
    ) -> Result<qudao_plugin_host::EventStream, CallError> {
        let kind = ModelKind::of(&ask);
        let entry = self.plugins.ready(model)?;
        ask.set_model(entry.upstream.as_ref().unwrap_or(&entry.name));
        if let Ask::Chat(chat) = &mut ask {
            let most = chat.params.max_tokens.unwrap_or(self.settings.turns.max_reply_tokens);
            chat.params.max_tokens = Some(match entry.max_output_tokens {
                0 => most,
                limit => most.min(limit),
            });
        }
        let payload =
            serde_json::to_vec(&ask).map_err(|error| CallError::Protocol(error.to_string()))?;
        self.plugins.call(model, Call { kind, payload, timeout: PATIENCE, trace })
    }

    async fn would_cost(&self, model: &str, shadow: &Shadow, usage: Usage) -> Micros {
        let price = self.price(model, shadow.currency).await.ok().flatten();
        let metered = Metered {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            delivered_tokens: usage.output_tokens,
            end_reason: EndReason::Stop,
        };
        let charge = price.and_then(|price| {
            settle(&price.rates(), shadow.policy, &metered, Micros::new(i64::MAX)).ok()
        });
        charge.map_or(Micros::ZERO, |charge| charge.charge)
    }

    /// How well two answers agree, from 0 to 1 (a cosine may be below); `None` where it cannot be said.
    async fn compare(self: &Arc<Self>, shadow: &Shadow, one: &str, other: &str) -> Option<f64> {
        let texts = || vec![one.to_owned(), other.to_owned()];
        match shadow.canary.agreement.as_ref()? {
            Agreement::Text => Some(f64::from(u8::from(same_text(one, other)))),
            Agreement::Embedding { model } => {
                let ask = EmbedRequest::new(model, texts());
                let pieces = self.ask_judge(shadow, model, ask.into()).await?;
                let mut vectors: Vec<Embedded> = read_all(pieces)?;
                vectors.sort_by_key(|vector| vector.index);
                match vectors.as_slice() {
                    [one, other] => cosine(&one.embedding, &other.embedding),
                    _ => None,
                }
            }
            Agreement::Label { model } => {
                let ask = ClassifyRequest::new(model, texts());
                let pieces = self.ask_judge(shadow, model, ask.into()).await?;
                let classes: Vec<Classified> = read_all(pieces)?;
                match classes.as_slice() {
                    [one, other] => Some(f64::from(u8::from(one.label == other.label))),
                    _ => None,
                }
            }
        }
    }

    async fn ask_judge(
        self: &Arc<Self>,
        shadow: &Shadow,
        model: &str,
        ask: Ask,
    ) -> Option<Vec<Value>> {
        let asked = async {
            match shadow.canary.paid_by {
                Payer::Tenant => self.ask_aside(shadow.aside("agreement"), ask).await.ok(),
                Payer::Operator => {
                    let mut stream = self.call_unpaid(model, ask, shadow.place).ok()?;
                    let mut pieces = Vec::new();
                    loop {
                        match stream.next().await? {
                            Event::Data(piece) => pieces.push(piece),
                            Event::End { .. } => return Some(pieces),
                            Event::Error(_) => return None,
                            _ => {}
                        }
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// Ends a trial that does worse than its route allows.
    async fn judge(&self, shadow: &Shadow) {
        if !self.routes.is_due(shadow.route_id) {
            return;
        }
        match self.try_judge(shadow).await {
            Ok(None) => {}
            Ok(Some(reason)) => {
                counter!("qudao_canary_rollbacks_total", "reason" => reason).increment(1);
                tracing::warn!(route = %shadow.route_id, reason, "a model on trial was taken back");
            }
            Err(error) => tracing::warn!(%error, "a model on trial could not be judged"),
        }
    }

    /// Why this call ended the trial, if it did: of several nodes only one does, and what it did is in
    /// the audit log with it.
    async fn try_judge(&self, shadow: &Shadow) -> Result<Option<&'static str>, StorageError> {
        let Shadow { tenant_id, route_id, canary, .. } = shadow;
        let rules = canary.rollback;
        let mut tx = self.store.begin(*tenant_id).await?;
        let minutes = rules.window_minutes;
        let (tried, stable) = tx.trial_figures(*route_id, &canary.model, minutes).await?;
        let Some(reason) = rules.verdict(&tried, &stable) else {
            tx.commit().await?;
            return Ok(None);
        };
        if !tx.roll_back_canary(*route_id, &canary.model).await? {
            tx.commit().await?;
            return Ok(None);
        }
        tx.record_audit(&rollback_act(shadow, reason, &tried, &stable)).await?;
        failpoint!("canary.rolling_back");
        tx.commit().await?;
        failpoint!("canary.rolled_back");
        Ok(Some(reason))
    }
}

fn rollback_act(
    shadow: &Shadow,
    reason: &str,
    tried: &ArmFigures,
    stable: &ArmFigures,
) -> AuditEvent {
    let Shadow { route_id, canary, decision_id, .. } = shadow;
    let mode = match canary.mode {
        CanaryMode::Live => "live",
        CanaryMode::Shadow => "shadow",
    };
    AuditEvent {
        actor: "platform".to_owned(),
        action: "route.roll_back_canary".to_owned(),
        target: route_id.to_string(),
        detail: json!({
            "model": canary.model,
            "mode": mode,
            "reason": reason,
            "canary": tried,
            "stable": stable,
            "decision_id": decision_id,
        }),
        request_id: None,
        address: None,
    }
}

fn read_all<T: serde::de::DeserializeOwned>(pieces: Vec<Value>) -> Option<Vec<T>> {
    pieces.into_iter().map(|piece| serde_json::from_value(piece).ok()).collect()
}
