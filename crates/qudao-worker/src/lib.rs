//! The job loops of a node: turns, deliveries, sweeps. Each takes work from Postgres, which is
//! the only queue, so any number of nodes may run them and any of them may die at any moment.

use std::{collections::HashMap, sync::Arc, time::Duration};

use qudao_core::{Channel, Core};
use qudao_domain::state::ChannelKind;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod metrics;
mod outbox;
mod settings;
mod share;
mod signal;
mod sweep;
mod turns;

pub use metrics::METRICS;
pub use settings::WorkerSettings;

/// The channels of this node by their kind.
type Channels = HashMap<ChannelKind, Arc<dyn Channel>>;

/// What the loops share.
struct Shared {
    core: Arc<Core>,
    channels: Channels,
    settings: WorkerSettings,
    /// Claim nothing more.
    stop: CancellationToken,
    /// Give up what is in flight.
    abandon: CancellationToken,
    jobs: TaskTracker,
    /// Deliveries that were made and are not written down yet.
    made: outbox::Made,
}

impl Shared {
    /// As many free slots as one claim may fill, with the one that is there already.
    fn gather(
        &self,
        slots: &Arc<Semaphore>,
        first: OwnedSemaphorePermit,
    ) -> Vec<OwnedSemaphorePermit> {
        let mut permits = vec![first];
        while permits.len() < self.settings.claim_batch as usize {
            match Arc::clone(slots).try_acquire_owned() {
                Ok(permit) => permits.push(permit),
                Err(_) => break,
            }
        }
        permits
    }
}

/// Starts the job loops.
#[derive(Debug, Clone, Copy)]
pub struct Worker;

impl Worker {
    /// Starts the loops on the present runtime.
    pub fn start(
        core: Arc<Core>,
        channels: Vec<Arc<dyn Channel>>,
        settings: WorkerSettings,
    ) -> WorkerHandle {
        let channels = channels.into_iter().map(|channel| (channel.kind(), channel)).collect();
        metrics::tell_bounds(&settings);
        let made = outbox::Made::unhurried(settings.deliveries_in_flight);
        let shared = Arc::new(Shared {
            core,
            channels,
            settings,
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
            jobs: TaskTracker::new(),
            made,
        });
        let loops = vec![
            shared.core.tasks.spawn(turns::run(Arc::clone(&shared))),
            shared.core.tasks.spawn(outbox::run(Arc::clone(&shared))),
            shared.core.tasks.spawn(sweep::run(Arc::clone(&shared))),
        ];
        WorkerHandle { shared, loops }
    }
}

/// The running loops. Dropping it lets them run on.
#[must_use = "the loops are drained through their handle"]
pub struct WorkerHandle {
    shared: Arc<Shared>,
    loops: Vec<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Claims nothing more, waits until what is in flight is done or `deadline` has passed, and
    /// then releases the leases of the rest, so that other nodes take it over at once. What was sent by
    /// then is still written down.
    pub async fn drain(self, deadline: Duration) {
        self.shared.stop.cancel();
        for job_loop in self.loops {
            if let Err(error) = job_loop.await {
                tracing::error!(%error, "a job loop broke off");
            }
        }
        self.shared.jobs.close();
        if time::timeout(deadline, self.shared.jobs.wait()).await.is_err() {
            tracing::warn!(jobs = self.shared.jobs.len(), "the deadline ends what is in flight");
            self.shared.abandon.cancel();
            // To release a lease is one short statement, and so is to write down what was sent.
            let _ = time::timeout(Duration::from_secs(5), self.shared.jobs.wait()).await;
        }
    }
}
