//! Signs the heads of the audit log, every hour and at the stop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use qudao_core::{Core, audit};
use tokio::{task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What somebody cuts off within an hour of its recording may go unseen.
const EVERY: Duration = Duration::from_secs(3600);
/// A stop does not wait longer for the last signatures.
const PATIENCE: Duration = Duration::from_secs(5);

/// The task that signs.
pub(super) struct Heads {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Heads {
    pub(super) fn start(core: Arc<Core>, file: PathBuf) -> Self {
        let stop = CancellationToken::new();
        // Awaited by `stop`.
        let task = TaskTracker::new().spawn(run(core, file, stop.clone()));
        Self { stop, task }
    }

    /// Signs once more and ends: the database is about to be closed.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = time::timeout(PATIENCE, self.task).await;
    }
}

async fn run(core: Arc<Core>, file: PathBuf, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = time::sleep(EVERY) => false,
        };
        match audit::sign_heads(&core.store, &core.vault, &*core.clock, &file).await {
            Ok(signed) => tracing::debug!(signed, "heads of the audit log were signed"),
            Err(error) => {
                tracing::error!(error = %error, "the heads of the audit log are not signed");
            }
        }
        if stopped {
            return;
        }
    }
}
