//! Messages that arrive at about the same moment share a commit.

use std::sync::Arc;

use metrics::{counter, histogram};
use qudao_domain::TenantId;
use qudao_storage::{Accept, Inbound, StorageError};
use tokio::sync::oneshot;

use crate::{Core, failpoint, together::Together};

/// What became of a message. The error is that of all who shared a statement.
pub(super) type Outcome = Result<Accept, Arc<StorageError>>;

/// What became of it, when that is known.
pub(super) type Stored = oneshot::Receiver<Outcome>;

/// Messages that may wait for a commit to begin; more are refused. A commit takes milliseconds: so
/// many wait only while the database does not answer.
pub(super) const WAITING: usize = 4096;

/// Those that wait to be stored.
pub(crate) type Arrivals = Together<(TenantId, Inbound), Outcome>;

impl Core {
    /// Stores a message with others. It goes on even if nobody waits for the answer, which comes
    /// when the message is durable.
    pub(super) fn store_with_others(
        self: &Arc<Self>,
        tenant_id: TenantId,
        inbound: Inbound,
    ) -> Stored {
        let (stored, leader) = self.arrivals.add((tenant_id, inbound));
        if let Some(mut leader) = leader {
            let core = Arc::clone(self);
            self.spawn(async move {
                while let Some((messages, waiting)) = leader.next_batch() {
                    core.store_all(&messages, waiting).await;
                    // They were not told that it is stored, and send it again.
                    leader.forget_the_gone();
                }
            });
        }
        stored
    }

    async fn store_all(
        self: &Arc<Self>,
        messages: &[(TenantId, Inbound)],
        waiting: Vec<oneshot::Sender<Outcome>>,
    ) {
        failpoint!("accept.gathered");
        let outcomes = match self.store.accept_together(messages).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            // One of them was refused; the others are not to blame. What all of them met, such as a
            // database that takes too long, would be met again by each.
            Err(error) if 1 < messages.len() && !error.is_transient() => {
                self.store_each(messages).await
            }
            Err(error) => vec![Err(Arc::new(error)); messages.len()],
        };
        failpoint!("accept.committed");
        self.announce(&outcomes);
        for (stored, outcome) in waiting.into_iter().zip(outcomes) {
            // A sender who is gone sends again.
            let _ = stored.send(outcome);
        }
    }

    async fn store_each(&self, messages: &[(TenantId, Inbound)]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            let stored = self.store.accept_together(std::slice::from_ref(message)).await;
            outcomes.push(stored.map(|answers| answers[0]).map_err(Arc::new));
        }
        outcomes
    }

    /// Counts what was stored and wakes the workers, once for all of it.
    fn announce(self: &Arc<Self>, outcomes: &[Outcome]) {
        let count = |wanted: fn(&Accept) -> bool| {
            outcomes.iter().flatten().filter(|accept| wanted(accept)).count()
        };
        let new = count(|accept| matches!(accept, Accept::New { .. }));
        let known = count(|accept| matches!(accept, Accept::Duplicate { .. }));
        for (duplicate, messages) in [("no", new), ("yes", known)] {
            counter!("qudao_messages_accepted_total", "duplicate" => duplicate)
                .increment(messages as u64);
        }
        #[expect(clippy::cast_precision_loss, reason = "a histogram needs no more")]
        histogram!("qudao_accept_batch_messages").record(outcomes.len() as f64);
        // A repetition of the statement finds what the first try stored.
        if new + known != 0 {
            self.wake_turns();
        }
    }
}
