//! The model's part of a turn: down the route's rungs until one answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::counter;
use qudao_billing::{Charge, Metered, settle};
use qudao_domain::{ConversationId, Micros, TurnId, state::EndReason};
use qudao_plugin_api::wire::{ChatRequest, ErrorKind, Usage};
use qudao_plugin_host::{Call, CallError, DataClass, ModelEntry, ModelKind, ModelState};
use qudao_storage::{PriceRow, StorageError, TurnContext, UsageLine};
use tokio::time::{self, Instant};

use super::{
    Turn,
    hold::Sized,
    prompt,
    reply::{Heard, Listening},
    route::Routed,
    stop::StopListener,
};
use crate::{
    Core,
    api::end_reason,
    failpoint,
    notice::Notice,
    price::max_input_tokens,
    routing::{ANSWERED, Draft, is_failure},
    spans,
};

/// How often a turn looks whether a model that loads or is busy can take it.
const READY_POLL: Duration = Duration::from_millis(100);

/// What came of asking the models.
pub(super) enum Generated {
    /// A reply, whole or stopped by the person.
    Answer(Box<Answer>),
    /// The person stopped before the first word, and nothing is to be paid.
    Nothing,
    /// The wallet does not cover an answer of any model.
    NoFunds,
    /// Models or credits would do, but others have them at the moment.
    Busy {
        /// What is missing, for the operator.
        detail: String,
    },
    /// Another node has the conversation.
    Fenced,
    /// No model answered.
    Failed {
        /// What the models said, for the operator.
        detail: String,
        /// Another attempt would fail as well.
        hopeless: bool,
    },
}

impl Generated {
    /// How it ended, as a word for the decision's record.
    pub(super) const fn end(&self) -> &'static str {
        match self {
            Self::Answer(_) => ANSWERED,
            Self::Nothing => "stopped",
            Self::NoFunds => "no_funds",
            Self::Busy { .. } => "busy",
            Self::Fenced => "fenced",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A reply and what it took.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) stopped: bool,
    pub(super) model: String,
    pub(super) price: Arc<PriceRow>,
    pub(super) hold: Micros,
    pub(super) usage: Usage,
    pub(super) delivered_tokens: u32,
    pub(super) end: EndReason,
}

/// A model that may answer.
pub(super) struct Rung {
    pub(super) model: Arc<ModelEntry>,
    pub(super) price: Arc<PriceRow>,
}

/// What came of one model.
enum Tried {
    Done(Generated),
    /// It did not answer, and the person saw nothing of it: the next one may.
    Next {
        detail: String,
        hopeless: bool,
    },
    /// It serves as many as it can at the moment.
    Busy,
    /// The wallet does not cover it; or it would, but others have the credits at the moment.
    NoFunds {
        set_aside: bool,
    },
}

/// What the models of a route have said so far in a turn.
struct Asked {
    details: Vec<String>,
    hopeless: bool,
    /// These are not asked again in this attempt.
    over: Vec<String>,
    /// What was set aside for those that were busy: a hold is taken once per model.
    holds: HashMap<String, (Micros, u32)>,
    no_funds: bool,
    set_aside: bool,
}

/// What of a route may be asked now.
struct Rungs {
    ready: Vec<Rung>,
    /// One that is not ready is still loading.
    loading: bool,
}

impl Core {
    /// Has the turn answered by the models that its route chooses.
    pub(super) async fn generate(
        self: &Arc<Self>,
        turn: &Turn,
    ) -> Result<(Generated, Routed), StorageError> {
        let stop = StopListener::start(self, turn.claim.conversation_id, turn.claim.epoch);
        let mut routed = self.route_turn(turn).await;
        let generated = self.descend(turn, &stop, &mut routed.draft).await?;
        Ok((generated, routed))
    }

    async fn descend(
        self: &Arc<Self>,
        turn: &Turn,
        stop: &StopListener,
        draft: &mut Draft,
    ) -> Result<Generated, StorageError> {
        let settings = &self.settings.turns;
        let began = Instant::now();
        let mut asked = Asked::new();
        loop {
            let Rungs { ready, loading } = self.rungs(&turn.context, draft).await?;
            let mut busy = false;
            for rung in ready {
                let name = &rung.model.name;
                if asked.over.contains(name) {
                    continue;
                }
                let until = began + settings.hard_cap;
                match self.try_rung(turn, &rung, stop, until, &mut asked.holds, draft).await? {
                    Tried::Done(generated) => return Ok(generated),
                    Tried::Busy => busy = true,
                    refused => asked.refused(name, refused),
                }
            }
            // One that failed has answered in a way; a loading one may still do better than none.
            let waits = busy || loading && asked.details.is_empty();
            if !waits || settings.ready_wait.min(settings.hard_cap) <= began.elapsed() {
                return Ok(asked.sum_up(&draft.choice.candidates, busy, loading));
            }
            tokio::select! {
                () = stop.token.cancelled() => return Ok(Generated::Nothing),
                () = time::sleep(READY_POLL) => {}
            }
        }
    }

