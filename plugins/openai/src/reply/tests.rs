use super::*;

#[test]
fn a_plain_piece_borrows_its_text_from_the_network() {
    let json = r#"{"choices":[{"delta":{"role":"assistant","content":"Hello"}}]}"#;
    let reply: Reply<'_> = serde_json::from_str(json).unwrap();
    let delta = reply.choices[0].delta.as_ref().unwrap();
    assert!(matches!(delta.content, Some(Cow::Borrowed("Hello"))));
    assert_eq!(delta.rest_json(), None);
}

#[test]
fn escapes_are_resolved() {
    let json = r#"{"choices":[{"delta":{"content":"a\n\u4ef7\ud83d\ude42"}}]}"#;
    let reply: Reply<'_> = serde_json::from_str(json).unwrap();
    assert_eq!(reply.choices[0].delta.as_ref().unwrap().content.as_deref(), Some("a\n价🙂"));
}

#[test]
fn fields_that_nobody_knows_are_carried_as_they_came() {
    let json = r#"{"choices":[{"delta":{"content":null,"tool_calls":[{"index":0}],"odd\"name":1.50,
                   "refusal":null}}]}"#;
    let reply: Reply<'_> = serde_json::from_str(json).unwrap();
    let rest = reply.choices[0].delta.as_ref().unwrap().rest_json().unwrap();
    assert_eq!(rest, r#"{"tool_calls":[{"index":0}],"odd\"name":1.50}"#);
}
