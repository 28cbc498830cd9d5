//! The model's part of a turn: down the route's rungs until one answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::{counter, histogram};
use qudao_billing::{Charge, Metered, settle};
use qudao_domain::{ConversationId, Micros, TurnId, state::EndReason};
use qudao_plugin_api::wire::{ErrorKind, FinishReason, Usage};
use qudao_plugin_host::{Call, CallError, Event, EventStream, ModelEntry, ModelKind, ModelState};
use qudao_storage::{PriceRow, StorageError, TurnContext, UsageLine};
use qudao_telemetry::{Span, Trace};
use tokio::time::{self, Instant};

use super::{Turn, hold::Sized, prompt, stop::StopListener, typing::Typing};
use crate::{
    Core,
    api::{end_reason, share},
    failpoint,
    notice::Notice,
    price::max_input_tokens,
    spans,
};

/// How often a turn looks whether a model that loads or is busy can take it.
const READY_POLL: Duration = Duration::from_millis(100);
/// How long a cancelled model may take to say what it used.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes per token of a prompt whose model did not say how many tokens it read.
const BYTES_PER_TOKEN: u32 = 4;

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

/// A reply and what it took.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) stopped: bool,
    model: String,
    price: Arc<PriceRow>,
    hold: Micros,
    usage: Usage,
    delivered_tokens: u32,
    end: EndReason,
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
    pub(super) async fn generate(self: &Arc<Self>, turn: &Turn) -> Result<Generated, StorageError> {
        let settings = &self.settings.turns;
        let began = Instant::now();
        let stop = StopListener::start(self, turn.claim.conversation_id, turn.claim.epoch);
        let mut asked = Asked::new();
        loop {
            let Rungs { ready, loading } = self.rungs(&turn.context).await?;
            let mut busy = false;
            for rung in ready {
                let name = &rung.model.name;
                if asked.over.contains(name) {
                    continue;
                }
                let until = began + settings.hard_cap;
                match self.try_rung(turn, &rung, &stop, until, &mut asked.holds).await? {
                    Tried::Done(generated) => return Ok(generated),
                    Tried::Busy => busy = true,
                    refused => asked.refused(name, refused),
                }
            }
            // One that failed has answered in a way; a loading one may still do better than none.
            let waits = busy || loading && asked.details.is_empty();
            if !waits || settings.ready_wait.min(settings.hard_cap) <= began.elapsed() {
                return Ok(asked.sum_up(&turn.context, busy, loading));
            }
            tokio::select! {
                () = stop.token.cancelled() => return Ok(Generated::Nothing),
                () = time::sleep(READY_POLL) => {}
            }
        }
    }

    /// The models of the route that are ready and have a price, in order.
    async fn rungs(&self, context: &TurnContext) -> Result<Rungs, StorageError> {
        let mut ready = Vec::new();
        let mut loading = false;
        for name in &context.models {
            if let Some(kind) = self.plugins.kind(name).filter(|kind| *kind != ModelKind::Chat) {
                tracing::warn!(model = %name, kind = kind.as_str(), "a model that does not chat is passed over");
                continue;
            }
            let model = match self.plugins.ready(name) {
                Ok(model) => model,
                Err(CallError::NotReady { state: ModelState::Loading { .. } }) => {
                    loading = true;
                    continue;
                }
                Err(_) => continue,
            };
            match self.price(name, context.currency).await? {
                Some(price) => ready.push(Rung { model, price }),
                None => {
                    let currency = context.currency;
                    tracing::warn!(model = %name, %currency, "a model without a price is passed over");
                    counter!("qudao_unpriced_total", "model" => name.clone()).increment(1);
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
    ) -> Result<Tried, StorageError> {
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
            Sized::NoFunds { set_aside } => return Ok(Tried::NoFunds { set_aside }),
            Sized::Fenced => return Ok(Tried::Done(Generated::Fenced)),
        };
        holds.insert(rung.model.name.clone(), (hold, max_tokens));
        request.params.max_tokens = Some(max_tokens);
        request.cache_salt = Some(turn.claim.tenant_id.to_string());
        let payload = match serde_json::to_vec(&request) {
            Ok(payload) => payload,
            Err(error) => return Ok(Tried::Next { detail: error.to_string(), hopeless: true }),
        };
        let timeout = until.saturating_duration_since(Instant::now());
        let mut span = spans::model(turn.place, ModelKind::Chat, &rung.model.name, max_tokens);
        let call = Call { kind: ModelKind::Chat, payload, timeout, trace: span.place() };
        let payer = turn.claim.tenant_id.as_uuid().as_u128();
        let stream = match self.plugins.call_for(payer, &rung.model.name, call) {
            Ok(stream) => stream,
            Err(error) => {
                span.fail(error.class());
                return Ok(failed(&error));
            }
        };
        let mut listener = Listening::new(self, turn, stream, span);
        failpoint!("model.called");
        let heard = listener.hear(stop).await;
        failpoint!("model.ended");
        Ok(match heard {
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
        })
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

/// How a model's answer ended.
enum Heard {
    End(FinishReason),
    Stop,
    Error(CallError),
}

/// A model's answer while it grows.
struct Listening {
    stream: EventStream,
    typing: Typing,
    text: String,
    usage: Option<Usage>,
    /// Pieces that the model made, and those of them that were published.
    made: u32,
    shown: u32,
    called: Instant,
    span: Span,
}

impl Listening {
    fn new(core: &Arc<Core>, turn: &Turn, stream: EventStream, span: Span) -> Self {
        let typing = Typing::start(core, turn.claim.conversation_id, turn.id, turn.claim.epoch);
        let called = Instant::now();
        Self { stream, typing, text: String::new(), usage: None, made: 0, shown: 0, called, span }
    }

    async fn hear(&mut self, stop: &StopListener) -> Heard {
        let heard = loop {
            let event = tokio::select! {
                biased;
                () = stop.token.cancelled() => break self.last_words().await,
                event = self.stream.next() => event,
            };
            if let Some(heard) = self.take(event, true) {
                break heard;
            }
        };
        self.typing.flush().await;
        let reason = match &heard {
            Heard::End(finish) => finish.as_str(),
            Heard::Stop => "cancelled",
            Heard::Error(error) => {
                self.span.fail(error.class());
                "error"
            }
        };
        spans::model_ended(&mut self.span, reason, self.usage);
        std::mem::replace(&mut self.span, Span::silent(Trace::NONE)).end();
        histogram!("qudao_model_seconds").record(self.called.elapsed());
        heard
    }

    /// Cancels the model and hears what it used. What it still says is not published.
    async fn last_words(&mut self) -> Heard {
        self.stream.cancel();
        let drain = async {
            loop {
                let event = self.stream.next().await;
                if self.take(event, false).is_some() {
                    return;
                }
            }
        };
        let _ = time::timeout(LAST_WORDS, drain).await;
        Heard::Stop
    }

    fn take(&mut self, event: Option<Event>, show: bool) -> Option<Heard> {
        match event {
            Some(Event::Token { text, reasoning, .. }) => {
                if self.made == 0 {
                    failpoint!("model.began");
                    histogram!("qudao_model_first_token_seconds").record(self.called.elapsed());
                }
                self.made += 1;
                // Reasoning is made and paid for, but it is no part of the answer.
                if show && !reasoning {
                    self.shown += 1;
                    self.typing.push(&text);
                    self.text.push_str(&text);
                }
                None
            }
            Some(Event::Data(_)) => {
                self.made += 1;
                None
            }
            Some(Event::Usage(usage)) => {
                self.usage = Some(usage);
                None
            }
            Some(Event::Progress(_)) => None,
            Some(Event::End { finish_reason, usage }) => {
                self.usage = Some(usage);
                Some(Heard::End(finish_reason))
            }
            Some(Event::Error(error)) => Some(Heard::Error(error)),
            None => {
                let detail = "the stream ended without an end".to_owned();
                Some(Heard::Error(CallError::Protocol(detail)))
            }
        }
    }

    fn answer(
        self,
        rung: &Rung,
        hold: Micros,
        input_bound: u32,
        end: EndReason,
        stopped: bool,
    ) -> Box<Answer> {
        // A model that was cancelled may end with zeros for want of a count.
        let said = self.usage.filter(|usage| self.made == 0 || usage.output_tokens != 0);
        let usage = said.unwrap_or(Usage {
            input_tokens: input_bound / BYTES_PER_TOKEN,
            output_tokens: self.made,
        });
        let delivered_tokens = if stopped {
            share(usage.output_tokens, self.shown, self.made)
        } else {
            usage.output_tokens
        };
        Box::new(Answer {
            text: self.text,
            stopped,
            model: rung.model.name.clone(),
            price: Arc::clone(&rung.price),
            hold,
            usage,
            delivered_tokens,
            end,
        })
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
    fn sum_up(self, context: &TurnContext, busy: bool, loading: bool) -> Generated {
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
        let detail = format!("none of {:?} is ready and priced", context.models);
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
