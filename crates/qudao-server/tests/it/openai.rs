//! The OpenAI-compatible endpoints: every byte that a client could depend on.

use std::time::{Duration, Instant};

use insta::assert_json_snapshot;
use qudao_storage::Rate;
use serde_json::{Value, json};

use crate::{
    http::Stream,
    model::Script,
    world::{Plan, World, completion},
};

/// One pixel.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4\
                       2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const CREDITS: i64 = 100_000_000;

/// The chunks of a stream; what follows them has to be `[DONE]`.
async fn chunks(mut stream: Stream) -> Vec<Value> {
    let mut chunks = Vec::new();
    while let Some(event) = stream.event().await {
        let data = event.strip_prefix("data: ").expect("an event is one data line");
        if data == "[DONE]" {
            assert_eq!(stream.event().await, None);
            return chunks;
        }
        chunks.push(serde_json::from_str(data).unwrap());
    }
    panic!("no [DONE] after {chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_completion_has_openais_shape() {
    let script = Script::says(&["Hi", " there"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let answer = world.complete(&tenant, &json!({})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_json_snapshot!(answer.body, { ".id" => "[id]", ".created" => "[time]" });
    assert_eq!(world.db.psql("SELECT charge FROM usage_events"), "2000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_completion_has_openais_shape() {
    let script = Script::says(&["Hi", " there"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let body = completion(&json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let key = tenant.api_key.reveal();
    let stream = world.stream("POST", "/v1/chat/completions", &key, &body.to_string()).await;
    assert_eq!(stream.status, 200);
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let chunks = chunks(stream).await;
    assert_json_snapshot!(chunks, { "[].id" => "[id]", "[].created" => "[time]" });
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_openais_shape_and_no_model_is_called() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let (rich, poor) = (world.tenant(CREDITS).await, world.tenant(0).await);
    let empty = world.complete(&poor, &json!({})).await;
    let streamed = world.complete(&poor, &json!({ "stream": true })).await;
    assert_eq!((empty.status, streamed.status), (402, 402));
    assert_eq!(empty.body, streamed.body);
    let unknown = world.complete(&rich, &json!({ "model": "gpt-9" })).await;
    let hot = world.complete(&rich, &json!({ "temperature": 3 })).await;
    let many = world.complete(&rich, &json!({ "n": 2 })).await;
    assert_eq!([unknown.status, hot.status, many.status], [404, 400, 400]);
    assert_json_snapshot!([empty.body, unknown.body, hot.body, many.body]);
    assert_eq!(script.calls(), 0);
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_key_is_told_and_kept() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let mut plan = Plan { model: Some(script.clone()), ..Plan::default() };
    // So slow that nothing flows back while the test runs.
    plan.core.rates.key = Rate::per_minute(1, 2);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let left = ["1", "0"];
    for (left, stream) in left.into_iter().zip([false, true]) {
        let answer = world.complete(&tenant, &json!({ "stream": stream })).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        let reset = answer.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.ends_with('s'), "{reset}");
    }
    let refused = world.complete(&tenant, &json!({})).await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("2"));
    assert_json_snapshot!(refused.body);
    assert_eq!(script.calls(), 2);
    let other = world.tenant(CREDITS).await;
    assert_ne!(world.complete(&other, &json!({})).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_images_reach_the_model_and_its_calls_come_back() {
    let call = |value: Value| json!({ "tool_calls": [value] });
    let script = Script::calls_tools(vec![
        call(json!({
            "index": 0, "id": "call_1", "type": "function",
            "function": { "name": "weather", "arguments": "" },
        })),
        call(json!({ "index": 0, "function": { "arguments": "{\"city\":\"Paris\"}" } })),
    ]);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [
            { "type": "text", "text": "What is this?" },
            { "type": "image_url", "image_url": { "url": PICTURE } },
        ] },
        { "role": "assistant", "content": null, "tool_calls": [{
            "id": "call_0", "type": "function",
            "function": { "name": "look", "arguments": "{}" },
        }] },
        { "role": "tool", "content": "rain", "tool_call_id": "call_0" },
    ]);
    let tools = json!([{ "type": "function", "function": {
        "name": "weather", "parameters": { "type": "object", "properties": {} },
    } }]);
    let more = json!({
        "messages": messages, "tools": tools, "tool_choice": "auto", "temperature": 0.5,
        "stop": "END", "response_format": { "type": "json_object" }, "store": true,
    });
    let whole = world.complete(&tenant, &more).await;
    assert_eq!(whole.status, 200, "{}", whole.body);
    let asked = script.asked();
    let mut expected = messages.clone();
    // Nothing said and `null` are the same.
    expected[2].as_object_mut().unwrap().remove("content");
    assert_eq!((&asked["messages"], &asked["tools"]), (&expected, &tools));
    assert_eq!(asked["tool_choice"], "auto");
    assert_eq!(asked["response_format"], json!({ "type": "json_object" }));
    assert_eq!(asked["params"]["stop"], json!(["END"]));
    assert_json_snapshot!(whole.body, { ".id" => "[id]", ".created" => "[time]" });

    let mut more = more;
    more["stream"] = json!(true);
    let (key, body) = (tenant.api_key.reveal(), completion(&more).to_string());
    let chunks = chunks(world.stream("POST", "/v1/chat/completions", &key, &body).await).await;
    assert_json_snapshot!(chunks, { "[].id" => "[id]", "[].created" => "[time]" });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_pays_for_what_was_delivered() {
    let (script, prompter) = Script::prompted();
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let body = completion(&json!({ "stream": true })).to_string();
    prompter.say("one");
    let key = tenant.api_key.reveal();
    let mut stream = world.stream("POST", "/v1/chat/completions", &key, &body).await;
    prompter.say("two");
    let mut text = String::new();
    while text != "onetwo" {
        let event = stream.event().await.unwrap();
        let chunk: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap());
    }
    drop(stream);
    let books = "SELECT delivered_tokens, charge, end_reason FROM usage_events";
    world.eventually(books, "2|2000|cancelled").await;
    world.eventually("SELECT sum(amount) FROM ledger_entries", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_not_held_back_by_the_kernel() {
    const EVENTS: usize = 35;
    let script = Script::says(&["x"; EVENTS], Duration::from_millis(5));
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let body = completion(&json!({ "stream": true })).to_string();
    let key = tenant.api_key.reveal();
    // With the kernel's delay, every second event of each stream would wait for 40 ms; a busy machine
    // may hold back those of some.
    let mut quartiles = Vec::new();
    for _ in 0..20 {
        let mut stream = world.stream("POST", "/v1/chat/completions", &key, &body).await;
        let (mut gaps, mut last) = (Vec::new(), Instant::now());
        while stream.event().await.is_some() {
            gaps.push(last.elapsed());
            last = Instant::now();
        }
        assert!(EVENTS < gaps.len(), "{}", gaps.len());
        gaps.sort();
        let upper_quartile = gaps[gaps.len() * 3 / 4];
        if upper_quartile < Duration::from_millis(30) {
            return;
        }
        quartiles.push(upper_quartile);
    }
    panic!("{quartiles:?}");
}
