//! Messages that arrive at about the same moment share a commit.

use std::sync::Arc;

use metrics::{counter, histogram};
use qudao_domain::TenantId;
use qudao_storage::{Accept, Inbound, StorageError};

use crate::{
    Core, failpoint,
    step::{Outcome, Pending, Step, Steps},
};

/// What became of a message, when that is known.
pub(super) type Stored = Pending<Arrival>;

/// Messages that may wait for a commit to begin; more are refused. A commit takes milliseconds: so
/// many wait only while the database does not answer.
pub(super) const WAITING: usize = 4096;

/// Those that wait to be stored.
pub(crate) type Arrivals = Steps<Arrival>;

/// A message of a tenant.
pub(crate) type Arrival = (TenantId, Inbound);

impl Step for Arrival {
    type Outcome = Accept;

    fn tenant(&self) -> TenantId {
        self.0
    }

    fn queue(core: &Core) -> &Arrivals {
        &core.arrivals
    }

    async fn take(core: &Core, messages: &[Self]) -> Result<Vec<Accept>, StorageError> {
        core.store.accept_together(messages).await
    }

    fn gathered() {
        failpoint!("accept.gathered");
    }

    /// Counts what was stored and wakes the workers, once for all of it.
    fn taken(core: &Arc<Core>, outcomes: &[Outcome<Self>]) {
        failpoint!("accept.committed");
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
            core.wake_turns();
        }
    }
}