    /// The models that the route chose, are ready and have a price, in order.
    async fn rungs(&self, context: &TurnContext, draft: &mut Draft) -> Result<Rungs, StorageError> {
        let mut ready = Vec::new();
        let mut loading = false;
        for name in &draft.choice.candidates.clone() {
            if let Some(kind) = self.plugins.kind(name).filter(|kind| *kind != ModelKind::Chat) {
                tracing::warn!(model = %name, kind = kind.as_str(), "a model that does not chat is passed over");
                draft.passed_over(name, "wrong_kind");
                continue;
            }
            let model = match self.plugins.ready(name) {
                Ok(model) => model,
                Err(CallError::NotReady { state: ModelState::Loading { .. } }) => {
                    loading = true;
                    draft.passed_over(name, "loading");
                    continue;
                }
                Err(error) => {
                    draft.passed_over(name, error.class());
                    continue;
                }
            };
            if draft.choice.local_only && model.data_class == DataClass::Remote {
                draft.passed_over(name, "remote");
                continue;
            }
            match self.price(name, context.currency).await? {
                Some(price) => ready.push(Rung { model, price }),
                None => {
                    let currency = context.currency;
                    tracing::warn!(model = %name, %currency, "a model without a price is passed over");
                    counter!("qudao_unpriced_total", "model" => name.clone()).increment(1);
                    draft.passed_over(name, "no_price");
                }
            }
        }
        Ok(Rungs { ready, loading })
    }

    async fn try_rung(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        stop: &StopListener,
        until: Instant,
        holds: &mut HashMap<String, (Micros, u32)>,
        draft: &mut Draft,
    ) -> Result<Tried, StorageError> {
        let Ok(permit) = self.routes.breakers.admit(&rung.model.name) else {
            draft.passed_over(&rung.model.name, "breaker_open");
            return Ok(Tried::Busy);
        };
        let name = rung.model.upstream.as_ref().unwrap_or(&rung.model.name);
        let mut request = prompt::request(&turn.context, name);
        let input_bound = max_input_tokens(&request, rung.model.context_tokens);
        let before = holds.get(&rung.model.name).copied();
        let sized = match before {
            Some((hold, max_tokens)) => Sized::To { hold, max_tokens },
            None => self.hold(turn, rung, &request, input_bound).await?,
        };
        let (hold, max_tokens) = match sized {
            Sized::To { hold, max_tokens } => (hold, max_tokens),
            Sized::NoFunds { set_aside } => {
                draft.passed_over(&rung.model.name, "no_funds");
                return Ok(Tried::NoFunds { set_aside });
            }
            Sized::Fenced => return Ok(Tried::Done(Generated::Fenced)),
        };
        holds.insert(rung.model.name.clone(), (hold, max_tokens));
        request.params.max_tokens = Some(max_tokens);
        request.cache_salt = Some(turn.claim.tenant_id.to_string());
        let mut listener = match self.call_rung(turn, rung, &request, until) {
            Ok(listener) => listener,
            Err(error) => {
                draft.asked(&rung.model.name, error.class(), None);
                if is_failure(&error) {
                    permit.report(false);
                }
                return Ok(failed(&error));
            }
        };
        failpoint!("model.called");
        let heard = listener.hear(stop).await;
        failpoint!("model.ended");
        draft.asked(&rung.model.name, heard.outcome(&listener), listener.first);
        if let Some(ok) = heard.verdict(&listener) {
            permit.report(ok);
        }
        Ok(make_of(turn, rung, heard, listener, hold, input_bound))
    }

    fn call_rung(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        request: &ChatRequest,
        until: Instant,
    ) -> Result<Listening, CallError> {
        let payload = serde_json::to_vec(request).map_err(|error| CallError::Provider {
            kind: ErrorKind::BadRequest,
            message: error.to_string(),
            status: None,
            retry_after_ms: None,
        })?;
        let timeout = until.saturating_duration_since(Instant::now());
        let max_tokens = request.params.max_tokens.unwrap_or_default();
        let mut span = spans::model(turn.place, ModelKind::Chat, &rung.model.name, max_tokens);
        let call = Call { kind: ModelKind::Chat, payload, timeout, trace: span.place() };
        let payer = turn.claim.tenant_id.as_uuid().as_u128();
        match self.plugins.call_for(payer, &rung.model.name, call) {
            Ok(stream) => Ok(Listening::new(self, turn, stream, span)),
            Err(error) => {
                span.fail(error.class());
                Err(error)
            }
        }
    }
}

