//! The metrics of this crate: what is asked over HTTP, and who is connected.

use metrics::{counter, histogram};
use qudao_telemetry::{Label, Metric, Unit};

use crate::{Doors, endpoints_of};

const REQUEST: &[Label] = &[
    Label { name: "endpoint", values: &[] },
    Label { name: "method", values: &[] },
    Label { name: "status", values: &[] },
];

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter("qudao_http_requests_total", "Answered requests by the pattern of the endpoint (`none` for unknown paths), the method and the status").by(REQUEST),
    Metric::histogram("qudao_http_response_head_seconds", Unit::Seconds, "From a request to the head of its response; an answer that is streamed goes on after that").by(REQUEST),
    Metric::gauge("qudao_chat_connections", "Open sockets and event streams of web chats"),
];

/// Makes a series for each endpoint, at zero, as if it had been answered with 200.
pub(crate) fn register_endpoints(doors: Doors) {
    for endpoint in endpoints_of(doors).into_list() {
        let labels = [
            ("endpoint", endpoint.path.to_owned()),
            ("method", endpoint.method.to_string()),
            ("status", "200".to_owned()),
        ];
        counter!("qudao_http_requests_total", &labels).increment(0);
        drop(histogram!("qudao_http_response_head_seconds", &labels));
    }
}
