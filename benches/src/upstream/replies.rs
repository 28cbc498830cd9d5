//! The mock's answers, word for word.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web::Bytes,
};
use serde_json::{Value, json};

/// A whole answer of about 430 bytes.
pub(super) const COMPLETION: &str = concat!(
    r#"{"id":"chatcmpl-mock","object":"chat.completion","created":1760000000,"model":"mock-json","#,
    r#""choices":[{"index":0,"message":{"role":"assistant","content":"Our shop opens at nine in the "#,
    r#"morning and closes at six in the evening, Monday to Saturday. On Sundays we answer messages "#,
    r#"only.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":24,"completion_tokens":32,"total_tokens":56}}"#
);

/// Role, `events - 3` words, finish, `[DONE]`; with the usage, if asked for, before the last.
pub(super) fn text_events(events: usize, include_usage: bool) -> Vec<Bytes> {
    let words = events.saturating_sub(3);
    let mut all = Vec::with_capacity(events + 1);
    all.push(chunk(&json!({ "role": "assistant", "content": "" }), &Value::Null));
    all.extend((0..words).map(|n| chunk(&json!({ "content": format!("word{n} ") }), &Value::Null)));
    all.push(chunk(&json!({}), &json!("stop")));
    if include_usage {
        all.push(data(&json!({
            "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_760_000_000,
            "model": "mock-json", "choices": [],
            "usage": { "prompt_tokens": 24, "completion_tokens": words, "total_tokens": 24 + words },
        })));
    }
    all.push(Bytes::from_static(b"data: [DONE]\n\n"));
    all
}

/// A tool call whose arguments come in two pieces.
pub(super) fn tool_events() -> Vec<Bytes> {
    let first = json!({ "role": "assistant", "content": null, "tool_calls": [{ "index": 0,
        "id": "call_mock", "type": "function",
        "function": { "name": "get_weather", "arguments": "" } }] });
    let piece =
        |text: &str| json!({ "tool_calls": [{ "index": 0, "function": { "arguments": text } }] });
    vec![
        chunk(&first, &Value::Null),
        chunk(&piece("{\"city\":"), &Value::Null),
        chunk(&piece("\"Chengdu\"}"), &Value::Null),
        chunk(&json!({}), &json!("tool_calls")),
        Bytes::from_static(b"data: [DONE]\n\n"),
    ]
}

/// The same call in one piece.
pub(super) fn tool_call() -> Value {
    json!({
        "id": "chatcmpl-mock", "object": "chat.completion", "created": 1_760_000_000,
        "model": "mock-tools",
        "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": null, "tool_calls": [{
                "id": "call_mock", "type": "function",
                "function": { "name": "get_weather", "arguments": "{\"city\":\"Chengdu\"}" } }] } }],
        "usage": { "prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52 },
    })
}

pub(super) fn wrong_key() -> HttpResponse {
    let said = "Incorrect API key provided.";
    error(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), said)
}

pub(super) fn rate_limited() -> HttpResponse {
    let said = "Rate limit reached for requests.";
    let kind = "rate_limit_error";
    let mut reply = error(StatusCode::TOO_MANY_REQUESTS, kind, Some("rate_limit_exceeded"), said);
    reply.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    reply
}

pub(super) fn outage() -> HttpResponse {
    error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, "The server had an error.")
}

pub(super) fn unknown_model(model: &str) -> HttpResponse {
    let said = format!("The model `{model}` does not exist.");
    error(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), &said)
}

pub(super) fn error(
    status: StatusCode,
    kind: &str,
    code: Option<&str>,
    message: &str,
) -> HttpResponse {
    HttpResponse::build(status).json(json!({
        "error": { "message": message, "type": kind, "param": null, "code": code },
    }))
}

fn chunk(delta: &Value, finish_reason: &Value) -> Bytes {
    data(&json!({
        "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_760_000_000,
        "model": "mock-json",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }],
    }))
}

fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