/// What to make of how a model's answer ended.
fn make_of(
    turn: &Turn,
    rung: &Rung,
    heard: Heard,
    listener: Listening,
    hold: Micros,
    input_bound: u32,
) -> Tried {
    match heard {
        Heard::End(finish) if listener.text.trim().is_empty() => {
            let detail = format!("an empty answer ({})", finish.as_str());
            Tried::Next { detail, hopeless: false }
        }
        Heard::End(finish) => {
            let end = end_reason(finish);
            let answer = listener.answer(rung, hold, input_bound, end, false);
            Tried::Done(Generated::Answer(answer))
        }
        Heard::Stop if listener.text.is_empty() => {
            let answer = listener.answer(rung, hold, input_bound, EndReason::Cancelled, true);
            Tried::Done(turn.unseen(answer))
        }
        Heard::Stop => {
            let answer = listener.answer(rung, hold, input_bound, EndReason::Cancelled, true);
            Tried::Done(Generated::Answer(answer))
        }
        // What the person has seen is void; the next attempt begins anew.
        Heard::Error(error) if !listener.text.is_empty() => {
            let detail = format!("{}: {}", rung.model.name, error.class());
            Tried::Done(Generated::Failed { detail, hopeless: false })
        }
        Heard::Error(error) => failed(&error),
    }
}

impl Turn {
    /// The person stopped before the first word. Where the policy bills what was made, that has to
    /// stand in the books with a reply; else it is as if the model had not been asked.
    fn unseen(&self, mut answer: Box<Answer>) -> Generated {
        let line = answer.usage_line(self.id, self.claim.conversation_id, &self.context);
        if line.charge == Micros::ZERO {
            return Generated::Nothing;
        }
        Notice::Stopped.text(&self.context.locale).clone_into(&mut answer.text);
        Generated::Answer(answer)
    }
}

impl Answer {
    /// What the turn costs, by the tenant's policy and never more than the hold.
    pub(super) fn usage_line(
        &self,
        turn_id: TurnId,
        conversation_id: ConversationId,
        context: &TurnContext,
    ) -> UsageLine {
        let Usage { input_tokens, output_tokens } = self.usage;
        let delivered_tokens = self.delivered_tokens;
        let metered =
            Metered { input_tokens, output_tokens, delivered_tokens, end_reason: self.end };
        // An overflow is beyond any hold: the tenant pays the hold.
        let Charge { charge, absorbed } =
            settle(&self.price.rates(), context.fair_charging, &metered, self.hold)
                .unwrap_or(Charge { charge: self.hold, absorbed: Micros::ZERO });
        UsageLine {
            turn_id,
            channel_id: context.channel_id,
            api_key_id: None,
            conversation_id: Some(conversation_id),
            model: self.model.clone(),
            price_version: self.price.version,
            input_tokens,
            output_tokens,
            delivered_tokens,
            charge,
            absorbed,
            currency: context.currency,
            policy: context.fair_charging,
            end_reason: self.end,
            kept: None,
        }
    }
}

impl Asked {
    fn new() -> Self {
        Self {
            details: Vec::new(),
            hopeless: true,
            over: Vec::new(),
            holds: HashMap::new(),
            no_funds: false,
            set_aside: false,
        }
    }

    fn refused(&mut self, model: &str, how: Tried) {
        self.over.push(model.to_owned());
        match how {
            Tried::Next { detail, hopeless } => {
                counter!("qudao_rungs_failed_total", "model" => model.to_owned()).increment(1);
                self.hopeless &= hopeless;
                self.details.push(format!("{model}: {detail}"));
            }
            Tried::NoFunds { set_aside } => {
                self.no_funds = true;
                self.set_aside |= set_aside;
            }
            Tried::Done(_) | Tried::Busy => {}
        }
    }

    /// What to make of it when nobody answered.
    fn sum_up(self, models: &[String], busy: bool, loading: bool) -> Generated {
        if busy {
            return Generated::Busy { detail: "the models are busy".to_owned() };
        }
        if !self.details.is_empty() {
            // With the credits that others have now, another model may answer next time.
            let hopeless = self.hopeless && !self.set_aside;
            return Generated::Failed { detail: self.details.join("; "), hopeless };
        }
        if self.set_aside {
            return Generated::Busy { detail: "the credits are set aside".to_owned() };
        }
        if self.no_funds && !loading {
            return Generated::NoFunds;
        }
        let detail = format!("none of {models:?} is ready and priced");
        Generated::Failed { detail, hopeless: false }
    }
}

/// The person saw nothing of it, so the next rung may answer. Hopeless is what depends on the
/// request alone.
fn failed(error: &CallError) -> Tried {
    let hopeless = match error {
        CallError::Overloaded => return Tried::Busy,
        CallError::Provider { kind: ErrorKind::Overloaded, .. } => return Tried::Busy,
        CallError::Poison => true,
        CallError::Provider { kind, .. } => {
            matches!(kind, ErrorKind::BadRequest | ErrorKind::ContentFilter)
        }
        _ => false,
    };
    // The class alone: a provider's words may repeat the message. The plugin host keeps them for
    // the operator.
    Tried::Next { detail: error.class().to_owned(), hopeless }
}
