use super::*;

fn sorted(status: u16, body: &str) -> Failure {
    from_reply(status, body.as_bytes(), None)
}

#[test]
fn each_refusal_has_its_kind() {
    let coded = |code: &str| {
        format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
    };
    for (status, body, kind) in [
        (401, coded("invalid_api_key"), ErrorKind::Auth),
        (403, coded("unsupported_country"), ErrorKind::Auth),
        (404, coded("model_not_found"), ErrorKind::UnknownModel),
        (400, coded("model_not_found"), ErrorKind::UnknownModel),
        (429, coded("rate_limit_exceeded"), ErrorKind::RateLimited),
        (429, coded("insufficient_quota"), ErrorKind::RateLimited),
        (400, coded("content_filter"), ErrorKind::ContentFilter),
        (400, coded("content_policy_violation"), ErrorKind::ContentFilter),
        (400, coded("invalid_value"), ErrorKind::BadRequest),
        (422, "{\"detail\":[]}".to_owned(), ErrorKind::BadRequest),
        (500, "<html>oops</html>".to_owned(), ErrorKind::Unavailable),
        (503, r#"{"error":"loading"}"#.to_owned(), ErrorKind::Unavailable),
        (504, String::new(), ErrorKind::Timeout),
    ] {
        let failure = sorted(status, &body);
        assert_eq!((failure.kind, failure.status), (kind, Some(status)), "{body}");
    }
}

#[test]
fn an_error_object_of_other_types_still_gives_its_message() {
    let failure = sorted(400, r#"{"error":{"code":400,"message":"no such parameter"}}"#);
    assert!(failure.message.contains("no such parameter"), "{}", failure.message);
}

#[test]
fn only_what_may_pass_is_tried_again() {
    assert!(sorted(503, "").passing);
    assert!(sorted(429, "").passing);
    assert!(!sorted(401, "").passing);
    let spent = r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":null}}"#;
    assert!(!sorted(429, spent).passing);
}

#[test]
fn an_error_in_a_stream_is_sorted_by_its_code() {
    let error = r#"{"message":"slow down","type":"rate_limit_error","code":429}"#;
    assert_eq!(from_stream(error).kind, ErrorKind::RateLimited);
    assert_eq!(from_stream("\"overloaded\"").kind, ErrorKind::Unavailable);
}

#[test]
fn a_page_of_an_error_is_cut_short() {
    assert!(sorted(500, &"x".repeat(100_000)).message.chars().count() <= MESSAGE_CHARS);
}

#[test]
fn only_messages_without_other_peoples_words_are_for_the_log() {
    let own = [
        Failure::timeout("no reply began", Duration::from_secs(1)),
        NetError::Unreachable("nobody listens".to_owned()).into(),
        NetError::Broken("reset".to_owned()).into(),
        NetError::Stalled("silence".to_owned()).into(),
    ];
    assert!(own.iter().all(|failure: &Failure| failure.own_words));
    let quoted = [sorted(400, "{}"), sorted(500, "oops"), from_stream("\"overloaded\"")];
    let quoted = quoted.into_iter().chain([Failure::bad_request("x"), Failure::unavailable("x")]);
    assert!(quoted.into_iter().all(|failure| !failure.own_words));
}
