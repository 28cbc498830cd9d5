//! The path of API calls: no commit stands before the first token.
//!
//! A call spends from credits that its node reserved from the wallet before ([`credit`]), and is
//! settled together with others ([`settle`]) before its last event is handed out.

use std::{net::IpAddr, time::Duration};

use qudao_domain::Micros;
use qudao_plugin_api::wire::{Ask, ErrorKind, FinishReason, Usage};
use qudao_plugin_host::{CallError, ModelKind};
use qudao_telemetry::Trace;
use serde_json::Value;

use crate::rates::TooFast;

mod admit;
mod aside;
mod asked;
mod credit;
mod flight;
mod kept;
mod parts;
mod remark;
mod reply;
mod route;
mod settle;
pub(crate) mod upkeep;

pub use flight::CallSlot;
pub use kept::{Answered, KeptAnswer};
pub use reply::ApiReply;
pub use route::{Served, ServedBy};

pub(crate) use admit::ApiState;
pub(crate) use aside::Aside;
pub(crate) use reply::{end_reason, share};

/// A call as it came in, with the parameters that the models do not see.
#[derive(Debug)]
pub struct ApiRequest {
    /// What the model shall answer. `model` names one of the tenant's models.
    pub ask: Ask,
    /// How many answers of a chat the caller wants; only one is served.
    pub choices: Option<u32>,
    /// Whether the caller reads the answer piece by piece. Otherwise nothing counts as delivered
    /// until the answer is whole.
    pub stream: bool,
    /// Where in which trace it is made.
    pub trace: Trace,
    /// Where it comes from, if it comes from outside.
    pub address: Option<IpAddr>,
    /// The place that it took when it came in; `None` for a call that needs none.
    pub slot: Option<CallSlot>,
}

/// One piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiEvent {
    /// More text.
    Delta {
        /// The text.
        text: String,
        /// Part of the model's reasoning, not of the answer.
        reasoning: bool,
    },
    /// A JSON delta other than text, such as `{"tool_calls":[…]}`, and all that models say which do not
    /// chat.
    Data(Value),
    /// The answer is whole and settled. Nothing follows.
    End {
        /// Why the model stopped.
        finish_reason: FinishReason,
        /// What the model read and wrote.
        usage: Usage,
        /// What the tenant paid.
        charge: Micros,
    },
}

/// Why a call was refused or broke off.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// A parameter that is not served or out of range.
    #[error("{detail}")]
    InvalidParameter {
        /// The parameter's name on the wire.
        param: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Not one of the tenant's models.
    #[error("the model `{model}` does not exist or you do not have access to it")]
    UnknownModel {
        /// What was asked for.
        model: String,
    },
    /// The model does something else.
    #[error("the model `{model}` {}: it is no {} model", offers.deed(), asked.as_str())]
    WrongKind {
        /// What was asked for.
        model: String,
        /// What it does.
        offers: ModelKind,
        /// What it was asked to do.
        asked: ModelKind,
    },
    /// The model has no price in the tenant's currency, so it must not be sold.
    #[error("the model `{model}` has no price in your currency")]
    NoPrice {
        /// What was asked for.
        model: String,
    },
    /// The key, its tenant or its address made too many calls.
    #[error(transparent)]
    RateLimited(#[from] TooFast),
    /// The tenant has as many calls open as it may have.
    #[error("too many calls of this tenant are under way")]
    TenantBusy,
    /// The node has as many calls open as it bears.
    #[error("too many calls are under way")]
    Overloaded,
    /// The wallet does not cover the call. No model was called.
    #[error("the tenant's credits do not cover this call")]
    InsufficientCredits,
    /// The model is loading, broken, or too busy.
    #[error("the model is not available: {detail}")]
    Unavailable {
        /// What is the matter.
        detail: String,
    },
    /// The model failed too often: it is left alone, and tried again after a while.
    #[error("the model `{model}` failed too often and is left alone for now")]
    LeftAlone {
        /// Which.
        model: String,
        /// When it is tried again; zero while others try it.
        rest: Duration,
    },
    /// The model's provider refused or failed.
    #[error("{message}")]
    Provider {
        /// What kind of failure.
        kind: ErrorKind,
        /// The provider's words.
        message: String,
        /// The provider's HTTP status.
        status: Option<u16>,
        /// When the provider asks to be called again.
        retry_after: Option<Duration>,
    },
    /// The model took too long.
    #[error("the model took too long")]
    Timeout,
    /// The model broke off or broke its protocol.
    #[error("the model failed: {detail}")]
    ModelFailed {
        /// What happened.
        detail: String,
    },
    /// The database did not answer.
    #[error("the platform could not reach its database")]
    Storage,
    /// The answer is whole but its settlement has not been confirmed in time. It goes on.
    #[error("the settlement of this call was not confirmed in time")]
    Unsettled,
}

impl ApiError {
    /// What kind of failure, as a word of a closed set: for spans, which must not carry what a
    /// caller or a provider says.
    pub(crate) const fn class(&self) -> &'static str {
        match self {
            Self::InvalidParameter { .. } => "invalid_parameter",
            Self::UnknownModel { .. } => "unknown_model",
            Self::WrongKind { .. } => "wrong_kind",
            Self::NoPrice { .. } => "no_price",
            Self::RateLimited { .. } => "rate_limited",
            Self::TenantBusy => "tenant_busy",
            Self::Overloaded => "overloaded",
            Self::InsufficientCredits => "insufficient_credits",
            Self::Unavailable { .. } => "unavailable",
            Self::LeftAlone { .. } => "breaker_open",
            Self::Provider { .. } => "provider",
            Self::Timeout => "timeout",
            Self::ModelFailed { .. } => "model_failed",
            Self::Storage => "storage",
            Self::Unsettled => "unsettled",
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let unavailable = |detail: &str| Self::Unavailable { detail: detail.to_owned() };
        match error {
            CallError::UnknownModel(_) => unavailable("no plugin offers it"),
            CallError::WrongKind { model, offers, asked } => {
                Self::WrongKind { model, offers, asked }
            }
            CallError::NotReady { .. } => unavailable("it is not ready"),
            CallError::Overloaded => unavailable("it is busy"),
            CallError::Timeout { .. } => Self::Timeout,
            CallError::Provider { kind, message, status, retry_after_ms } => {
                let retry_after = retry_after_ms.map(Duration::from_millis);
                Self::Provider { kind, message, status, retry_after }
            }
            CallError::Crashed { .. } => Self::ModelFailed { detail: "it crashed".to_owned() },
            CallError::Poison => Self::ModelFailed {
                detail: "this request crashed it before and is not tried again".to_owned(),
            },
            CallError::Protocol(detail) => Self::ModelFailed { detail },
            CallError::Cancelled => Self::ModelFailed { detail: "it was cancelled".to_owned() },
        }
    }
}
