//! A call and the stream of events that answers it.

use std::{sync::Arc, time::Duration};

use qudao_plugin_api::wire::{ErrorKind, FinishReason, Usage};
use qudao_telemetry::{Span, Trace};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{flight::Flight, instance::Instance, report::ModelState, settings::ModelKind};

/// One request to a model.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked.
    pub kind: ModelKind,
    /// JSON that names its schema.
    pub payload: Vec<u8>,
    /// The caller gives up after this long, or earlier if the instance's limit is lower.
    pub timeout: Duration,
    /// Where in which trace it is made; the plugin is told as a W3C `traceparent`.
    pub trace: Trace,
}

/// What comes of a call: any number of events, then exactly one `End` or `Error`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Text.
    Token {
        /// Never empty, never a part of a character.
        text: String,
        /// Belongs to the reasoning, not to the answer.
        reasoning: bool,
        /// The vocabulary's id, or 0.
        token_id: u32,
        /// Natural logarithm of the probability, or 0.
        logprob: f32,
    },
    /// A JSON delta, as `{"tool_calls":[…]}`.
    Data(Value),
    /// What was consumed so far.
    Usage(Usage),
    /// A line for the operator.
    Progress(String),
    /// The answer is complete.
    End {
        /// Why it ended.
        finish_reason: FinishReason,
        /// What was consumed.
        usage: Usage,
    },
    /// There is no more.
    Error(CallError),
}

/// Why a call has no complete answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// No instance serves it.
    #[error("no instance serves the model {0}")]
    UnknownModel(String),
    /// The model does something else.
    #[error("the model {model} {}: it is no {} model", offers.deed(), asked.as_str())]
    WrongKind {
        /// Which one.
        model: String,
        /// What it does.
        offers: ModelKind,
        /// What it was asked to do.
        asked: ModelKind,
    },
    /// Try again later, or another model.
    #[error("the model is not ready: {state:?}")]
    NotReady {
        /// What it does instead.
        state: ModelState,
    },
    /// As many requests as allowed are under way.
    #[error("the model has no room for another request")]
    Overloaded,
    /// The same request crashed the plugin twice.
    #[error("this request crashed the plugin before and is refused")]
    Poison,
    /// The plugin's process ended.
    #[error("the plugin's process ended{}", signal.map_or_else(String::new, |s| format!(" by signal {s}")))]
    Crashed {
        /// What killed it.
        signal: Option<i32>,
        /// Whether any of the answer had come.
        delivered: bool,
    },
    /// A watchdog ended it.
    #[error("the model took too long: {which:?}")]
    Timeout {
        /// Which one.
        which: TimeoutKind,
    },
    /// The plugin says what is wrong.
    #[error("{message}")]
    Provider {
        /// What kind of failure.
        kind: ErrorKind,
        /// For the operator.
        message: String,
        /// The provider's HTTP status.
        status: Option<u16>,
        /// When to try again.
        retry_after_ms: Option<u64>,
    },
    /// The plugin broke the rules of the stream.
    #[error("the plugin broke the protocol: {0}")]
    Protocol(String),
    /// The caller cancelled, and the plugin ended without a word.
    #[error("cancelled")]
    Cancelled,
}

impl CallError {
    /// What kind of failure, as a word of a closed set: for metrics and spans, which must not
    /// carry what a provider says.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::UnknownModel(_) => "unknown_model",
            Self::WrongKind { .. } => "wrong_kind",
            Self::NotReady { .. } => "not_ready",
            Self::Overloaded => "overloaded",
            Self::Poison => "poison",
            Self::Crashed { .. } => "crashed",
            Self::Timeout { .. } => "timeout",
            Self::Provider { kind, .. } => match kind {
                ErrorKind::Auth => "provider_auth",
                ErrorKind::UnknownModel => "provider_unknown_model",
                ErrorKind::RateLimited => "provider_rate_limited",
                ErrorKind::Unavailable => "provider_unavailable",
                ErrorKind::BadRequest => "provider_bad_request",
                ErrorKind::Timeout => "provider_timeout",
                ErrorKind::ContentFilter => "provider_content_filter",
                ErrorKind::Overloaded => "provider_overloaded",
                ErrorKind::Internal => "provider_internal",
            },
            Self::Protocol(_) => "protocol",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutKind {
    /// No event came.
    FirstToken,
    /// The stream stopped.
    BetweenTokens,
    /// The whole took too long.
    Total,
}

/// The events of one call. Dropping it cancels the call.
pub struct EventStream {
    pub(crate) flight: Arc<Flight>,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) consumed: u32,
    pub(crate) over: bool,
    pub(crate) instance: Arc<Instance>,
    /// The call as the host saw it; over with the last event.
    pub(crate) span: Span,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("over", &self.over).finish_non_exhaustive()
    }
}

impl EventStream {
    pub(crate) fn new(
        instance: Arc<Instance>,
        flight: Arc<Flight>,
        events: UnboundedReceiver<Event>,
        span: Span,
    ) -> Self {
        Self { flight, events, consumed: 0, over: false, instance, span }
    }

    /// The next event; `None` after `End` or `Error`. May be dropped at any time.
    pub async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.events.recv().await;
        self.after(event)
    }

    /// As [`EventStream::next`], for a thread outside of any runtime.
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.events.blocking_recv();
        self.after(event)
    }

    fn after(&mut self, event: Option<Event>) -> Option<Event> {
        match event {
            Some(Event::End { .. } | Event::Error(_)) | None => self.end(event.as_ref()),
            Some(_) => {
                self.consumed += 1;
                if self.flight.window.div_ceil(2) <= self.consumed {
                    self.flight.grant(self.consumed);
                    self.consumed = 0;
                }
            }
        }
        event
    }

    fn end(&mut self, event: Option<&Event>) {
        self.over = true;
        let mut span = std::mem::replace(&mut self.span, Span::silent(Trace::NONE));
        if let Some(Event::Error(error)) = event {
            span.fail(error.class());
            self.instance.last_failure.note(&self.instance.settings.name, error);
        }
    }

    /// Asks the plugin to stop; the stream still ends with `End` or `Error`.
    pub fn cancel(&self) {
        self.flight.cancel();
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.over {
            self.span.set("qudao.plugin.end", "abandoned");
            self.flight.abandon();
        }
    }
}
