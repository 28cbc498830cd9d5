//! Credits that this node reserved from a tenant's wallet, to be spent in memory.
//!
//! A block is a hold with a lease. Memory never gives out more than the database reserved:
//! a call takes its upper bound from the block's free part, and what it did not use returns
//! there when it is settled. When the free part does not cover a call, the block is extended by
//! one guarded update; when that fails, so does the call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use metrics::{counter, histogram};
use qudao_domain::{BlockId, Micros, TenantId};
use qudao_storage::{Extend, StorageError, Tx};
use tokio::time::Instant;

use super::settle::Settling;
use crate::{Core, failpoint, settings::BlockSettings};

/// A refill at least this soon after the last one asks for more.
const BUSY: Duration = Duration::from_secs(1);
/// A refill at least this long after the last one starts small again.
const QUIET: Duration = Duration::from_secs(10);
/// How many calls the first refill lasts for.
const FIRST_CALLS: u32 = 8;

/// One tenant's credits and unsettled calls on this node.
pub(crate) struct Lane {
    pub(super) tenant_id: TenantId,
    /// Calls that are open, whether they took credits yet or not.
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) settling: Settling,
    credit: Mutex<Credit>,
    /// One refill at a time; remembers the last refusal for those who waited meanwhile.
    refill: tokio::sync::Mutex<Option<Refusal>>,
}

/// The state of a block in memory. `free` is never more than the database holds for the block
/// less what calls have taken.
#[derive(Debug)]
struct Credit {
    block: Option<BlockId>,
    free: Micros,
    /// Calls that took from this lane and are not settled yet.
    open_calls: usize,
    /// How many calls the next refill shall last for.
    calls: u32,
    refilled_at: Instant,
    used_at: Instant,
}

/// The wallet did not cover this much, in an attempt that began then.
struct Refusal {
    began: Instant,
    exact: Micros,
}

/// What a call took from its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(super) block: BlockId,
    pub(super) amount: Micros,
}

/// Why a call got nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    #[error("the wallet does not cover the call")]
    NoFunds,
    #[error("the platform is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Lane {
    pub(super) fn new(tenant_id: TenantId) -> Self {
        let now = Instant::now();
        Self {
            tenant_id,
            in_flight: Arc::default(),
            settling: Settling::default(),
            credit: Mutex::new(Credit {
                block: None,
                free: Micros::ZERO,
                open_calls: 0,
                calls: FIRST_CALLS,
                refilled_at: now,
                used_at: now,
            }),
            refill: tokio::sync::Mutex::default(),
        }
    }

    fn credit(&self) -> MutexGuard<'_, Credit> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `need` from the free part, if it is there.
    pub(super) fn take(&self, need: Micros) -> Option<Grant> {
        self.credit().take(need)
    }

    /// Gives back what a call took and did not use.
    pub(super) fn give_back(&self, grant: Grant, used: Micros) {
        self.credit().give_back(grant, used);
    }

    /// One call less is unsettled.
    pub(super) fn call_closed(&self) {
        let mut credit = self.credit();
        credit.open_calls = credit.open_calls.saturating_sub(1);
    }

    /// Calls that took credits and are not settled yet.
    pub(crate) fn open_calls(&self) -> usize {
        self.credit().open_calls
    }

    /// Calls that wait for the next group commit.
    pub(crate) fn waiting(&self) -> usize {
        self.settling.len()
    }

    /// Credits that no call has taken.
    pub(crate) fn free(&self) -> Micros {
        self.credit().free
    }

    /// The database no longer knows the block: nothing may be spent from it.
    pub(super) fn forget(&self, block: BlockId) {
        let mut credit = self.credit();
        if credit.block == Some(block) {
            credit.block = None;
            credit.free = Micros::ZERO;
        }
    }

    fn refilled(&self, block: BlockId, amount: Micros) {
        self.credit().refilled(block, amount);
        #[expect(clippy::cast_precision_loss, reason = "a histogram needs no more")]
        histogram!("qudao_block_refill_micros").record(amount.get() as f64);
    }

    /// The open block, to be renewed.
    pub(super) fn block(&self) -> Option<BlockId> {
        self.credit().block
    }

    /// Whether a call of this size could be served at once.
    fn covers(&self, need: Micros) -> bool {
        let credit = self.credit();
        credit.block.is_some() && need <= credit.free
    }

    /// Takes the block out of use if nothing is open on it and nothing used it for `idle`. Not
    /// while a refill is under way, which would fill a block that is being closed.
    pub(super) fn retire(&self, idle: Duration) -> Option<BlockId> {
        let _no_refill = self.refill.try_lock().ok()?;
        let mut credit = self.credit();
        if credit.open_calls != 0 || credit.used_at.elapsed() < idle {
            return None;
        }
        credit.free = Micros::ZERO;
        credit.block.take()
    }
}

impl Credit {
    fn take(&mut self, need: Micros) -> Option<Grant> {
        let block = self.block?;
        let rest = self.free.minus(need).ok().filter(|rest| Micros::ZERO <= *rest)?;
        self.free = rest;
        self.open_calls += 1;
        self.used_at = Instant::now();
        Some(Grant { block, amount: need })
    }

