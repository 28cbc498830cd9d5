//! Claims conversations with unanswered messages and runs their turns.

use std::sync::Arc;

use metrics::{counter, gauge};
use qudao_core::failpoint;
use qudao_storage::{Claim, Topic};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Shared,
    share::{Seat, Share},
    signal::{Found, Signal, in_time},
};

pub(crate) async fn run(shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(shared.settings.turns_in_flight.max(1)));
    let share = Share::new(&shared);
    let remote = shared.core.bus.subscribe(&Topic::WakeTurns);
    let own = shared.core.signature();
    let mut signal = Signal::new(&shared.core.wake.turns, remote, own, &shared.settings);
    loop {
        let found = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            // Claims only what can start at once: a claimed row that waits wastes its lease.
            slot = Arc::clone(&slots).acquire_owned() => {
                let Ok(slot) = slot else { return };
                claim(&shared, &slots, &share, slot).await
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = signal.wait(found) => {}
        }
    }
}

/// Claims as many conversations as there are free slots.
async fn claim(
    shared: &Arc<Shared>,
    slots: &Arc<Semaphore>,
    share: &Share,
    first: OwnedSemaphorePermit,
) -> Found {
    let permits = shared.gather(slots, first);
    let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
    let core = &shared.core;
    let lease = core.settings.turns.lease;
    let shares = share.shares();
    let claims = match in_time(core.store.claim_turns(core.node, limit, lease, &shares)).await {
        Ok(claims) => claims,
        Err(error) => {
            counter!("qudao_claim_failures_total", "queue" => "turns").increment(1);
            tracing::warn!(%error, "cannot claim conversations");
            return Found::NOTHING;
        }
    };
    if !claims.is_empty() {
        failpoint!("turn.claimed");
    }
    counter!("qudao_claimed_total", "queue" => "turns").increment(claims.len() as u64);
    let found = Found { claims: claims.len(), full: claims.len() == permits.len() };
    for (claim, permit) in claims.into_iter().zip(permits) {
        let seat = share.sit(claim.tenant_id);
        shared.jobs.spawn(turn(Arc::clone(shared), claim, permit, seat));
    }
    found
}

async fn turn(shared: Arc<Shared>, claim: Claim, _slot: OwnedSemaphorePermit, _seat: Seat) {
    let in_flight = gauge!("qudao_turns_in_flight");
    in_flight.increment(1);
    tokio::select! {
        _outcome = shared.core.run_turn(claim) => {}
        () = shared.abandon.cancelled() => shared.core.abandon_turn(&claim).await,
    }
    in_flight.decrement(1);
}
