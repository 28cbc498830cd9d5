use super::*;

#[test]
fn a_foreign_trace_is_taken_only_if_it_is_well_formed() {
    let mut headers = HeaderMap::new();
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert(TRACEPARENT, HeaderValue::from_static(good));
    assert_eq!(RequestContext::read(&headers).trace.traceparent(), good);
    headers.insert(TRACEPARENT, HeaderValue::from_static("00-4bf92f-00f067aa0ba902b7-01"));
    let made_up = RequestContext::read(&headers).trace;
    assert!(Trace::parse(&made_up.traceparent()).is_some());
}

#[test]
fn a_request_id_that_could_forge_a_log_line_is_replaced() {
    let mut headers = HeaderMap::new();
    headers.insert(REQUEST_ID, HeaderValue::from_static("my id\t="));
    assert!(RequestContext::read(&headers).id().starts_with("req_"));
    headers.insert(REQUEST_ID, HeaderValue::from_static("client-42"));
    assert_eq!(RequestContext::read(&headers).id(), "client-42");
}
