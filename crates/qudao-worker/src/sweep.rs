//! Clears away what dead nodes left, credit blocks and holds whose lease ran out, and the answers
//! to idempotency keys that are older than a day.

use std::sync::Arc;

use metrics::counter;
use qudao_core::failpoint;
use rand::RngExt as _;
use tokio::time;

use crate::Shared;

pub(crate) async fn run(shared: Arc<Shared>) {
    let every = shared.settings.sweep_every;
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
    }
}
