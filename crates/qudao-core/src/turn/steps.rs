//! The steps of turns that are taken with those of other turns.

use std::sync::Arc;

use qudao_domain::TenantId;
use qudao_storage::{Claim, Commit, CommitTurn, Hold, HoldTurn, StorageError, TurnContext};

use crate::{
    Core,
    step::{Outcome, Step, Steps},
};

/// Turns that wait to be read, held or committed.
pub(crate) struct TurnSteps {
    reads: Steps<Claim>,
    holds: Steps<Holding>,
    commits: Steps<Committing>,
}

impl Default for TurnSteps {
    fn default() -> Self {
        Self { reads: Steps::default(), holds: Steps::one_by_one(), commits: Steps::one_by_one() }
    }
}

pub(super) type Holding = (TenantId, HoldTurn);
pub(super) type Committing = (TenantId, CommitTurn);

/// What an answer needs to know is read.
impl Step for Claim {
    type Outcome = TurnContext;

    fn tenant(&self) -> TenantId {
        self.tenant_id
    }

    fn queue(core: &Core) -> &Steps<Self> {
        &core.turn_steps.reads
    }

    async fn take(core: &Core, claims: &[Self]) -> Result<Vec<TurnContext>, StorageError> {
        core.store.turn_contexts(claims, core.settings.turns.history_messages).await
    }
}

/// T3.
impl Step for Holding {
    type Outcome = Hold;

    fn tenant(&self) -> TenantId {
        self.0
    }

    fn queue(core: &Core) -> &Steps<Self> {
        &core.turn_steps.holds
    }

    async fn take(core: &Core, holds: &[Self]) -> Result<Vec<Hold>, StorageError> {
        core.store.hold_turns(holds).await
    }
}

/// T4.
impl Step for Committing {
    type Outcome = Commit;

    fn tenant(&self) -> TenantId {
        self.0
    }

    fn queue(core: &Core) -> &Steps<Self> {
        &core.turn_steps.commits
    }

    async fn take(core: &Core, commits: &[Self]) -> Result<Vec<Commit>, StorageError> {
        core.store.commit_turns(commits).await
    }

    /// Wakes the senders once for all of it. A repetition of the statement finds its turn over, and
    /// the reply waits in the outbox all the same.
    fn taken(core: &Arc<Core>, outcomes: &[Outcome<Self>]) {
        if !outcomes.is_empty() {
            core.wake_outbox();
        }
    }
}
