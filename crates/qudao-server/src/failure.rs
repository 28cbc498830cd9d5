//! How the failures of the layers below look from outside: the one place that decides.

use std::time::Duration;

use qudao_channels::host::{ConnectError, HostError};
use qudao_core::{AcceptError, AuthError, TooFast, channel::setup::SetupError};
use qudao_plugin_api::wire::ErrorKind;
use qudao_storage::StorageError;

use crate::{code::Code, error::ApiError};

/// After this a client may ask again when a service is away.
const RECOVERY: Duration = Duration::from_secs(2);
/// After this a client may ask again when a model is loading or busy.
const MODEL_RECOVERY: Duration = Duration::from_secs(5);
/// After this a sender may try again when too many messages wait for an answer.
const BACKLOG: Duration = Duration::from_secs(5);
/// After this a client may ask again when it was turned away because too much is under way.
pub(crate) const SHED: Duration = Duration::from_secs(1);

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        Self::from(&error)
    }
}

impl From<&StorageError> for ApiError {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::Unavailable(_)
            | StorageError::Timeout(_)
            | StorageError::Locked(_)
            | StorageError::Contended(_) => {
                tracing::warn!(%error, "the database did not serve a request");
                unavailable()
            }
            StorageError::Conflict { .. } => Self::new(Code::Conflict, "it exists already"),
            StorageError::MissingParent { .. } => {
                Self::new(Code::ValidationFailed, "something that it refers to does not exist")
            }
            StorageError::BadCursor => {
                Self::new(Code::InvalidCursor, "the cursor was not made by this list")
            }
            // The enum may grow; what this crate does not know is not the client's fault.
            error => {
                tracing::error!(%error, "the database refused a request");
                Self::new(Code::Internal, "the request could not be served")
            }
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        tracing::warn!(%error, "a key could not be checked");
        unavailable()
    }
}

impl From<TooFast> for ApiError {
    fn from(too_fast: TooFast) -> Self {
        let refusal = Self::new(Code::RateLimited, too_fast.to_string());
        refusal.retry_after(too_fast.retry_after).standings(too_fast.standings)
    }
}

impl From<&SetupError> for ApiError {
    fn from(error: &SetupError) -> Self {
        match error {
            SetupError::Storage(error) => error.into(),
            error => {
                tracing::error!(%error, "a channel's secrets cannot be read");
                Self::new(Code::Internal, "the channel's secrets cannot be read")
            }
        }
    }
}

impl From<SetupError> for ApiError {
    fn from(error: SetupError) -> Self {
        Self::from(&error)
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Setup(error) => error.as_ref().into(),
            HostError::Storage(error) => error.into(),
            // The channel was there a moment ago, or is of a kind that has no adapter.
            _ => Self::not_found("channel"),
        }
    }
}

impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(why) => Self::new(Code::ChannelRefused, why),
            ConnectError::Host(error) => error.into(),
            error => {
                tracing::error!(%error, "a channel was not connected");
                Self::new(Code::Internal, "the channel could not be connected")
            }
        }
    }
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::NoFunds => {
                Self::new(Code::InsufficientCredits, "this service has no credits left")
            }
            AcceptError::ChannelClosed => Self::new(Code::ChannelClosed, "the channel is closed"),
            AcceptError::TenantBacklog => {
                let detail = "this service has too many messages to answer";
                Self::new(Code::RateLimited, detail).retry_after(BACKLOG)
            }
            AcceptError::PlatformBacklog => {
                let detail = "too many messages wait for an answer";
                Self::new(Code::Overloaded, detail).retry_after(BACKLOG)
            }
            AcceptError::Storage(error) => error.as_ref().into(),
            AcceptError::ShuttingDown => {
                Self::new(Code::Draining, "this node is shutting down").retry_after(RECOVERY)
            }
        }
    }
}

impl From<qudao_core::ApiError> for ApiError {
    fn from(error: qudao_core::ApiError) -> Self {
        use qudao_core::ApiError as Failure;
        let detail = error.to_string();
        match error {
            Failure::InvalidParameter { param, detail } => Self::field(format!("/{param}"), detail),
            Failure::UnknownModel { .. } | Failure::NoPrice { .. } => {
                Self::new(Code::ModelNotFound, detail)
            }
            Failure::WrongKind { .. } => Self::new(Code::WrongModelKind, detail),
            Failure::RateLimited(too_fast) => too_fast.into(),
            Failure::TenantBusy => Self::new(Code::RateLimited, detail).retry_after(SHED),
            Failure::Overloaded => Self::new(Code::Overloaded, detail).retry_after(SHED),
            Failure::InsufficientCredits => Self::new(Code::InsufficientCredits, detail),
            Failure::Unavailable { .. } => {
                Self::new(Code::ModelNotReady, detail).retry_after(MODEL_RECOVERY)
            }
            Failure::LeftAlone { rest, .. } => {
                Self::new(Code::ModelUnavailable, detail).retry_after(rest)
            }
            Failure::Provider { kind, message, retry_after, .. } => {
                provider(kind, message, retry_after)
            }
            Failure::Timeout => Self::new(Code::ModelTimeout, detail),
            Failure::ModelFailed { .. } => Self::new(Code::ModelFailed, detail),
            Failure::Storage | Failure::Unsettled => {
                Self::new(Code::Unavailable, detail).retry_after(RECOVERY)
            }
        }
    }
}

/// The caller learns the provider's words only where the caller can act on them: a wrong key or a
/// wrong model name is the operator's affair, and the words may hold parts of the key.
fn provider(kind: ErrorKind, message: String, retry_after: Option<Duration>) -> ApiError {
    match kind {
        ErrorKind::Auth | ErrorKind::UnknownModel => {
            // The words are in the report of the model, for the operator.
            tracing::error!(?kind, "a model's provider refuses the platform");
            ApiError::new(Code::ProviderMisconfigured, "the model's provider refused the platform")
        }
        ErrorKind::RateLimited => {
            ApiError::new(Code::RateLimited, "the model's provider asks to slow down")
                .retry_after(retry_after.unwrap_or(MODEL_RECOVERY))
        }
        ErrorKind::Unavailable => {
            ApiError::new(Code::Unavailable, "the model's provider is not available")
                .retry_after(retry_after.unwrap_or(MODEL_RECOVERY))
        }
        ErrorKind::BadRequest => ApiError::new(Code::ValidationFailed, message),
        ErrorKind::Timeout => ApiError::new(Code::ModelTimeout, "the model took too long"),
        ErrorKind::ContentFilter => ApiError::new(Code::ContentFiltered, message),
        ErrorKind::Overloaded => ApiError::new(Code::Overloaded, "the model is busy")
            .retry_after(retry_after.unwrap_or(MODEL_RECOVERY)),
        ErrorKind::Internal => {
            tracing::warn!("a model failed");
            ApiError::new(Code::ModelFailed, "the model failed")
        }
    }
}

fn unavailable() -> ApiError {
    ApiError::new(Code::Unavailable, "the database is not available").retry_after(RECOVERY)
}
