//! Hears a model's answer to a turn while it grows.

use std::{sync::Arc, time::Duration};

use metrics::histogram;
use qudao_domain::{Micros, state::EndReason};
use qudao_plugin_api::wire::{FinishReason, Usage};
use qudao_plugin_host::{CallError, Event, EventStream};
use qudao_telemetry::{Span, Trace};
use tokio::time::{self, Instant};

use super::{
    Turn,
    generate::{Answer, Rung},
    stop::StopListener,
    typing::Typing,
};
use crate::{
    Core,
    api::share,
    failpoint,
    routing::{ANSWERED, is_failure},
    spans,
};

/// How long a cancelled model may take to say what it used.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes per token of a prompt whose model did not say how many tokens it read.
const BYTES_PER_TOKEN: u32 = 4;

/// How a model's answer ended.
pub(super) enum Heard {
    End(FinishReason),
    Stop,
    Error(CallError),
}

impl Heard {
    /// For the decision's record.
    pub(super) fn outcome(&self, listener: &Listening) -> &'static str {
        match self {
            Self::End(_) if listener.text.trim().is_empty() => "empty",
            Self::End(_) => ANSWERED,
            Self::Stop if listener.text.is_empty() => "stopped",
            Self::Stop => ANSWERED,
            Self::Error(error) => error.class(),
        }
    }

    /// Whether the model is well, where that can be said.
    pub(super) fn verdict(&self, listener: &Listening) -> Option<bool> {
        match self {
            Self::End(_) => Some(true),
            Self::Stop => (listener.made != 0).then_some(true),
            Self::Error(error) => is_failure(error).then_some(false),
        }
    }
}

/// A model's answer while it grows.
pub(super) struct Listening {
    stream: EventStream,
    typing: Typing,
    pub(super) text: String,
    usage: Option<Usage>,
    /// Pieces that the model made, and those of them that were published.
    made: u32,
    shown: u32,
    called: Instant,
    /// How long the first word took.
    pub(super) first: Option<Duration>,
    span: Span,
}

impl Listening {
    pub(super) fn new(core: &Arc<Core>, turn: &Turn, stream: EventStream, span: Span) -> Self {
        let typing = Typing::start(core, turn.claim.conversation_id, turn.id, turn.claim.epoch);
        let called = Instant::now();
        Self {
            stream,
            typing,
            text: String::new(),
            usage: None,
            made: 0,
            shown: 0,
            called,
            first: None,
            span,
        }
    }

    pub(super) async fn hear(&mut self, stop: &StopListener) -> Heard {
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
                    let took = self.called.elapsed();
                    self.first = Some(took);
                    histogram!("qudao_model_first_token_seconds").record(took);
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

    pub(super) fn answer(
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
