//! Group commit: calls of one tenant that end at about the same time are settled together.
//!
//! A batch waits a moment for calls that are still under way, and not at all when there are none.
//! While one batch commits the next one gathers.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use qudao_domain::{BlockId, Micros};
use qudao_storage::{Settle, StorageError, UsageLine};
use tokio::{
    sync::{Notify, oneshot},
    time,
};

use super::credit::{Grant, Lane};
use crate::{Core, failpoint, faults::seeded_bug};

/// How long a settlement that the database does not take is tried again.
const PERSISTENCE: Duration = Duration::from_secs(600);
/// The longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The calls of a lane that wait for their settlement.
#[derive(Default)]
pub(super) struct Settling {
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Pending>,
    /// A task works on this queue.
    running: bool,
}

struct Pending {
    line: UsageLine,
    block: BlockId,
    done: oneshot::Sender<()>,
}

impl Settling {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.queue().waiting.len()
    }

    /// The next batch, or `None` after the last: whoever comes then starts a new task.
    fn next_batch(&self, max: usize) -> Option<Vec<Pending>> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.running = false;
            return None;
        }
        let size = queue.waiting.len().min(max.max(1));
        let rest = queue.waiting.split_off(size);
        Some(mem::replace(&mut queue.waiting, rest))
    }
}

/// Calls of a batch that are open until their settlement is over, even if it panics.
struct Open<'a> {
    lane: &'a Lane,
    calls: usize,
}

impl Open<'_> {
    fn close_one(&mut self) {
        self.calls -= 1;
        self.lane.call_closed();
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        for _ in 0..self.calls {
            self.lane.call_closed();
        }
    }
}

/// The task that works on a queue. If it breaks off, whoever comes next starts another.
struct Working<'a> {
    settling: &'a Settling,
    over: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.settling.queue().running = false;
        }
    }
}

impl Core {
    /// Hands a call over for settlement. It goes on even if nobody waits for the answer, which
    /// comes when the settlement is durable.
    pub(super) fn settle(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        grant: Grant,
        line: UsageLine,
    ) -> oneshot::Receiver<()> {
        self.api.meters.count(&line);
        lane.give_back(grant, line.charge);
        let (done, settled) = oneshot::channel();
        failpoint!("settle.handed_over");
        seeded_bug!("answer_before_settling", {
            let (core, lane) = (Arc::clone(self), Arc::clone(lane));
            self.spawn(async move {
                // Whoever tries this kills the node as soon as the caller has its answer.
                time::sleep(Duration::from_secs(60)).await;
                core.settle_lines(&lane, grant.block, &[line]).await;
                lane.call_closed();
            });
            let _ = done.send(());
            settled
        });
        let mut queue = lane.settling.queue();
        queue.waiting.push(Pending { line, block: grant.block, done });
        let start = !mem::replace(&mut queue.running, true);
        drop(queue);
        if start {
            self.spawn_here(Arc::clone(self).settle_lane(Arc::clone(lane)));
        } else if self.is_gathered(lane) {
            lane.settling.more.notify_one();
        }
        settled
    }

    /// Whether a batch has nobody left to wait for.
    fn is_gathered(&self, lane: &Lane) -> bool {
        self.settings.api.settle.max_batch.min(lane.open_calls()) <= lane.settling.len()
    }

    async fn settle_lane(self: Arc<Self>, lane: Arc<Lane>) {
        let settings = &self.settings.api.settle;
        let mut working = Working { settling: &lane.settling, over: false };
        loop {
            let gathered = async {
                while !self.is_gathered(&lane) {
                    lane.settling.more.notified().await;
                }
            };
            // Whoever is not there by then goes with the next batch.
            let _ = time::timeout(settings.max_wait, gathered).await;
            let Some(batch) = lane.settling.next_batch(settings.max_batch) else {
                working.over = true;
                return;
            };
            failpoint!("settle.gathered");
            self.settle_batch(&lane, batch).await;
        }
    }

    async fn settle_batch(&self, lane: &Lane, mut batch: Vec<Pending>) {
        while let Some(first) = batch.first() {
            let block = first.block;
            let (same, other) = batch.into_iter().partition(|pending| pending.block == block);
            batch = other;
            self.settle_block(lane, block, same).await;
        }
    }

