//! The model's part of a turn: down the route's rungs until one answers.

use std::{sync::Arc, time::Duration};

use metrics::{counter, histogram};
use qudao_billing::{Charge, Metered, affordable_output, hold_amount, settle};
use qudao_domain::{ConversationId, Micros, TurnId, state::EndReason};
use qudao_plugin_api::wire::{ChatRequest, ErrorKind, FinishReason, Usage};
use qudao_plugin_host::{Call, CallError, Event, EventStream, ModelEntry, ModelKind, ModelState};
use qudao_storage::{Hold, HoldTurn, PriceRow, StorageError, TurnContext, UsageLine};
use tokio::time::{self, Instant};

use super::{Turn, prompt, stop::StopListener, typing::Typing};
use crate::{
    Core,
    api::{end_reason, share},
    price::max_input_tokens,
};

/// How often a turn looks whether a loading model is ready.
const READY_POLL: Duration = Duration::from_millis(100);
/// How long a cancelled model may take to say what it used.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes per token of a prompt whose model did not say how many tokens it read.
const BYTES_PER_TOKEN: u32 = 4;

/// What came of asking the models.
pub(super) enum Generated {
    /// A reply, whole or stopped by the person.
    Answer(Box<Answer>),
    /// The person stopped before the first word.
    Nothing,
    /// The wallet does not cover an answer.
    NoFunds,
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
struct Rung {
    model: Arc<ModelEntry>,
    price: Arc<PriceRow>,
}

/// What came of one model.
enum Tried {
    Done(Generated),
    /// It did not answer, and the person saw nothing of it: the next one may.
    Next {
        detail: String,
        hopeless: bool,
    },
}

/// How much of the wallet an answer may use.
enum Sized {
    To {
        hold: Micros,
        max_tokens: u32,
    },
    NoFunds,
    Fenced,
    /// The hold of an earlier attempt is too small for this model.
    TooSmall,
}

impl Core {
    pub(super) async fn generate(self: &Arc<Self>, turn: &Turn) -> Result<Generated, StorageError> {
        let settings = &self.settings.turns;
        let began = Instant::now();
        let stop = StopListener::start(self, turn.claim.conversation_id, turn.claim.epoch);
        let mut details = Vec::new();
        let mut hopeless = true;
        loop {
            let (rungs, loading) = self.rungs(&turn.context).await?;
            let tried = !rungs.is_empty();
            for rung in rungs {
                let until = began + settings.hard_cap;
                match self.try_rung(turn, &rung, &stop, until).await? {
                    Tried::Done(generated) => return Ok(generated),
                    Tried::Next { detail, hopeless: never } => {
                        counter!("qudao_rungs_failed_total", "model" => rung.model.name.clone())
                            .increment(1);
                        hopeless &= never;
                        details.push(format!("{}: {detail}", rung.model.name));
                    }
                }
            }
            if tried || !loading || settings.ready_wait <= began.elapsed() {
                break;
            }
            tokio::select! {
                () = stop.token.cancelled() => return Ok(Generated::Nothing),
                () = time::sleep(READY_POLL) => {}
            }
        }
        if details.is_empty() {
            let detail = format!("none of {:?} is ready and priced", turn.context.models);
            return Ok(Generated::Failed { detail, hopeless: false });
        }
        Ok(Generated::Failed { detail: details.join("; "), hopeless })
    }

    /// The models of the route that are ready and have a price, in order; and whether one that is
    /// not ready is still loading.
    async fn rungs(&self, context: &TurnContext) -> Result<(Vec<Rung>, bool), StorageError> {
        let mut rungs = Vec::new();
        let mut loading = false;
        for name in &context.models {
            let model = match self.plugins.ready(name) {
                Ok(model) => model,
                Err(CallError::NotReady { state: ModelState::Loading { .. } }) => {
                    loading = true;
                    continue;
                }
                Err(_) => continue,
            };
            match self.price(name, context.currency).await? {
                Some(price) => rungs.push(Rung { model, price }),
                None => {
                    let currency = context.currency;
                    tracing::warn!(model = %name, %currency, "a model without a price is passed over");
                    counter!("qudao_unpriced_total", "model" => name.clone()).increment(1);
                }
            }
        }
        Ok((rungs, loading))
    }

