use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    name: String,
    #[serde(default)]
    items: Vec<u8>,
}

fn refusal(body: &str) -> (Code, Option<String>) {
    let error = decode::<Sample>(body.as_bytes()).unwrap_err();
    let json = serde_json::to_value(error.problem("req_1")).unwrap();
    (error.code(), json["errors"][0]["pointer"].as_str().map(str::to_owned))
}

#[test]
fn a_body_with_known_fields_is_taken() {
    let sample: Sample = decode(br#"{"name":"a","items":[1]}"#).unwrap();
    assert_eq!((sample.name.as_str(), sample.items.as_slice()), ("a", &[1][..]));
}

#[test]
fn text_that_is_not_json_and_json_that_is_not_the_type_are_told_apart() {
    assert_eq!(refusal("{\"name\":"), (Code::MalformedJson, None));
    assert_eq!(refusal("[1]"), (Code::ValidationFailed, Some(String::new())));
    assert_eq!(refusal(r#"{"name":1}"#), (Code::ValidationFailed, Some("/name".to_owned())));
    assert_eq!(
        refusal(r#"{"name":"a","items":[1,"b"]}"#),
        (Code::ValidationFailed, Some("/items/1".to_owned()))
    );
}

#[test]
fn a_field_that_nobody_documented_is_refused_by_name() {
    assert_eq!(
        refusal(r#"{"name":"a","nmae":"b"}"#),
        (Code::ValidationFailed, Some("/nmae".to_owned()))
    );
}

#[test]
fn json_nested_beyond_reason_is_refused_and_not_recursed_into() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(refusal(&deep).0, Code::MalformedJson);
}

#[test]
fn a_nul_is_found_wherever_it_hides() {
    assert_eq!(find_nul(&json!({ "a": [1, { "b": "x\0" }] })), Some("/a/1/b".to_owned()));
    assert_eq!(find_nul(&json!({ "a/b": "x\0" })), Some("/a~1b".to_owned()));
    assert_eq!(find_nul(&json!({ "a": "x" })), None);
    assert_eq!(
        refusal(r#"{"name":"a\u0000"}"#),
        (Code::ValidationFailed, Some("/name".to_owned()))
    );
}

#[test]
fn a_page_has_between_one_and_two_hundred_rows() {
    let limit = |limit| PageQuery { limit, cursor: None }.limit().ok();
    assert_eq!([limit(None), limit(Some(1)), limit(Some(200))], [Some(50), Some(1), Some(200)]);
    assert_eq!([limit(Some(0)), limit(Some(201))], [None, None]);
}

#[test]
fn an_announced_length_reserves_little_memory() {
    let capacities = [None, Some(300), Some(20 << 20)].map(first_capacity);
    assert_eq!(capacities, [1024, 300, 65_536]);
}

#[test]
fn who_forgets_the_content_type_is_told_what_to_add() {
    let mut headers = HeaderMap::new();
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("text/plain")] {
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        }
        let refused = check_media_type(&headers).unwrap_err();
        assert_eq!(refused.code(), Code::UnsupportedMediaType);
        assert!(refused.detail().ends_with("add: -H 'Content-Type: application/json'"));
    }
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, json);
    assert!(check_media_type(&headers).is_ok());
}

proptest::proptest! {
    #[test]
    fn any_body_is_read_or_refused_with_a_code_of_the_clients(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
        text in "[\\[\\]{}:,\"a-z0-9\\\\\\-.]{0,80}|\\{\"name\":\"\\PC{0,20}\"\\}",
    ) {
        for body in [bytes.as_slice(), text.as_bytes()] {
            if let Err(error) = decode::<Sample>(body) {
                let status = error.code().row().status;
                proptest::prop_assert!((400..500).contains(&status), "{}", status);
            }
        }
    }
}

#[test]
fn a_body_of_ten_thousand_levels_is_refused() {
    for (open, close) in [("[", "]"), ("{\"name\":", "}")] {
        let body = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        assert_eq!(refusal(&body).0, Code::MalformedJson);
    }
}

#[test]
fn a_key_that_is_there_twice_is_refused_at_any_depth() {
    for body in [r#"{"name":"a","name":"b"}"#, r#"{"name":"a","items":[{"x":1,"x":1}]}"#] {
        assert_eq!(refusal(body).0, Code::MalformedJson, "{body}");
    }
}

proptest::proptest! {
    #[test]
    fn what_has_no_key_twice_is_read_as_everybody_reads_it(
        name in "\\PC{0,12}",
        number in proptest::prelude::any::<i64>(),
        fraction in -1e300f64..1e300,
    ) {
        let value = json!({ "a": [name, number, fraction, null, true], (format!("_{name}")): { "b": [{}, []] } });
        let object = parse_object(value.to_string().as_bytes());
        if value.to_string().contains("\\u0000") {
            return Ok(());
        }
        let theirs = serde_json::from_str::<Value>(&value.to_string());
        proptest::prop_assert_eq!(object.ok(), theirs.ok());
    }
}
