//! When to look at a queue again: at a hint from this node, at a hint from another one, or after
//! a jittered wait, since hints may be lost.

use std::time::Duration;

use qudao_storage::Subscription;
use rand::RngExt as _;
use tokio::{sync::Notify, time};

use crate::WorkerSettings;

/// Waits for a reason to look at a queue.
pub(crate) struct Signal<'a> {
    local: &'a Notify,
    remote: Subscription,
    poll_min: Duration,
    poll_max: Duration,
}

impl<'a> Signal<'a> {
    pub(crate) fn new(local: &'a Notify, remote: Subscription, settings: &WorkerSettings) -> Self {
        let WorkerSettings { poll_min, poll_max, .. } = *settings;
        Self { local, remote, poll_min, poll_max: poll_max.max(poll_min) }
    }

    pub(crate) async fn wait(&mut self) {
        let poll = rand::rng().random_range(self.poll_min..=self.poll_max);
        tokio::select! {
            () = self.local.notified() => {}
            _ = self.remote.next() => {}
            () = time::sleep(poll) => {}
        }
    }
}
