//! Keeps credit blocks alive while they are used, and gives them back when they are not.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use qudao_domain::BlockId;
use qudao_storage::{Extend, StorageError};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::credit::Lane;
use crate::{Core, failpoint};

/// Runs until the core closes or is dropped.
pub(crate) async fn run(core: Weak<Core>, every: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = time::sleep(every) => {}
        }
        let Some(core) = core.upgrade() else { return };
        core.keep_blocks(core.settings.api.blocks.idle).await;
    }
}

impl Core {
    /// Gives back what is not used any more and renews the rest.
    async fn keep_blocks(self: &Arc<Self>, idle: Duration) {
        for lane in self.api.lanes() {
            let outcome = match (lane.retire(idle), lane.block()) {
                (Some(block), _) => self.give_back(&lane, block).await,
                (None, Some(block)) => self.renew(&lane, block).await,
                (None, None) => Ok(()),
            };
            if let Err(error) = outcome {
                // The lease gives it back in the end.
                tracing::warn!(%error, tenant = %lane.tenant_id, "cannot keep a credit block");
            }
        }
    }

    async fn give_back(&self, lane: &Lane, block: BlockId) -> Result<(), StorageError> {
        let mut tx = self.store.begin(lane.tenant_id).await?;
        tx.close_block(block).await?;
        failpoint!("block.closing");
        tx.commit().await?;
        failpoint!("block.closed");
        Ok(())
    }

    async fn renew(&self, lane: &Lane, block: BlockId) -> Result<(), StorageError> {
        let mut tx = self.store.begin(lane.tenant_id).await?;
        let lease = self.settings.api.blocks.lease;
        let outcome = tx.extend_block(block, qudao_domain::Micros::ZERO, lease).await?;
        tx.commit().await?;
        failpoint!("block.renewed");
        if outcome == Extend::Gone {
            lane.forget(block);
        }
        Ok(())
    }

    /// Gives back all credits that no call uses, and ends the core's own loops.
    pub async fn close(self: &Arc<Self>) {
        self.closing.cancel();
        self.keep_blocks(Duration::ZERO).await;
        self.write_uses().await;
    }

    /// The end, when no more calls come: waits until what was served is settled, and only then
    /// gives the credits back that were set aside for it. `false` if something was left behind at
    /// the deadline; the lease gives its credits back.
    pub async fn drain(self: &Arc<Self>, deadline: Duration) -> bool {
        // Otherwise the tasks would wait for the core's own loops.
        self.closing.cancel();
        self.tasks.close();
        let settled = time::timeout(deadline, self.tasks.wait()).await.is_ok();
        self.close().await;
        settled
    }
}
