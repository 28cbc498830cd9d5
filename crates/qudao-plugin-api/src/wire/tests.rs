use proptest::prelude::*;

use super::*;

#[test]
fn a_request_of_the_openai_api_reads_with_null_content_and_unknown_fields() {
    let text = r#"{"model":"m","new_field":1,"messages":[
        {"role":"developer","content":"be brief"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},
        {"role":"user","content":[{"type":"text","text":"你好"},{"type":"image_url"}]}]}"#;
    let request: ChatRequest = serde_json::from_str(text).unwrap();
    assert_eq!(request.schema, CHAT_SCHEMA);
    assert_eq!(request.messages[0].role, Role::System);
    assert_eq!(request.messages[1].content, None);
    assert_eq!(request.messages[2].content.as_ref().unwrap().to_text(), "你好");
}

#[test]
fn absent_fields_are_not_written() {
    let request = ChatRequest::new("m", vec![ChatMessage::text(Role::User, "hi")]);
    assert_eq!(
        serde_json::to_string(&request).unwrap(),
        r#"{"schema":"qudao.chat.v1","model":"m","messages":[{"role":"user","content":"hi"}],"params":{}}"#
    );
}

#[test]
fn finish_reasons_read_back_from_their_text() {
    for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls] {
        assert_eq!(FinishReason::find(reason.as_str()), Some(reason));
    }
    assert_eq!(FinishReason::find("because"), None);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Fractions that every reader reads alike.
        any::<i16>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let field = prop_oneof![
            "role|content|type|text|name|tool_calls|image_url|stop|seed|max_tokens|temperature",
            "[a-z]{1,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((field, inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_a_request_that_is_written_again_or_refused(messages in json(), params in json()) {
        for text in ["user", "assistant", "tool", "nobody"] {
            let text = serde_json::json!({
                "schema": CHAT_SCHEMA, "model": "m",
                "messages": [{ "role": text, "content": messages.clone() }, messages.clone()],
                "params": params.clone(),
            })
            .to_string();
            for text in [text.clone(), text.replace(&format!(",{messages}]"), "]")] {
                let Ok(request) = serde_json::from_str::<ChatRequest>(&text) else { continue };
                drop(request.last_user_text());
                let again = serde_json::to_string(&request).unwrap();
                prop_assert_eq!(serde_json::from_str::<ChatRequest>(&again).unwrap(), request);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_as_a_request(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(serde_json::from_slice::<ChatRequest>(&bytes).is_err());
    }
}
