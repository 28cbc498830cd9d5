//! An answer on its way to the caller, and what it costs whichever way it ends.

use std::{mem, sync::Arc, time::Duration};

use metrics::counter;
use qudao_billing::{Metered, settle};
use qudao_domain::{
    ApiKeyId, ChannelId, Micros, TurnId,
    state::{EndReason, FairCharging},
};
use qudao_plugin_api::wire::{ChatRequest, FinishReason, Usage};
use qudao_plugin_host::{CallError, Event, EventStream, ModelKind};
use qudao_storage::{PriceRow, Standing, UsageLine};
use qudao_telemetry::{Span, SpanKind, Trace};
use tokio::time;

use super::{
    ApiError, ApiEvent,
    admit::Pass,
    credit::{Grant, Lane},
    kept::{Ending, Keeping},
    parts::Parts,
    remark::{is_part, is_remark},
    route::{RoutedCall, Served},
};
use crate::{
    Core, failpoint,
    routing::{Permit, is_failure},
    spans,
};

mod begin;
mod served;

/// How long a cancelled model may take to say what it used.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes per token of a prompt whose model did not say how many tokens it read.
const BYTES_PER_TOKEN: u32 = 4;

/// An answer that has begun. Dropping it cancels the model and settles what was handed out; with
/// an idempotency key the answer is made to its end instead and kept.
pub struct ApiReply {
    // In its own place: it is handed on through many hands.
    call: Box<OpenCall>,
    standings: Vec<Standing>,
}

/// A call that has credits and must be closed exactly once: settled or released.
pub(super) struct OpenCall {
    core: Arc<Core>,
    lane: Arc<Lane>,
    turn_id: TurnId,
    /// When it began, in seconds since 1970.
    created: i64,
    /// Gone when the call is closed.
    grant: Option<Grant>,
    stream: Option<EventStream>,
    /// What came while the reply was opened.
    first: Option<Event>,
    bill: Bill,
    counts: Counts,
    /// The answer so far, where it is to be kept.
    keeping: Option<Keeping>,
    /// Which of several texts have been answered.
    parts: Parts,
    /// What the caller called the model.
    asked_as: String,
    /// What comes of it is told to the model's breaker.
    permit: Option<Permit>,
    /// What its route decided, if it named one, and what was asked, if a trial needs it.
    routed: Option<Box<RoutedCall>>,
    trial_ask: Option<ChatRequest>,
    /// From the call of the model to its first word.
    first_word: Option<Duration>,
    /// The caller is gone: what is handed out reaches nobody.
    left: bool,
    /// The whole call, and the model's part of it.
    pub(super) span: Span,
    chat: Span,
    /// Its place among the open calls, and the tokens that it may use.
    pass: Pass,
}

/// What a usage line is made of.
#[derive(Clone)]
pub(super) struct Bill {
    pub(super) channel_id: ChannelId,
    /// None where the platform itself asks, for a turn.
    pub(super) key_id: Option<ApiKeyId>,
    pub(super) policy: FairCharging,
    pub(super) model: String,
    pub(super) kind: ModelKind,
    pub(super) price: Arc<PriceRow>,
    pub(super) input_bound: u32,
    /// Whether the caller sees pieces. Otherwise only the whole answer is delivered.
    pub(super) streamed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Pieces that the model made.
    made: u32,
    /// Pieces of those that were handed to the caller.
    handed: u32,
    /// What the model said of itself, last.
    usage: Option<Usage>,
}

impl OpenCall {
    pub(super) fn new(
        core: Arc<Core>,
        lane: Arc<Lane>,
        grant: Grant,
        bill: Bill,
        keeping: Option<Keeping>,
        pass: Pass,
    ) -> Self {
        core.api.meters.called(bill.kind);
        let turn_id = keeping.as_ref().and_then(Keeping::turn_id).unwrap_or_else(TurnId::new);
        Self {
            created: core.clock.now().as_second(),
            core,
            lane,
            turn_id,
            grant: Some(grant),
            stream: None,
            first: None,
            bill,
            counts: Counts::default(),
            keeping,
            parts: Parts::default(),
            asked_as: String::new(),
            permit: None,
            routed: None,
            trial_ask: None,
            first_word: None,
            left: false,
            span: Span::silent(Trace::NONE),
            chat: Span::silent(Trace::NONE),
            pass,
        }
    }

