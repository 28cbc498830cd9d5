use super::*;

#[test]
fn a_made_up_trace_is_a_valid_one() {
    assert!(is_traceparent(&new_traceparent()));
}

#[test]
fn a_foreign_trace_is_taken_only_if_it_is_well_formed() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert!(is_traceparent(good));
    for bad in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ] {
        assert!(!is_traceparent(bad), "{bad}");
    }
}

#[test]
fn a_request_id_that_could_forge_a_log_line_is_replaced() {
    let mut headers = HeaderMap::new();
    headers.insert(REQUEST_ID, HeaderValue::from_static("my id\t="));
    assert!(RequestContext::read(&headers).id().starts_with("req_"));
    headers.insert(REQUEST_ID, HeaderValue::from_static("client-42"));
    assert_eq!(RequestContext::read(&headers).id(), "client-42");
}