    async fn settle_block(&self, lane: &Lane, block: BlockId, batch: Vec<Pending>) {
        #[expect(clippy::cast_precision_loss, reason = "a histogram needs no more")]
        self.api.meters.batch.record(batch.len() as f64);
        let (lines, waiting): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.line, pending.done)).unzip();
        let mut open = Open { lane, calls: lines.len() };
        let began = time::Instant::now();
        let mut settled = vec![self.settle_lines(lane, block, &lines).await; lines.len()];
        self.api.meters.settle.record(began.elapsed());
        if settled.contains(&false) && 1 < lines.len() {
            // One of them cannot be settled; its neighbours can.
            for (settled, line) in settled.iter_mut().zip(&lines) {
                *settled = self.settle_lines(lane, block, std::slice::from_ref(line)).await;
            }
        }
        for ((done, settled), line) in waiting.into_iter().zip(settled).zip(&lines) {
            open.close_one();
            failpoint!("settle.answering");
            if settled {
                // A caller who is gone does not need to know.
                let _ = done.send(());
            } else {
                // What is not in the database must at least be in the log.
                tracing::error!(?line, "a call could not be settled");
                counter!("qudao_settle_lost_total").increment(1);
            }
        }
    }

    /// Settles these lines, all or none, and does not give up while the database is away.
    async fn settle_lines(&self, lane: &Lane, block: BlockId, lines: &[UsageLine]) -> bool {
        let began = time::Instant::now();
        let mut backoff = Duration::from_millis(20);
        loop {
            match self.try_settle(lane, block, lines).await {
                Ok(()) => return true,
                Err(error) if error.is_transient() && began.elapsed() < PERSISTENCE => {
                    tracing::warn!(%error, calls = lines.len(), "a settlement is tried again");
                    counter!("qudao_settle_retries_total").increment(1);
                }
                Err(error) => {
                    tracing::warn!(?error, calls = lines.len(), "a settlement was refused");
                    return false;
                }
            }
            time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn try_settle(
        &self,
        lane: &Lane,
        block: BlockId,
        lines: &[UsageLine],
    ) -> Result<(), StorageError> {
        match self.store.settle_calls(lane.tenant_id, block, lines).await {
            Ok(Settle::Done) => {
                failpoint!("settle.committed");
                return Ok(());
            }
            Ok(Settle::Fenced) => {}
            Err(StorageError::Refused { constraint }) => {
                tracing::error!(%block, constraint, "a block holds less than was spent from it");
            }
            Err(error) => return Err(error),
        }
        lane.forget(block);
        self.settle_elsewhere(lane, lines).await
    }

    /// The block is closed: this node was away for longer than its lease. The calls were served,
    /// so they are charged from the wallet if it covers them, and borne by the platform if not.
    async fn settle_elsewhere(&self, lane: &Lane, lines: &[UsageLine]) -> Result<(), StorageError> {
        counter!("qudao_settle_fenced_total").increment(lines.len() as u64);
        let total: Micros = lines.iter().map(|line| line.charge).sum();
        let lease = self.settings.api.blocks.lease;
        let block = BlockId::new();
        let mut tx = self.store.begin(lane.tenant_id).await?;
        let reserved =
            total == Micros::ZERO || tx.reserve_block(block, self.node, total, lease).await?;
        if total != Micros::ZERO && reserved {
            if tx.settle_calls(block, lines).await? == Settle::Done {
                tx.close_block(block).await?;
                return tx.commit().await;
            }
            return Err(StorageError::Inconsistent { detail: "a new block is closed".to_owned() });
        }
        let absorbed: Vec<_> = lines.iter().cloned().map(absorb).collect();
        tx.absorb_calls(&absorbed).await?;
        tx.commit().await
    }
}

fn absorb(line: UsageLine) -> UsageLine {
    let absorbed = [line.absorbed, line.charge].into_iter().sum();
    UsageLine { charge: Micros::ZERO, absorbed, ..line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_breaks_off_leaves_its_queue_to_another() {
        let settling = Settling::default();
        for over in [false, true] {
            settling.queue().running = true;
            drop(Working { settling: &settling, over });
            assert_eq!(settling.queue().running, over);
        }
    }
}
