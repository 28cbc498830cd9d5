//! Claims outbound messages and hands them to their channels. Within a conversation only the
//! first open message can be claimed, so a slow or failing one holds back its own thread alone.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge};
use qudao_core::{DeliverError, Together, failpoint};
use qudao_domain::{OutboxId, TenantId};
use qudao_storage::{OutboxClaim, StorageError, Topic};
use qudao_telemetry::{Span, SpanKind, Trace};
use rand::RngExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tracing::Instrument as _;

use crate::{
    Shared,
    signal::{Found, Signal, in_time},
};

/// What is left of a lease when a delivery is given up, to write that down; a quarter of a lease
/// that is short.
const MARGIN: Duration = Duration::from_secs(5);
/// How often deliveries are tried to be written down, and how long apart at first: for about as long as a
/// standby needs to take over. What is not written down is sent again when its lease runs out, and its
/// conversation waits until then.
const TRIES: u32 = 10;
const APART: Duration = Duration::from_millis(200);

pub(crate) async fn run(shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(shared.settings.deliveries_in_flight.max(1)));
    let remote = shared.core.bus.subscribe(&Topic::WakeOutbox);
    let own = shared.core.signature();
    let mut signal = Signal::new(&shared.core.wake.outbox, remote, own, &shared.settings);
    loop {
        let found = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => {
                let Ok(slot) = slot else { return };
                claim(&shared, &slots, slot).await
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = signal.wait(found) => {}
        }
    }
}

/// Claims as many messages as there are free slots.
async fn claim(shared: &Arc<Shared>, slots: &Arc<Semaphore>, first: OwnedSemaphorePermit) -> Found {
    let permits = shared.gather(slots, first);
    let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
    let (core, lease) = (&shared.core, shared.settings.delivery_lease);
    let claims = match in_time(core.store.claim_outbox(core.node, limit, lease)).await {
        Ok(claims) => claims,
        Err(error) => {
            counter!("qudao_claim_failures_total", "queue" => "outbox").increment(1);
            tracing::warn!(%error, "cannot claim outbound messages");
            return Found::NOTHING;
        }
    };
    if !claims.is_empty() {
        failpoint!("delivery.claimed");
    }
    counter!("qudao_claimed_total", "queue" => "outbox").increment(claims.len() as u64);
    let found = Found { claims: claims.len(), full: claims.len() == permits.len() };
    for (claim, permit) in claims.into_iter().zip(permits) {
        shared.jobs.spawn(deliver(Arc::clone(shared), claim, permit));
    }
    found
}

async fn deliver(shared: Arc<Shared>, claim: OutboxClaim, _slot: OwnedSemaphorePermit) {
    let in_flight = gauge!("qudao_deliveries_in_flight");
    in_flight.increment(1);
    let trace = claim.turn_id.map_or(Trace::NONE, |turn| Trace::of_work(turn.as_uuid().as_u128()));
    let mut span = Span::remote_child("deliver", SpanKind::Client, trace);
    span.set("qudao.channel.kind", claim.channel_kind.as_str());
    span.set("qudao.delivery.attempt", claim.attempts);
    let scope = tracing::error_span!("deliver", trace_id = %trace.id());
    let work = async {
        let delivered = tokio::select! {
            biased;
            delivered = send(&shared, &claim) => delivered,
            () = shared.abandon.cancelled() => return abandon(&shared, &claim).await,
        };
        let outcome = match &delivered {
            Ok(()) => "delivered",
            Err(error) if error.retryable => "failed",
            Err(_) => "refused",
        };
        if delivered.is_err() {
            span.fail(outcome);
        }
        failpoint!("delivery.sent");
        counter!("qudao_deliveries_total", "outcome" => outcome).increment(1);
        if let Err(error) = record(&shared, &claim, delivered).await {
            // The lease runs out and it is sent again, under the same id.
            tracing::warn!(%error, outbox = %claim.outbox_id, "a delivery is not written down");
        }
    };
    work.instrument(scope).await;
    in_flight.decrement(1);
}

/// Lets another node send at once. It may have arrived already; the receiver knows it by its id.
async fn abandon(shared: &Shared, claim: &OutboxClaim) {
    let release = async {
        let mut tx = shared.core.store.begin(claim.tenant_id).await?;
        let released = tx.release_outbox(claim.outbox_id, claim.epoch).await?;
        tx.commit().await?;
        Ok::<_, StorageError>(released)
    };
    match release.await {
        Ok(true) => shared.core.bus.publish(&Topic::WakeOutbox, Vec::new()).await,
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, outbox = %claim.outbox_id, "cannot release a delivery");
        }
    }
}

