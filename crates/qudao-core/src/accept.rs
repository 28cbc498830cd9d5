//! T1: a message is durable before anyone is told that it arrived.

use std::sync::Arc;

use metrics::counter;
use qudao_domain::{ConversationId, TenantId};
use qudao_storage::{Accept, Inbound, StorageError, Topic, Tx};

use crate::{Core, failpoint, faults::seeded_bug};

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
    Storage(#[from] StorageError),
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
        if self.tasks.is_closed() {
            return Err(AcceptError::ShuttingDown);
        }
        self.has_room(tenant_id)?;
        let core = Arc::clone(self);
        // A task of its own: a dropped connection must not stop a commit half way.
        let work = self.spawn(async move { core.accept_now(tenant_id, &inbound).await });
        work.await.unwrap_or(Err(AcceptError::ShuttingDown))
    }

    async fn accept_now(
        self: &Arc<Self>,
        tenant_id: TenantId,
        inbound: &Inbound,
    ) -> Result<Accepted, AcceptError> {
        let mut tx = self.store.begin(tenant_id).await?;
        let accept = tx.accept(inbound).await?;
        failpoint!("accept.written");
        self.commit_accepted(tx).await?;
        failpoint!("accept.committed");
        let (conversation_id, seq, duplicate) = match accept {
            Accept::New { conversation_id, seq } => (conversation_id, seq, false),
            Accept::Duplicate { conversation_id, seq } => (conversation_id, seq, true),
            Accept::NoFunds => return Err(AcceptError::NoFunds),
            Accept::ChannelClosed => return Err(AcceptError::ChannelClosed),
        };
        counter!("qudao_messages_accepted_total", "duplicate" => if duplicate { "yes" } else { "no" })
            .increment(1);
        if !duplicate {
            self.backlog.add(tenant_id);
            self.wake_turns();
        }
        Ok(Accepted { conversation_id, seq, duplicate })
    }

    async fn commit_accepted(self: &Arc<Self>, tx: Tx) -> Result<(), StorageError> {
        seeded_bug!("ack_before_commit", {
            self.spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                tx.commit().await
            });
            Ok(())
        });
        tx.commit().await
    }

    /// Tells the workers of this and other nodes that a conversation is ready.
    pub fn wake_turns(self: &Arc<Self>) {
        self.wake.turns.notify_one();
        let core = Arc::clone(self);
        self.spawn(async move { core.bus.publish(&Topic::WakeTurns, Vec::new()).await });
    }

    /// Tells the senders of this and other nodes that an outbound message is ready.
    pub fn wake_outbox(self: &Arc<Self>) {
        self.wake.outbox.notify_one();
        let core = Arc::clone(self);
        self.spawn(async move { core.bus.publish(&Topic::WakeOutbox, Vec::new()).await });
    }
}
