use qudao_domain::Micros;

use super::*;

fn heading() -> Heading {
    Heading { id: "chatcmpl-1".to_owned(), created: 7, model: "a \"b\"".to_owned() }
}

fn delta(text: &str) -> ApiEvent {
    ApiEvent::Delta { text: text.to_owned(), reasoning: false }
}

fn end() -> ApiEvent {
    let usage = Usage { input_tokens: 3, output_tokens: 2 };
    ApiEvent::End { finish_reason: FinishReason::Stop, usage, charge: Micros::new(5) }
}

fn chunks(events: &[ApiEvent], include_usage: bool) -> Vec<Value> {
    let mut writer = ChunkWriter::new(heading(), include_usage);
    let mut out = BytesMut::new();
    for event in events {
        writer.write(event, &mut out);
    }
    let text = String::from_utf8(out.to_vec()).unwrap();
    let lines: Vec<_> = text.strip_suffix("\n\n").unwrap().split("\n\n").collect();
    assert_eq!(lines.last(), Some(&"data: [DONE]"));
    let bodies = lines[..lines.len() - 1].iter();
    bodies.map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn a_stream_begins_with_the_role_and_ends_with_the_reason() {
    let chunks = chunks(&[delta("你\n"), delta("\"b\""), end()], false);
    let deltas: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(
        deltas,
        [
            &json!({ "role": "assistant", "content": "" }),
            &json!({ "content": "你\n" }),
            &json!({ "content": "\"b\"" }),
            &json!({}),
        ]
    );
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(chunks[0]["model"], "a \"b\"");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn usage_comes_in_a_chunk_of_its_own_when_it_was_asked_for() {
    let chunks = chunks(&[delta("a"), end()], true);
    assert!(chunks[..3].iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(chunks[3]["choices"], json!([]));
    assert_eq!(
        chunks[3]["usage"],
        json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 })
    );
}

#[test]
fn a_whole_answer_has_openais_shape() {
    let mut collector = Collector::default();
    assert!(collector.push(delta("a")).is_none());
    assert!(collector.push(delta("b")).is_none());
    let (reason, usage) = collector.push(end()).unwrap();
    let body = serde_json::to_value(collector.finish(&heading(), reason, usage)).unwrap();
    assert_eq!(
        body["choices"][0],
        json!({
            "index": 0, "logprobs": null, "finish_reason": "stop",
            "message": { "role": "assistant", "content": "ab", "refusal": null },
        })
    );
    assert_eq!(body["usage"]["total_tokens"], 5);
}

#[test]
fn probabilities_stand_beside_the_answer() {
    let told = |token: &str| {
        let entry = json!({ "token": token, "logprob": -0.5, "bytes": null, "top_logprobs": [] });
        ApiEvent::Data(json!({ "logprobs": { "content": [entry] } }))
    };
    let events = [delta("a"), told("a"), delta("b"), told("b"), end()];
    let chunks = chunks(&events, false);
    let choice = &chunks[2]["choices"][0];
    assert_eq!(choice["delta"], json!({}));
    assert_eq!(choice["logprobs"]["content"][0]["token"], "a");
    assert_eq!(choice["finish_reason"], Value::Null);
    assert!(chunks[1]["choices"][0]["logprobs"].is_null());
    let mut collector = Collector::default();
    let last = events.into_iter().find_map(|event| collector.push(event));
    let (reason, usage) = last.unwrap();
    let body = serde_json::to_value(collector.finish(&heading(), reason, usage)).unwrap();
    let content = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let tokens: Vec<_> = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["a", "b"]);
    assert!(body["choices"][0]["message"].get("logprobs").is_none());
}

#[test]
fn the_pieces_of_a_tool_call_are_joined() {
    let mut collector = Collector::default();
    let call = |value: Value| ApiEvent::Data(json!({ "tool_calls": [value] }));
    collector.push(call(json!({
        "index": 0, "id": "call_1", "type": "function",
        "function": { "name": "weather", "arguments": "" },
    })));
    collector.push(call(json!({ "index": 0, "function": { "arguments": "{\"city\":" } })));
    collector.push(call(json!({ "index": 0, "function": { "arguments": "\"Paris\"}" } })));
    let usage = Usage { input_tokens: 1, output_tokens: 1 };
    let whole = collector.finish(&heading(), FinishReason::ToolCalls, usage);
    let body = serde_json::to_value(whole).unwrap();
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Paris\"}");
    assert_eq!(message["tool_calls"][0].get("index"), None);
}

#[test]
fn a_tool_call_whose_first_piece_lacks_members_is_whole_in_the_end() {
    let joined = |pieces: &[Value]| {
        let mut collector = Collector::default();
        for piece in pieces {
            collector.push(ApiEvent::Data(json!({ "tool_calls": [piece] })));
        }
        let usage = Usage { input_tokens: 1, output_tokens: 1 };
        let whole = collector.finish(&heading(), FinishReason::ToolCalls, usage);
        serde_json::to_value(whole).unwrap()["choices"][0]["message"]["tool_calls"].clone()
    };
    let whole = json!([{
        "id": "call_1", "type": "function",
        "function": { "name": "weather", "arguments": "{\"a\":1}" },
    }]);
    let arguments = |text: &str| json!({ "index": 0, "function": { "arguments": text } });
    for first in [
        json!({ "name": "weather" }),
        json!({ "name": "weather", "arguments": null }),
        json!({ "name": "weather", "arguments": "" }),
    ] {
        let first = json!({ "index": 0, "id": "call_1", "type": "function", "function": first });
        assert_eq!(joined(&[first, arguments("{\"a\""), arguments(":1}")]), whole);
    }
    let first = json!({ "index": 0, "id": "call_1" });
    let named = json!({ "index": 0, "type": "function", "function": { "name": "weather" } });
    assert_eq!(joined(&[first, named, arguments("{\"a\":"), arguments("1}")]), whole);
}