    fn give_back(&mut self, grant: Grant, used: Micros) {
        if self.block != Some(grant.block) {
            return;
        }
        let unused = Micros::new((grant.amount.get() - used.get()).max(0));
        self.free = Micros::new(self.free.get().saturating_add(unused.get()));
    }

    /// How much a refill asks for when a call of `need` finds too little: enough for many such
    /// calls when they come fast, but a fraction of what the wallet has left.
    fn refill_size(&mut self, need: Micros, available: Micros, settings: &BlockSettings) -> Refill {
        let since = self.refilled_at.elapsed();
        if since < BUSY {
            self.calls = self.calls.saturating_mul(2).min(settings.calls);
        } else if QUIET < since {
            self.calls = FIRST_CALLS;
        }
        let exact = Micros::new((need.get() - self.free.get()).max(0));
        let many = need.get().saturating_mul(i64::from(self.calls));
        let share = available.get() / i64::from(settings.balance_parts.max(1));
        let ample = many.min(share).min(settings.max_refill.get());
        // Whole calls: parts of one that lie on several nodes would pay for none.
        let spare = (ample - exact.get()).max(0) / need.get().max(1) * need.get();
        Refill { ample: Micros::new(exact.get() + spare), exact }
    }

    fn refilled(&mut self, block: BlockId, amount: Micros) {
        if self.block != Some(block) {
            self.block = Some(block);
            self.free = Micros::ZERO;
        }
        self.free = Micros::new(self.free.get().saturating_add(amount.get()));
        self.refilled_at = Instant::now();
    }
}

/// What to ask the wallet for: gladly this much, at least that much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refill {
    ample: Micros,
    exact: Micros,
}

impl Core {
    /// Takes the upper bound of a call's cost from the tenant's credits on this node, and refills
    /// them from the wallet when they are short.
    pub(super) async fn grant(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        need: Micros,
    ) -> Result<Grant, GrantError> {
        let arrived = Instant::now();
        loop {
            if let Some(grant) = lane.take(need) {
                failpoint!("block.spent");
                return Ok(grant);
            }
            let (core, shared) = (Arc::clone(self), Arc::clone(lane));
            // A task of its own: a dropped connection must not stop a commit half way.
            let refill = self.spawn(async move { core.refill(&shared, need, arrived).await });
            refill.await.unwrap_or(Err(GrantError::ShuttingDown))?;
        }
    }

    /// Makes the lane cover `need`, one refill at a time. Another call may be faster to take it.
    async fn refill(&self, lane: &Lane, need: Micros, arrived: Instant) -> Result<(), GrantError> {
        let mut refusal = lane.refill.lock().await;
        if lane.covers(need) {
            return Ok(());
        }
        let exact = Micros::new(need.get() - lane.credit().free.get());
        // An answer that the database gave after this call had come in counts for it as well.
        if refusal.as_ref().is_some_and(|last| arrived <= last.began && last.exact <= exact) {
            return Err(GrantError::NoFunds);
        }
        let began = Instant::now();
        if self.draw(lane, need).await? {
            *refusal = None;
            return Ok(());
        }
        *refusal = Some(Refusal { began, exact });
        counter!("qudao_block_refusals_total").increment(1);
        Err(GrantError::NoFunds)
    }

    /// Reserves more of the wallet for the lane. Whether the wallet covered it.
    async fn draw(&self, lane: &Lane, need: Micros) -> Result<bool, GrantError> {
        let settings = &self.settings.api.blocks;
        let mut tx = self.store.begin(lane.tenant_id).await?;
        let wallet = tx.wallet().await?;
        let available = wallet.map_or(Micros::ZERO, |wallet| wallet.available());
        if let Some(block) = lane.block() {
            let refill = lane.credit().refill_size(need, available, settings);
            match extend(&mut tx, block, refill, settings.lease).await? {
                Extended::By(amount) => {
                    failpoint!("block.extending");
                    tx.commit().await?;
                    failpoint!("block.extended");
                    lane.refilled(block, amount);
                    return Ok(true);
                }
                Extended::NoFunds => {
                    tx.commit().await?;
                    return Ok(false);
                }
                Extended::Gone => lane.forget(block),
            }
        }
        let refill = lane.credit().refill_size(need, available, settings);
        let (block, Refill { ample, exact }) = (BlockId::new(), refill);
        let reserved =
            tx.reserve_block_up_to(block, self.node, exact, ample, settings.lease).await?;
        failpoint!("block.reserving");
        tx.commit().await?;
        failpoint!("block.reserved");
        if let Some(amount) = reserved {
            lane.refilled(block, amount);
        }
        Ok(reserved.is_some())
    }
}

enum Extended {
    By(Micros),
    NoFunds,
    Gone,
}

async fn extend(
    tx: &mut Tx,
    block: BlockId,
    refill: Refill,
    lease: Duration,
) -> Result<Extended, StorageError> {
    for amount in [refill.ample, refill.exact] {
        match tx.extend_block(block, amount, lease).await? {
            Extend::Extended => return Ok(Extended::By(amount)),
            Extend::Gone => return Ok(Extended::Gone),
            Extend::NoFunds => {}
        }
    }
    Ok(Extended::NoFunds)
}

#[cfg(test)]
mod tests;
