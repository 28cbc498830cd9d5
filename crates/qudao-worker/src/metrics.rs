//! The metrics of this crate: what the job loops of this node take and do.

use metrics::gauge;
use qudao_telemetry::{Label, Metric};

use crate::WorkerSettings;

const QUEUE: Label = Label { name: "queue", values: &["turns", "outbox"] };

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "qudao_claimed_total",
        "Conversations and outbound messages that this node took",
    )
    .by(&[QUEUE]),
    Metric::counter(
        "qudao_claim_failures_total",
        "Looks at a queue that the database did not answer",
    )
    .by(&[QUEUE]),
    Metric::gauge("qudao_turns_in_flight", "Turns under way on this node"),
    Metric::gauge(
        "qudao_turns_in_flight_max",
        "How many turns this node runs at the same time; 0 if it runs none",
    ),
    Metric::gauge("qudao_deliveries_in_flight", "Deliveries under way on this node"),
    Metric::gauge(
        "qudao_deliveries_in_flight_max",
        "How many deliveries this node runs at the same time; 0 if it runs none",
    ),
    Metric::counter(
        "qudao_deliveries_total",
        "Tries to deliver: `failed` is tried again, `refused` is not",
    )
    .by(&[Label { name: "outcome", values: &["delivered", "failed", "refused"] }]),
    Metric::counter(
        "qudao_outbox_dead_total",
        "Replies and notices that were given up: refused, or failed once too often",
    ),
    Metric::counter(
        "qudao_swept_total",
        "What a sweep cleared away: what dead nodes left, idempotency keys older than a day, words of \
         messages older than their tenant keeps them, erasures that had broken off",
    )
    .by(&[Label {
        name: "what",
        values: &["blocks", "holds", "idempotency_records", "channel_events", "route_decisions", "messages", "erasures"],
    }]),
    Metric::counter("qudao_sweep_failures_total", "Sweeps that the database did not answer"),
];

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn tell_bounds(settings: &WorkerSettings) {
    gauge!("qudao_turns_in_flight_max").set(settings.turns_in_flight.max(1) as f64);
    gauge!("qudao_deliveries_in_flight_max").set(settings.deliveries_in_flight.max(1) as f64);
}