    async fn try_rung(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        stop: &StopListener,
        until: Instant,
    ) -> Result<Tried, StorageError> {
        let name = rung.model.upstream.as_ref().unwrap_or(&rung.model.name);
        let mut request = prompt::request(&turn.context, name);
        let input_bound = max_input_tokens(&request, rung.model.context_tokens);
        let (hold, max_tokens) = match self.hold(turn, rung, &request, input_bound).await? {
            Sized::To { hold, max_tokens } => (hold, max_tokens),
            Sized::NoFunds => return Ok(Tried::Done(Generated::NoFunds)),
            Sized::Fenced => return Ok(Tried::Done(Generated::Fenced)),
            Sized::TooSmall => {
                let detail = "the hold of an earlier attempt is too small".to_owned();
                return Ok(Tried::Next { detail, hopeless: false });
            }
        };
        request.params.max_tokens = Some(max_tokens);
        let payload = match serde_json::to_vec(&request) {
            Ok(payload) => payload,
            Err(error) => return Ok(Tried::Next { detail: error.to_string(), hopeless: true }),
        };
        let timeout = until.saturating_duration_since(Instant::now());
        let call = Call { kind: ModelKind::Chat, payload, timeout, trace: String::new() };
        let stream = match self.plugins.call(&rung.model.name, call) {
            Ok(stream) => stream,
            Err(error) => return Ok(failed(&error)),
        };
        let mut listener = Listening::new(self, turn, stream);
        let heard = listener.hear(stop).await;
        Ok(match heard {
            Heard::End(finish) if listener.text.trim().is_empty() => {
                let detail = format!("an empty answer ({})", finish.as_str());
                Tried::Next { detail, hopeless: false }
            }
            Heard::End(finish) => {
                Tried::Done(listener.answer(rung, hold, input_bound, end_reason(finish), false))
            }
            Heard::Stop if listener.text.is_empty() => Tried::Done(Generated::Nothing),
            Heard::Stop => {
                Tried::Done(listener.answer(rung, hold, input_bound, EndReason::Cancelled, true))
            }
            // What the person has seen is void; the next attempt begins anew.
            Heard::Error(error) if !listener.text.is_empty() => {
                let detail = format!("{}: {error}", rung.model.name);
                Tried::Done(Generated::Failed { detail, hopeless: false })
            }
            Heard::Error(error) => failed(&error),
        })
    }

    /// T3: sets aside what the answer may cost, or as much as the wallet affords.
    async fn hold(
        &self,
        turn: &Turn,
        rung: &Rung,
        request: &ChatRequest,
        input_bound: u32,
    ) -> Result<Sized, StorageError> {
        let settings = &self.settings.turns;
        let rates = rung.price.rates();
        let asked = request.params.max_tokens.unwrap_or(settings.max_reply_tokens);
        let most = if rung.model.max_output_tokens == 0 {
            asked
        } else {
            asked.min(rung.model.max_output_tokens)
        };
        let least = settings.min_reply_tokens.min(most);
        let afforded = |balance| affordable_output(&rates, input_bound, balance, most);
        let mut outcome = match hold_amount(&rates, input_bound, most) {
            Ok(amount) => self.try_hold(turn, rung, amount).await?,
            Err(_) => Hold::NoFunds,
        };
        if outcome == Hold::NoFunds {
            let short = afforded(turn.context.available).filter(|tokens| least <= *tokens);
            let amount = short.and_then(|tokens| hold_amount(&rates, input_bound, tokens).ok());
            let Some(amount) = amount else { return Ok(Sized::NoFunds) };
            outcome = self.try_hold(turn, rung, amount).await?;
        }
        counter!("qudao_holds_total", "outcome" => hold_word(outcome)).increment(1);
        Ok(match outcome {
            Hold::Held { amount } | Hold::Found { amount } => match afforded(amount) {
                Some(max_tokens) if least <= max_tokens => Sized::To { hold: amount, max_tokens },
                _ => Sized::TooSmall,
            },
            Hold::NoFunds => Sized::NoFunds,
            Hold::Fenced => Sized::Fenced,
        })
    }

    async fn try_hold(
        &self,
        turn: &Turn,
        rung: &Rung,
        amount: Micros,
    ) -> Result<Hold, StorageError> {
        let hold = HoldTurn {
            conversation_id: turn.claim.conversation_id,
            epoch: turn.claim.epoch,
            turn_id: turn.id,
            // A free answer takes the least amount: every turn has exactly one hold.
            amount: amount.max(Micros::new(1)),
            currency: turn.context.currency,
            model: rung.model.name.clone(),
        };
        let mut tx = self.store.begin(turn.claim.tenant_id).await?;
        let outcome = tx.hold_turn(&hold).await?;
        tx.commit().await?;
        Ok(outcome)
    }
}

const fn hold_word(hold: Hold) -> &'static str {
    match hold {
        Hold::Held { .. } => "held",
        Hold::Found { .. } => "found",
        Hold::Fenced => "fenced",
        Hold::NoFunds => "no_funds",
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
}

impl Listening {
    fn new(core: &Arc<Core>, turn: &Turn, stream: EventStream) -> Self {
        let typing = Typing::start(core, turn.claim.conversation_id, turn.id, turn.claim.epoch);
        let called = Instant::now();
        Self { stream, typing, text: String::new(), usage: None, made: 0, shown: 0, called }
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
    ) -> Generated {
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
        Generated::Answer(Box::new(Answer {
            text: self.text,
            stopped,
            model: rung.model.name.clone(),
            price: Arc::clone(&rung.price),
            hold,
            usage,
            delivered_tokens,
            end,
        }))
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
        }
    }
}

/// The person saw nothing of it, so the next rung may answer. Hopeless is what depends on the
/// request alone.
fn failed(error: &CallError) -> Tried {
    let hopeless = match error {
        CallError::Poison => true,
        CallError::Provider { kind, .. } => {
            matches!(kind, ErrorKind::BadRequest | ErrorKind::ContentFilter)
        }
        _ => false,
    };
    Tried::Next { detail: error.to_string(), hopeless }
}