    pub(super) const fn turn_id(&self) -> TurnId {
        self.turn_id
    }

    /// The same call under an id that its repetition has too: it is booked once.
    pub(super) fn known_as(mut self, id: TurnId) -> Self {
        self.turn_id = id;
        self
    }

    /// The same call, as its caller named it and as it was let through.
    pub(super) fn by(
        mut self,
        asked_as: &str,
        permit: Permit,
        routed: Option<Box<RoutedCall>>,
    ) -> Self {
        asked_as.clone_into(&mut self.asked_as);
        (self.permit, self.routed) = (Some(permit), routed);
        self
    }

    /// Nothing was served. The key is free again before the caller hears of it.
    async fn refuse(&mut self, error: CallError) -> ApiError {
        self.chat_failed(&error);
        self.release();
        if let Some(routed) = self.routed.take() {
            let ask = self.trial_ask.take();
            routed.close(&self.core, None, error.class(), false, ask);
        }
        if let Some(keeping) = self.keeping.take() {
            keeping.let_go().await;
        }
        error.into()
    }

    fn chat_failed(&mut self, error: &CallError) {
        self.chat.fail(error.class());
        self.span.fail(error.class());
    }

    /// Gives all credits back: nothing was served.
    fn release(&mut self) {
        self.stream = None;
        self.pass = Pass::default();
        if let Some(grant) = self.grant.take() {
            self.lane.give_back(grant, Micros::ZERO);
            self.lane.call_closed();
        }
    }

    /// Books the call. The receiver hears when that is durable; `None` if there is nothing to
    /// book.
    fn close(
        &mut self,
        end: EndReason,
        finish: Option<FinishReason>,
    ) -> Option<(Micros, tokio::sync::oneshot::Receiver<()>)> {
        let grant = self.grant.take()?;
        self.stream = None;
        let served = self.served();
        self.close_route(end, finish.is_some());
        let mut chat = mem::replace(&mut self.chat, Span::silent(Trace::NONE));
        spans::model_ended(&mut chat, end.as_str(), Some(self.bill.usage(self.counts)));
        chat.end();
        let mut line = self.bill.line(self.turn_id, self.counts, end, grant.amount);
        let charge = line.charge;
        if let Some(mut tokens) = self.pass.charge.take() {
            tokens.used(line.input_tokens.saturating_add(line.output_tokens));
        }
        if line.output_tokens == 0 && charge == Micros::ZERO && is_cut_short(end) {
            self.lane.give_back(grant, Micros::ZERO);
            self.lane.call_closed();
            return None;
        }
        if let Some(keeping) = self.keeping.take() {
            let ending = match finish {
                Some(finish_reason) => Ending::Whole {
                    created: self.created,
                    model: self.asked_as.clone(),
                    served,
                    finish_reason,
                    usage: self.bill.usage(self.counts),
                    charge,
                },
                None => Ending::BrokenOff { charge },
            };
            line.kept = keeping.finish(self.turn_id, ending);
        }
        Some((charge, self.core.settle(&self.lane, grant, line)))
    }

    async fn next(&mut self) -> Option<Result<ApiEvent, ApiError>> {
        loop {
            let event = match self.first.take() {
                Some(event) => event,
                None => {
                    let event = self.stream.as_mut()?.next().await;
                    let event = event.unwrap_or_else(broken_off);
                    self.counts.count(&event);
                    event
                }
            };
            let piece = match event {
                Event::Token { text, reasoning, .. } => ApiEvent::Delta { text, reasoning },
                Event::Data(delta) => match self.parts.take(&delta) {
                    Ok(()) => ApiEvent::Data(delta),
                    Err(error) => return Some(Err(self.break_off(error).await)),
                },
                Event::Usage(_) | Event::Progress(_) => continue,
                Event::End { finish_reason, .. } => {
                    return Some(match self.parts.whole() {
                        Ok(()) => self.end(finish_reason).await,
                        Err(error) => Err(self.break_off(error).await),
                    });
                }
                Event::Error(error) => return Some(Err(self.break_off(error).await)),
            };
            if !self.left && is_part(&piece) {
                self.counts.handed += 1;
            }
            if let (Some(routed), ApiEvent::Delta { text, reasoning: false }) =
                (&mut self.routed, &piece)
            {
                routed.note(text);
            }
            if let Some(keeping) = &mut self.keeping {
                keeping.note(&piece);
            }
            return Some(Ok(piece));
        }
    }

