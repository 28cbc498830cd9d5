//! The boundary to messaging surfaces. Adapters depend on the core, the core on no adapter.

use async_trait::async_trait;
use qudao_domain::state::ChannelKind;
use qudao_storage::OutboxClaim;

/// A messaging surface that can take an outbound message.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Which messages it takes.
    fn kind(&self) -> ChannelKind;

    /// Hands one message to the other side. May be called twice for the same message after a
    /// crash: the outbox id is the key by which the other side recognises it.
    ///
    /// # Errors
    /// [`DeliverError`], which says whether another try can help.
    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError>;
}

/// The other side did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DeliverError {
    /// Whether another try can help. A permanent refusal buries the message.
    pub retryable: bool,
    /// What the other side said, for the operator.
    pub detail: String,
}
