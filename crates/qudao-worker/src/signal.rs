//! When to look at a queue again: at a hint from this node, at a hint from another one, or after
//! a jittered wait, since hints may be lost.

use std::time::Duration;

use qudao_storage::{BusEvent, StorageError, Subscription};
use rand::RngExt as _;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use crate::WorkerSettings;

/// Two looks at a queue are at least this far apart when the first found several, so that a busy one is
/// claimed in batches.
const BUSY_GAP: Duration = Duration::from_millis(30);
/// When it found one or none: nobody waits who writes alone, and hints that come together are one look.
const GAP: Duration = Duration::from_millis(3);

/// How long a look may take: longer than the database lets any statement run.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for a reason to look at a queue.
pub(crate) struct Signal<'a> {
    local: &'a Notify,
    remote: Subscription,
    poll_min: Duration,
    poll_max: Duration,
    /// What this node's own hints carry: it has followed them before they come back.
    own: Vec<u8>,
    looked: Instant,
}

impl<'a> Signal<'a> {
    pub(crate) fn new(
        local: &'a Notify,
        remote: Subscription,
        own: Vec<u8>,
        settings: &WorkerSettings,
    ) -> Self {
        let WorkerSettings { poll_min, poll_max, .. } = *settings;
        let poll_max = poll_max.max(poll_min);
        Self { local, remote, poll_min, poll_max, own, looked: Instant::now() }
    }

    /// Waits for the look after one that found this; not at all if there may be more.
    pub(crate) async fn wait(&mut self, found: Found) {
        if found.full {
            return;
        }
        let poll = rand::rng().random_range(self.poll_min..=self.poll_max);
        tokio::select! {
            () = self.local.notified() => {}
            () = foreign(&mut self.remote, &self.own) => {}
            () = time::sleep(poll) => {}
        }
        time::sleep_until(self.looked + found.gap()).await;
        self.looked = Instant::now();
    }
}

/// What a look at a queue found.
pub(crate) struct Found {
    pub(crate) claims: usize,
    /// As many as there was room for, so that there may be more.
    pub(crate) full: bool,
}

impl Found {
    pub(crate) const NOTHING: Self = Self { claims: 0, full: false };

    fn gap(&self) -> Duration {
        if self.claims < 2 { GAP } else { BUSY_GAP }
    }
}

/// A look at a queue. One that hangs, on a connection to a server that vanished without a word, is
/// given up; what it may have claimed comes free when the lease ends.
pub(crate) async fn in_time<T>(
    look: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, String> {
    match time::timeout(PATIENCE, look).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("the database does not answer".to_owned()),
    }
}

/// A hint of another node.
async fn foreign(remote: &mut Subscription, own: &[u8]) {
    while let BusEvent::Message(from) = remote.next().await {
        if from != own {
            return;
        }
    }
}
