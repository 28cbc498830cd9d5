//! What every answered request counts.

use std::{cell::RefCell, collections::HashMap, time::Instant};

use actix_web::{body::BoxBody, dev::ServiceResponse, http::Method};
use metrics::{Counter, Histogram, counter, histogram};

/// The pattern of the endpoint, the method and the status.
type Series = (String, &'static str, u16);

thread_local! {
    /// Handles of the series that this thread has counted: to find one by its labels costs more
    /// than all the rest. Bounded, since endpoints, methods and statuses are.
    static SERIES: RefCell<HashMap<Series, (Counter, Histogram)>> = RefCell::default();
}

/// Counts a response and the time until its head was there.
pub(crate) fn count(response: &ServiceResponse<BoxBody>, started: Instant) {
    // The pattern and not the path: ids would make a time series each.
    let endpoint = response.request().match_pattern().unwrap_or_else(|| "none".to_owned());
    let method = method_label(response.request().method());
    let series = (endpoint, method, response.status().as_u16());
    SERIES.with_borrow_mut(|known| {
        let (requests, seconds) = known.entry(series).or_insert_with_key(handles);
        requests.increment(1);
        seconds.record(started.elapsed().as_secs_f64());
    });
}

fn handles((endpoint, method, status): &Series) -> (Counter, Histogram) {
    let labels = [
        ("endpoint", endpoint.clone()),
        ("method", (*method).to_owned()),
        ("status", status.to_string()),
    ];
    (
        counter!("qudao_http_requests_total", &labels),
        histogram!("qudao_http_response_head_seconds", &labels),
    )
}

/// HTTP lets a client make up a method, and each would be a time series for ever.
pub(crate) fn method_label(method: &Method) -> &'static str {
    const KNOWN: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.iter().find(|known| **known == method.as_str()).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_a_client_made_up_gets_no_time_series_of_its_own() {
        let label = |name: &str| method_label(&Method::from_bytes(name.as_bytes()).unwrap());
        assert_eq!([label("GET"), label("PATCH"), label("DELETE")], ["GET", "PATCH", "DELETE"]);
        assert_eq!([label("FOO1"), label("FOO2"), label("get")], ["other"; 3]);
    }
}