    async fn end(&mut self, finish_reason: FinishReason) -> Result<ApiEvent, ApiError> {
        failpoint!("call.ended");
        self.report(Some(true));
        let usage = self.bill.usage(self.counts);
        let mut charge = Micros::ZERO;
        if let Some((amount, settled)) = self.close(end_reason(finish_reason), Some(finish_reason))
        {
            charge = amount;
            let mut settling = Span::child("settle", SpanKind::Client, self.span.place());
            let patience = self.core.settings.api.settle.timeout;
            if !matches!(time::timeout(patience, settled).await, Ok(Ok(()))) {
                settling.fail("unsettled");
                return Err(ApiError::Unsettled);
            }
        }
        mem::replace(&mut self.span, Span::silent(Trace::NONE)).end();
        Ok(ApiEvent::End { finish_reason, usage, charge })
    }

    /// The model failed. Who may repeat the request under its key hears of it when it is known
    /// what the repetition will get.
    async fn break_off(&mut self, error: CallError) -> ApiError {
        self.chat_failed(&error);
        self.report(is_failure(&error).then_some(false));
        let keyed = self.keeping.is_some();
        match self.close(EndReason::Failed, None) {
            Some((_, settled)) if keyed => {
                let patience = self.core.settings.api.settle.timeout;
                let _ = time::timeout(patience, settled).await;
            }
            Some(_) => {}
            None => {
                if let Some(keeping) = self.keeping.take() {
                    keeping.let_go().await;
                }
            }
        }
        error.into()
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.grant.is_none() {
            return;
        }
        let Some(mut stream) = self.stream.take() else {
            // The model was never reached, or had not begun to answer.
            self.release();
            return;
        };
        counter!("qudao_api_aborted_total").increment(1);
        let mut rest = Self {
            core: Arc::clone(&self.core),
            lane: Arc::clone(&self.lane),
            turn_id: self.turn_id,
            created: self.created,
            grant: self.grant.take(),
            stream: None,
            first: self.first.take(),
            bill: self.bill.clone(),
            counts: self.counts,
            keeping: self.keeping.take(),
            parts: mem::take(&mut self.parts),
            asked_as: mem::take(&mut self.asked_as),
            permit: self.permit.take(),
            routed: self.routed.take(),
            trial_ask: self.trial_ask.take(),
            first_word: self.first_word,
            left: true,
            span: mem::replace(&mut self.span, Span::silent(Trace::NONE)),
            chat: mem::replace(&mut self.chat, Span::silent(Trace::NONE)),
            pass: mem::take(&mut self.pass),
        };
        rest.span.set("qudao.call.left", "yes");
        if rest.keeping.is_some() {
            // Who sends the request again under its key gets the whole answer.
            rest.stream = Some(stream);
            self.core.spawn(async move { while let Some(Ok(_)) = rest.next().await {} });
            return;
        }
        stream.cancel();
        self.core.spawn(async move {
            let last_words = async {
                while let Some(event) = stream.next().await {
                    rest.counts.count(&event);
                }
            };
            let _ = time::timeout(LAST_WORDS, last_words).await;
            rest.report((rest.counts.made != 0).then_some(true));
            drop(rest.close(EndReason::Cancelled, None));
        });
    }
}

impl ApiReply {
    /// The call's id, by which it is found in the usage.
    pub fn turn_id(&self) -> TurnId {
        self.call.turn_id
    }