async fn send(shared: &Shared, claim: &OutboxClaim) -> Result<(), DeliverError> {
    let failed = |detail: &str| Err(DeliverError::retry(detail));
    // Another node may have the adapter, so this is not a refusal.
    let Some(channel) = shared.channels.get(&claim.channel_kind) else {
        return failed("this node has no adapter for the channel");
    };
    let lease = shared.settings.delivery_lease;
    let patience = lease - MARGIN.min(lease / 4);
    match time::timeout(patience, channel.deliver(claim)).await {
        Ok(outcome) => outcome,
        Err(_) => failed("the other side took too long"),
    }
}

/// What is known of deliveries that were made, and waits to be written down.
pub(crate) type Made = Together<Sent, Result<(), Arc<StorageError>>>;

/// A message that was delivered, and the fencing number of its claim.
type Sent = (TenantId, OutboxId, i64);

/// T6.
async fn record(
    shared: &Arc<Shared>,
    claim: &OutboxClaim,
    delivered: Result<(), DeliverError>,
) -> Result<(), Arc<StorageError>> {
    match delivered {
        Ok(()) => finish(shared, claim).await,
        Err(error) => refuse(shared, claim, error).await.map_err(Arc::new),
    }
}

/// Writes down, with others, that a message was delivered.
async fn finish(shared: &Arc<Shared>, claim: &OutboxClaim) -> Result<(), Arc<StorageError>> {
    let (written, leader) = shared.made.add((claim.tenant_id, claim.outbox_id, claim.epoch));
    if let Some(mut leader) = leader {
        let shared = Arc::clone(shared);
        shared.clone().jobs.spawn(async move {
            while let Some((made, waiting)) = leader.gathered().await {
                let outcomes = write_down(&shared, &made).await;
                for (written, outcome) in waiting.into_iter().zip(outcomes) {
                    let _ = written.send(outcome);
                }
            }
        });
    }
    // Without an answer its lease runs out, and it is sent again under the same id.
    written.await.unwrap_or(Ok(()))
}

/// Writes these down together, and each for itself if one of them may be to blame.
async fn write_down(shared: &Shared, made: &[Sent]) -> Vec<Result<(), Arc<StorageError>>> {
    let mut attempt = 1;
    let error = loop {
        match write(shared, made).await {
            Ok(()) => return made.iter().map(|_| Ok(())).collect(),
            Err(error) if 1 < made.len() && error.concerns_one() => {
                return write_each(shared, made).await;
            }
            Err(error) if error.is_transient() && attempt < TRIES => {
                time::sleep(APART * attempt).await;
                attempt += 1;
            }
            Err(error) => break Arc::new(error),
        }
    };
    made.iter().map(|_| Err(Arc::clone(&error))).collect()
}

async fn write_each(shared: &Shared, made: &[Sent]) -> Vec<Result<(), Arc<StorageError>>> {
    let mut outcomes = Vec::with_capacity(made.len());
    for one in made {
        outcomes.push(write(shared, std::slice::from_ref(one)).await.map_err(Arc::new));
    }
    outcomes
}

async fn write(shared: &Shared, made: &[Sent]) -> Result<(), StorageError> {
    failpoint!("delivery.recording");
    let outcome = shared.core.store.finish_deliveries(made).await;
    failpoint!("delivery.recorded");
    // Others of their conversations were waiting behind these. One that was committed at this very
    // moment is found at the next look.
    if outcome? {
        shared.core.wake.outbox.notify_one();
    }
    Ok(())
}

async fn refuse(
    shared: &Shared,
    claim: &OutboxClaim,
    DeliverError { retryable, after, detail }: DeliverError,
) -> Result<(), StorageError> {
    let mut tx = shared.core.store.begin(claim.tenant_id).await?;
    match backoff(shared, claim.attempts) {
        _ if let Some(after) = after.filter(|_| retryable) => {
            tracing::debug!(outbox = %claim.outbox_id, ?after, "a delivery has to wait");
            tx.defer_outbox(claim.outbox_id, claim.epoch, after, &detail).await?;
        }
        Some(delay) if retryable => {
            // What the other side said is in the row: it may repeat the message.
            tracing::info!(outbox = %claim.outbox_id, ?delay, "a delivery failed");
            tx.retry_outbox(claim.outbox_id, claim.epoch, delay, &detail).await?;
        }
        _ => {
            tracing::warn!(outbox = %claim.outbox_id, "a delivery is given up");
            tx.bury_outbox(claim.outbox_id, claim.epoch, &detail).await?;
            counter!("qudao_outbox_dead_total").increment(1);
        }
    }
    tx.commit().await?;
    // The next message of the conversation may be waiting behind this one.
    shared.core.wake.outbox.notify_one();
    Ok(())
}

/// The wait before the next try, with full jitter; `None` after the last.
fn backoff(shared: &Shared, attempts: u32) -> Option<Duration> {
    let step = attempts.max(1) as usize - 1;
    let longest = shared.settings.delivery_backoff.get(step)?;
    Some(longest.mul_f64(rand::rng().random_range(0.0..=1.0)))
}
