//! The metrics of this crate.

use metrics::counter;
use qudao_telemetry::{Label, Metric};

use crate::EgressError;

const OUTCOMES: &[&str] = &{
    let mut all = ["answered"; EgressError::CODES.len() + 1];
    let mut at = 0;
    while at < EgressError::CODES.len() {
        all[at + 1] = EgressError::CODES[at];
        at += 1;
    }
    all
};

/// All of them.
pub const METRICS: &[Metric] = &[Metric::counter("qudao_egress_requests_total", "Requests to addresses that tenants chose, by what came of them; `address_not_public` also where a name has no address")
    .by(&[Label { name: "outcome", values: OUTCOMES }])];

pub(crate) fn count<T>(ended: &Result<T, EgressError>) {
    let outcome = ended.as_ref().map_or_else(EgressError::code, |_| "answered");
    counter!("qudao_egress_requests_total", "outcome" => outcome).increment(1);
}
