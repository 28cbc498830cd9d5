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
