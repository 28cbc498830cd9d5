use serde_json::{Value, json};

use super::*;

fn sent(asked: &Value, change: &Value) -> Value {
    let mut settings = json!({ "base_url": "http://127.0.0.1" });
    for (name, value) in change.as_object().unwrap() {
        settings[name] = value.clone();
    }
    let settings: Settings = serde_json::from_value(settings).unwrap();
    let payload = asked.to_string();
    let asked: Asked<'_> = serde_json::from_str(&payload).unwrap();
    serde_json::to_value(asked.body(&settings)).unwrap()
}

#[test]
fn parameters_become_the_providers() {
    let asked = json!({
        "schema": "qudao.chat.v1", "model": "gpt", "messages": [{ "role": "user", "content": "Hi" }],
        "params": { "max_tokens": 9, "temperature": 0.7, "top_k": 40, "repeat_penalty": 1.1,
                    "stop": ["END"], "seed": 7 },
        "user": "u1",
    });
    assert_eq!(
        sent(&asked, &json!({})),
        json!({
            "model": "gpt", "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 9,
            "temperature": 0.7, "stop": ["END"], "seed": 7, "user": "u1",
            "stream": true, "stream_options": { "include_usage": true },
        })
    );
}

#[test]
fn settings_fit_the_request_to_the_provider() {
    let asked = json!({ "model": "m", "messages": [], "stream": false,
                        "params": { "max_tokens": 9, "top_k": 40, "repeat_penalty": 1.5 } });
    let change =
        json!({ "max_tokens_field": "max_completion_tokens", "sampling_extensions": true });
    assert_eq!(
        sent(&asked, &change),
        json!({ "model": "m", "messages": [], "max_completion_tokens": 9, "top_k": 40,
                "repetition_penalty": 1.5, "stream": false })
    );
    let streamed = json!({ "model": "m", "messages": [] });
    let plain = sent(&streamed, &json!({ "stream_usage": false }));
    assert_eq!(plain, json!({ "model": "m", "messages": [], "stream": true }));
}

#[test]
fn messages_tools_and_images_keep_every_field() {
    let messages = json!([
        { "role": "user", "content": [
            { "type": "text", "text": "看图 🙂" },
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA", "detail": "low" } },
            { "type": "future_part", "x": [1, 2.50, null] } ] },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "c1", "type": "function",
            "function": { "name": "f", "arguments": "{}" } }] },
        { "role": "tool", "tool_call_id": "c1", "content": "ok" },
    ]);
    let tools = json!([{ "type": "function", "function": { "name": "f", "strict": true } }]);
    let asked = json!({ "model": "m", "messages": messages, "tools": tools, "tool_choice": "auto",
                        "response_format": { "type": "json_object" } });
    let sent = sent(&asked, &json!({}));
    assert_eq!(sent["messages"], messages);
    assert_eq!(sent["tools"], tools);
    assert_eq!(sent["tool_choice"], "auto");
    assert_eq!(sent["response_format"], json!({ "type": "json_object" }));
}
