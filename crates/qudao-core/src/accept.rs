//! T1: a message is durable before anyone is told that it arrived.

use std::sync::Arc;

use qudao_domain::{ConversationId, TenantId};
use qudao_storage::{Accept, Inbound, StorageError, Topic};
use qudao_telemetry::{Span, SpanKind, Trace};
use tokio::time::Instant;

use crate::{Core, faults::seeded_bug, spans};

mod pieces;
mod together;

pub use pieces::{Joined, Piece};
pub(crate) use together::Arrivals;
use together::Stored;

/// An accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The thread it belongs to.
    pub conversation_id: ConversationId,
    /// Its place in the thread, from 1.
    pub seq: i64,
    /// The same message had been accepted before; nothing was changed.
    pub duplicate: bool,
}

/// Why a message was not accepted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The tenant has no credits left.
    #[error("the tenant has no credits left")]
    NoFunds,
    /// The channel is unknown, closed, or another tenant's.
    #[error("the channel is closed or unknown")]
    ChannelClosed,
    /// Too many messages of the tenant wait for an answer.
    #[error("too many messages wait for an answer of this tenant")]
    TenantBacklog,
    /// Too many messages of all tenants wait for an answer.
    #[error("too many messages wait for an answer")]
    PlatformBacklog,
    /// The database did not answer; the sender may try again with the same id.
    #[error("the message could not be stored")]
    Storage(#[from] Arc<StorageError>),
    /// The platform is shutting down.
    #[error("the platform is shutting down")]
    ShuttingDown,
}

impl Core {
    /// Accepts a message. When this returns, the message is durable and a worker knows of it.
    ///
    /// # Errors
    /// [`AcceptError`]; nothing was changed then, and the same message may be sent again.
    pub async fn accept(
        self: &Arc<Self>,
        tenant_id: TenantId,
        inbound: Inbound,
    ) -> Result<Accepted, AcceptError> {
        self.accept_from(tenant_id, inbound, Trace::NONE).await
    }

    /// As [`Core::accept`]. `origin` is the request that brought the message; the trace of the
    /// message's turn, which its acceptance begins, points to it.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept_from(
        self: &Arc<Self>,
        tenant_id: TenantId,
        inbound: Inbound,
        origin: Trace,
    ) -> Result<Accepted, AcceptError> {
        if self.tasks.is_closed() {
            return Err(AcceptError::ShuttingDown);
        }
        self.has_room(tenant_id)?;
        if together::WAITING <= self.arrivals.waiting() {
            return Err(AcceptError::PlatformBacklog);
        }
        let began = Instant::now();
        // The commit goes on in a task of its own: a dropped connection must not stop it half way.
        let stored = self.store_message(tenant_id, inbound);
        let accept = stored.await.map_err(|_| AcceptError::ShuttingDown)??;
        self.accepted(tenant_id, accept, began, origin)
    }

    /// What is said of a message that was stored, or why it was not.
    fn accepted(
        &self,
        tenant_id: TenantId,
        accept: Accept,
        began: Instant,
        origin: Trace,
    ) -> Result<Accepted, AcceptError> {
        match accept {
            Accept::New { conversation_id, seq } => {
                // What a turn of its own would be: only now is it known which.
                let trace = spans::trace_of(conversation_id, seq);
                let mut span = Span::first("accept", SpanKind::Producer, trace);
                span.backdate(began.elapsed());
                span.link(origin);
                span.end();
                self.backlog.add(tenant_id);
                Ok(Accepted { conversation_id, seq, duplicate: false })
            }
            Accept::Duplicate { conversation_id, seq } => {
                Ok(Accepted { conversation_id, seq, duplicate: true })
            }
            Accept::NoFunds => Err(AcceptError::NoFunds),
            Accept::ChannelClosed => Err(AcceptError::ChannelClosed),
        }
    }

    fn store_message(self: &Arc<Self>, tenant_id: TenantId, inbound: Inbound) -> Stored {
        seeded_bug!("ack_before_commit", self.store_later(tenant_id, inbound));
        self.with_others((tenant_id, inbound))
    }

    /// The seeded bug: answers from a transaction that is committed later. Whoever tries it kills the
    /// node as soon as the sender has its answer.
    #[cfg(feature = "failpoints")]
    fn store_later(self: &Arc<Self>, tenant_id: TenantId, inbound: Inbound) -> Stored {
        let (stored, outcome) = tokio::sync::oneshot::channel();
        let core = Arc::clone(self);
        self.spawn(async move {
            let mut tx = core.store.begin(tenant_id).await?;
            let _ = stored.send(Ok(tx.accept(&inbound).await?));
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            tx.commit().await
        });
        outcome
    }

    /// Tells the workers of this and other nodes that a conversation is ready.
    pub fn wake_turns(self: &Arc<Self>) {
        self.wake.turns.notify_one();
        let core = Arc::clone(self);
        self.spawn(async move { core.bus.publish(&Topic::WakeTurns, core.signature()).await });
    }

    /// Tells the senders of this and other nodes that an outbound message is ready.
    pub fn wake_outbox(self: &Arc<Self>) {
        self.wake.outbox.notify_one();
        let core = Arc::clone(self);
        self.spawn(async move { core.bus.publish(&Topic::WakeOutbox, core.signature()).await });
    }

    /// What a hint of this node carries, so that the node does not follow it a second time when it
    /// comes back over the bus.
    pub fn signature(&self) -> Vec<u8> {
        self.node.as_uuid().as_bytes().to_vec()
    }
}