    /// When it began, in seconds since 1970.
    pub fn created(&self) -> i64 {
        self.call.created
    }

    /// The model's name, as the caller gave it.
    pub fn model(&self) -> &str {
        &self.call.asked_as
    }

    /// Who serves it.
    pub fn served(&self) -> Served {
        self.call.served()
    }

    pub(super) fn with_standings(self, standings: Vec<Standing>) -> Self {
        Self { standings, ..self }
    }

    /// Where the call's allowances stand after it; empty where calls are not limited.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The next piece. `None` after [`ApiEvent::End`] or an error. The end comes when the call is
    /// settled durably.
    ///
    /// # Errors
    /// [`ApiError`] if the model broke off. What was handed out before is charged then as the
    /// tenant's policy says.
    pub async fn next(&mut self) -> Option<Result<ApiEvent, ApiError>> {
        self.call.next().await
    }
}

impl Counts {
    fn count(&mut self, event: &Event) {
        match event {
            Event::Data(delta) if is_remark(delta) => {}
            Event::Token { .. } | Event::Data(_) => self.made += 1,
            Event::Usage(usage) | Event::End { usage, .. } => self.usage = Some(*usage),
            Event::Progress(_) | Event::Error(_) => {}
        }
    }
}

impl Bill {
    /// What the model said, or what was seen of it. A model that was cancelled may end with
    /// zeros for want of a count; one that does not speak may well have written none.
    fn usage(&self, counts: Counts) -> Usage {
        let speaks = self.kind == ModelKind::Chat;
        let plausible = |usage: &Usage| !speaks || counts.made == 0 || usage.output_tokens != 0;
        counts.usage.filter(plausible).unwrap_or(Usage {
            input_tokens: self.input_bound / BYTES_PER_TOKEN,
            output_tokens: if speaks { counts.made } else { 0 },
        })
    }

    fn line(&self, turn_id: TurnId, counts: Counts, end: EndReason, hold: Micros) -> UsageLine {
        let Usage { input_tokens, output_tokens } = self.usage(counts);
        let delivered_tokens = if !is_cut_short(end) {
            output_tokens
        } else if self.streamed {
            share(output_tokens, counts.handed, counts.made)
        } else {
            0
        };
        let metered = Metered { input_tokens, output_tokens, delivered_tokens, end_reason: end };
        // An overflow is beyond any hold: the tenant pays the hold.
        let charge = settle(&self.price.rates(), self.policy, &metered, hold);
        let charge =
            charge.unwrap_or(qudao_billing::Charge { charge: hold, absorbed: Micros::ZERO });
        UsageLine {
            turn_id,
            channel_id: self.channel_id,
            api_key_id: self.key_id,
            conversation_id: None,
            model: self.model.clone(),
            price_version: self.price.version,
            input_tokens,
            output_tokens,
            delivered_tokens,
            charge: charge.charge,
            absorbed: charge.absorbed,
            currency: self.price.currency,
            policy: self.policy,
            end_reason: end,
            kept: None,
        }
    }
}

/// The part of `tokens` that went out when `handed` of `made` pieces did: a piece may hold more
/// than one token or less.
pub(crate) fn share(tokens: u32, handed: u32, made: u32) -> u32 {
    if made == 0 {
        return 0;
    }
    let part = u64::from(tokens) * u64::from(handed.min(made)) / u64::from(made);
    u32::try_from(part).unwrap_or(tokens)
}

fn broken_off() -> Event {
    Event::Error(CallError::Protocol("the stream ended without an end".to_owned()))
}

fn is_cut_short(end: EndReason) -> bool {
    matches!(end, EndReason::Cancelled | EndReason::Failed)
}

pub(crate) fn end_reason(finish: FinishReason) -> EndReason {
    match finish {
        FinishReason::Stop => EndReason::Stop,
        FinishReason::Length => EndReason::Length,
        FinishReason::ToolCalls => EndReason::ToolCalls,
        FinishReason::ContentFilter => EndReason::ContentFilter,
        FinishReason::Cancelled => EndReason::Cancelled,
    }
}
