use super::*;

#[test]
fn a_pointer_becomes_openais_name_of_the_parameter() {
    assert_eq!(openai_param("/messages/0/content"), "messages[0].content");
    assert_eq!(openai_param("/model"), "model");
}

#[test]
fn one_wrong_field_is_named_in_the_detail() {
    let error = ApiError::field("/name", "must not be empty");
    assert_eq!(error.detail(), "/name must not be empty");
    assert_eq!(error.openai().error.param.as_deref(), Some("name"));
}

#[test]
fn all_wrong_fields_are_reported_together() {
    let mut check = FieldCheck::default();
    let name: Option<u8> = check.take("/name", Err("is wrong"));
    check.refuse("/currency", "is wrong too");
    let error = check.finish(name).unwrap_err();
    let json = serde_json::to_value(error.problem("req_1")).unwrap();
    assert_eq!(json["errors"][1]["pointer"], "/currency");
    assert_eq!(json["status"], 422);
}

#[test]
fn retry_after_is_never_zero_seconds() {
    let error =
        ApiError::new(Code::RateLimited, "slow down").retry_after(Duration::from_millis(20));
    assert_eq!(error.retry_after_secs(), Some(1));
}
