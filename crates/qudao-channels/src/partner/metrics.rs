//! The metrics of partners' channels.

use metrics::counter;
use qudao_telemetry::{Label, Metric};

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "qudao_partner_deliveries_total",
        "Tries to hand an event to a partner's endpoint: `failed` is tried again, `dead` is not, \
         `gone` disables the endpoint, `expired` was not sent any more",
    )
    .by(&[Label {
        name: "outcome",
        values: &["delivered", "failed", "dead", "gone", "expired", "unsendable"],
    }]),
    Metric::counter(
        "qudao_partner_breaker_opened_total",
        "Partners' endpoints that were paused because they kept failing",
    ),
    Metric::counter("qudao_partner_events_total", "Events of partners by what came of them").by(&[
        Label { name: "outcome", values: &["accepted", "duplicate", "refused", "unknown_kind"] },
    ]),
];

pub(crate) fn delivered(outcome: &'static str) {
    counter!("qudao_partner_deliveries_total", "outcome" => outcome).increment(1);
}

pub(crate) fn breaker_opened() {
    counter!("qudao_partner_breaker_opened_total").increment(1);
}

pub(crate) fn received(outcome: &'static str) {
    counter!("qudao_partner_events_total", "outcome" => outcome).increment(1);
}
