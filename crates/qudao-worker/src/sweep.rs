//! Clears away what dead nodes left (credit blocks and holds whose lease ran out, erasures that broke
//! off), the answers to idempotency keys that are older than a day, and words that are older than
//! their tenant keeps them.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_core::{failpoint, people::RetentionCursor};
use rand::RngExt as _;
use tokio::time;

use crate::Shared;

/// No platform repeats an event after a week; a day more for its clock.
const EVENTS_KEPT: Duration = Duration::from_secs(8 * 24 * 3600);
/// How long what routes decided can be looked up.
const DECISIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Rows that one sweep lets go of.
const EVENTS_AT_A_TIME: u32 = 10_000;

pub(crate) async fn run(shared: Arc<Shared>) {
    let every = shared.settings.sweep_every;
    let mut retention = RetentionCursor::default();
    loop {
        // Jittered, so that the nodes do not all sweep at once.
        let wait = every.mul_f64(rand::rng().random_range(0.5..1.5));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = time::sleep(wait) => {}
        }
        match shared.core.store.sweep().await {
            Ok(swept) => {
                failpoint!("sweep.done");
                counter!("qudao_swept_total", "what" => "blocks").increment(swept.blocks);
                counter!("qudao_swept_total", "what" => "holds").increment(swept.holds);
                if 0 < swept.blocks + swept.holds {
                    tracing::info!(?swept, "gave back what dead nodes had set aside");
                }
            }
            Err(error) => {
                counter!("qudao_sweep_failures_total").increment(1);
                tracing::warn!(%error, "cannot sweep");
            }
        }
        match shared.core.store.forget_once().await {
            Ok(forgotten) => {
                counter!("qudao_swept_total", "what" => "idempotency_records").increment(forgotten);
            }
            Err(error) => {
                counter!("qudao_sweep_failures_total").increment(1);
                tracing::warn!(%error, "cannot forget old idempotency keys");
            }
        }
        sweep_channel_events(&shared).await;
        sweep_decisions(&shared).await;
        sweep_people(&shared, &mut retention).await;
    }
}

async fn sweep_channel_events(shared: &Shared) {
    match shared.core.store.forget_channel_events(EVENTS_KEPT, EVENTS_AT_A_TIME).await {
        Ok(forgotten) => {
            counter!("qudao_swept_total", "what" => "channel_events").increment(forgotten);
        }
        Err(error) => {
            counter!("qudao_sweep_failures_total").increment(1);
            tracing::warn!(%error, "cannot forget old events of channels");
        }
    }
}

async fn sweep_decisions(shared: &Shared) {
    match shared.core.store.forget_route_decisions(DECISIONS_KEPT, EVENTS_AT_A_TIME).await {
        Ok(forgotten) => {
            counter!("qudao_swept_total", "what" => "route_decisions").increment(forgotten);
        }
        Err(error) => {
            counter!("qudao_sweep_failures_total").increment(1);
            tracing::warn!(%error, "cannot forget old decisions of routes");
        }
    }
}

async fn sweep_people(shared: &Shared, retention: &mut RetentionCursor) {
    match shared.core.keep_no_longer(retention).await {
        Ok(blanked) => counter!("qudao_swept_total", "what" => "messages").increment(blanked),
        Err(error) => {
            counter!("qudao_sweep_failures_total").increment(1);
            tracing::warn!(%error, "cannot take the words out of old messages");
        }
    }
    match shared.core.resume_erasures().await {
        Ok(finished) => counter!("qudao_swept_total", "what" => "erasures").increment(finished),
        Err(error) => {
            counter!("qudao_sweep_failures_total").increment(1);
            tracing::warn!(%error, "cannot finish an erasure");
        }
    }
}
