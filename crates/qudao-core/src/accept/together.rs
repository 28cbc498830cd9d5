//! Messages that arrive at about the same moment share a commit. Nobody waits for company: a message
//! that comes while nothing is being committed goes at once, and what comes meanwhile goes next.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{counter, histogram};
use qudao_domain::TenantId;
use qudao_storage::{Accept, Inbound, StorageError};
use tokio::sync::oneshot;

use crate::{Core, failpoint};

/// Commits under way at a time: while one waits for the disk, another is written.
const COMMITS: usize = 2;
/// Messages of one commit, at most.
const BATCH: usize = 64;

/// What became of a message. The error is that of all who shared a statement.
pub(super) type Outcome = Result<Accept, Arc<StorageError>>;

/// What became of it, when that is known.
pub(super) type Stored = oneshot::Receiver<Outcome>;

/// Those that wait to be stored.
#[derive(Default)]
pub(crate) struct Arrivals {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Arrival>,
    commits: usize,
}

struct Arrival {
    message: (TenantId, Inbound),
    stored: oneshot::Sender<Outcome>,
}

impl Arrivals {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next ones, or `None` after the last: whoever comes then begins a commit.
    fn next(&self) -> Option<Vec<Arrival>> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.commits -= 1;
            return None;
        }
        let rest = queue.waiting.len().min(BATCH);
        let rest = queue.waiting.split_off(rest);
        Some(mem::replace(&mut queue.waiting, rest))
    }
}

impl Core {
    /// Stores a message with others. It goes on even if nobody waits for the answer, which comes
    /// when the message is durable.
    pub(super) fn store_with_others(
        self: &Arc<Self>,
        tenant_id: TenantId,
        inbound: Inbound,
    ) -> Stored {
        let (stored, outcome) = oneshot::channel();
        let mut queue = self.arrivals.queue();
        queue.waiting.push(Arrival { message: (tenant_id, inbound), stored });
        let begin = queue.commits < COMMITS;
        queue.commits += usize::from(begin);
        drop(queue);
        if begin {
            let core = Arc::clone(self);
            self.spawn(async move {
                while let Some(arrivals) = core.arrivals.next() {
                    core.store_all(arrivals).await;
                }
            });
        }
        outcome
    }

    async fn store_all(self: &Arc<Self>, arrivals: Vec<Arrival>) {
        failpoint!("accept.gathered");
        let (messages, waiting): (Vec<_>, Vec<_>) =
            arrivals.into_iter().map(|arrival| (arrival.message, arrival.stored)).unzip();
        let outcomes = match self.store.accept_together(&messages).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            // One of them was refused; the others are not to blame.
            Err(error) if 1 < messages.len() && !matches!(error, StorageError::Unavailable(_)) => {
                self.store_each(&messages).await
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
        if new != 0 {
            self.wake_turns();
        }
    }
}
