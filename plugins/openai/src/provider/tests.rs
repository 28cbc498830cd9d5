use std::{sync::Arc, time::Duration};

use qudao_plugin_api::wire::ErrorKind;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::{
    lender::Lender,
    mini::{Mini, Seen, Step, chunk, event, finish, reply, stream_end, stream_head, text},
};

const KEY: &str = "sk-very-secret-0123456789";

#[derive(Default)]
struct Record {
    batches: Vec<Vec<Piece>>,
    arrived: Arc<Notify>,
    /// Leaves after so many batches.
    leaves_after: Option<usize>,
}

impl Output for Record {
    async fn take(&mut self, pieces: Vec<Piece>) -> Result<(), Gone> {
        self.batches.push(pieces);
        self.arrived.notify_one();
        if self.leaves_after.is_some_and(|after| self.batches.len() >= after) {
            Err(Gone)
        } else {
            Ok(())
        }
    }
}

impl Record {
    fn text(&self) -> String {
        let pieces = self.batches.iter().flatten();
        pieces
            .filter_map(|p| if let Piece::Text(t) = p { Some(t.as_str()) } else { None })
            .collect()
    }

    fn data(&self) -> Vec<Value> {
        let pieces = self.batches.iter().flatten();
        pieces
            .filter_map(|p| if let Piece::Data(json) = p { Some(json) } else { None })
            .map(|json| serde_json::from_str(json).unwrap())
            .collect()
    }
}

async fn provider(base: &str, change: &Value) -> Tried {
    let mut settings = json!({ "base_url": base, "api_key": KEY, "max_retries": 0,
        "timeouts": { "connect_ms": 2000, "first_byte_ms": 3000, "idle_ms": 3000 } });
    for (name, value) in change.as_object().unwrap() {
        settings[name] = value.clone();
    }
    Tried::new(Provider::new(serde_json::from_value(settings).unwrap()).unwrap()).await
}

fn asked(stream: bool) -> Vec<u8> {
    json!({ "schema": "qudao.chat.v1", "model": "m", "stream": stream,
            "messages": [{ "role": "user", "content": "你好" }], "params": { "max_tokens": 20 } })
    .to_string()
    .into_bytes()
}

async fn ask(provider: &Tried, stream: bool) -> (Record, Result<Answered, Unanswered>) {
    provider.chat(asked(stream), None, Record::default()).await
}

/// A provider and a host that makes its exchanges.
#[derive(Clone)]
struct Tried(Arc<(Provider, Lender)>);

impl Tried {
    async fn new(provider: Provider) -> Self {
        Self(Arc::new((provider, Lender::start().await)))
    }

    /// Dropping it cancels the request.
    async fn chat(
        &self,
        payload: Vec<u8>,
        deadline: Option<Instant>,
        mut record: Record,
    ) -> (Record, Result<Answered, Unanswered>) {
        let tried = self.clone();
        self.0
            .1
            .lend(move |net| async move {
                let answered = tried.0.0.chat(&payload, deadline, "", &net, &mut record).await;
                (record, answered)
            })
            .await
    }
}

fn failed(answered: Result<Answered, Unanswered>) -> Failure {
    match answered {
        Err(Unanswered::Failed(failure)) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

fn good_stream() -> Vec<Step> {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 11, "completion_tokens": 3 } });
    vec![
        stream_head(),
        chunk(&event(&json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] }))),
        chunk(&[text("Hel"), text("lo")].concat()),
        Step::Wait(Duration::from_millis(20)),
        chunk(&text(" 🙂")),
        chunk(&[event(&usage), finish("stop")].concat()),
        stream_end(),
    ]
}

const WHOLE: &str = r#"{"choices":[{"message":{"role":"assistant","content":"Hello","refusal":null},
    "finish_reason":"length"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

#[tokio::test]
async fn a_stream_is_handed_on_with_the_providers_usage() {
    let mut mini = Mini::start(vec![good_stream()]).await;
    let (record, answered) =
        ask(&provider(&mini.base, &json!({ "organization": "acme" })).await, true).await;
    let usage = Usage { input_tokens: 11, output_tokens: 3 };
    let finish_reason = FinishReason::Stop;
    assert_eq!(answered, Ok(Answered { finish_reason, usage, estimated: false }));
    assert_eq!(record.text(), "Hello 🙂");
    assert_eq!(record.batches.first().map(Vec::len), Some(2), "one batch for one read");

    let (head, body) = mini.request().await;
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/chat/completions http/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: bearer {KEY}")), "{head}");
    assert!(head.contains("openai-organization: acme"), "{head}");
    assert_eq!(body["stream"], true);
    assert_eq!(body["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn a_whole_answer_is_one_batch() {
    let mut mini = Mini::start(vec![vec![reply("200 OK", "", WHOLE)]]).await;
    let (record, answered) = ask(&provider(&mini.base, &json!({})).await, false).await;
    let usage = Usage { input_tokens: 7, output_tokens: 2 };
    let finish_reason = FinishReason::Length;
    assert_eq!(answered, Ok(Answered { finish_reason, usage, estimated: false }));
    assert_eq!(record.batches, [[Piece::Text("Hello".to_owned())]]);
    let (head, body) = mini.request().await;
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    assert_eq!(body["stream"], false);
}

#[tokio::test]
async fn a_provider_that_does_not_stream_is_understood() {
    let mini = Mini::start(vec![vec![reply("200 OK", "", WHOLE)]]).await;
    let (record, answered) = ask(&provider(&mini.base, &json!({})).await, true).await;
    assert_eq!(answered.unwrap().usage, Usage { input_tokens: 7, output_tokens: 2 });
    assert_eq!(record.text(), "Hello");
}

#[tokio::test]
async fn connections_are_kept_between_calls() {
    let mut mini =
        Mini::start(vec![good_stream(), vec![reply("200 OK", "", WHOLE)], good_stream()]).await;
    let provider = provider(&mini.base, &json!({})).await;
    for stream in [true, false, true] {
        ask(&provider, stream).await.1.unwrap();
    }
    assert_eq!(mini.counts(), (1, 3));
}

#[tokio::test]
async fn tool_calls_reasoning_and_logprobs_come_through() {
    let call = json!({ "index": 0, "id": "c1", "function": { "name": "f", "arguments": "{" } });
    let stream = vec![
        stream_head(),
        chunk(&event(&json!({ "choices": [{ "delta": { "reasoning_content": "hm" } }] }))),
        chunk(&event(&json!({ "choices": [{ "delta": { "content": null, "tool_calls": [call] },
                                            "logprobs": { "content": [] } }] }))),
        chunk(&finish("tool_calls")),
        stream_end(),
    ];
    let mini = Mini::start(vec![stream]).await;
    let (record, answered) = ask(&provider(&mini.base, &json!({})).await, true).await;
    assert_eq!(answered.unwrap().finish_reason, FinishReason::ToolCalls);
    assert_eq!(record.batches[0], [Piece::Reasoning("hm".to_owned())]);
    assert_eq!(
        record.data(),
        [json!({ "tool_calls": [call] }), json!({ "logprobs": { "content": [] } })]
    );
}

#[tokio::test]
async fn characters_split_over_reads_are_whole_again() {
    let bytes = [text("价格是 🙂 元"), finish("stop")].concat();
    let mut stream = vec![stream_head()];
    for piece in bytes.chunks(3) {
        stream.push(chunk(piece));
        stream.push(Step::Wait(Duration::from_millis(1)));
    }
    stream.push(stream_end());
    let mini = Mini::start(vec![stream]).await;
    let (record, answered) = ask(&provider(&mini.base, &json!({})).await, true).await;
    answered.unwrap();
    assert_eq!(record.text(), "价格是 🙂 元");
}

#[tokio::test]
async fn usage_that_the_provider_omits_is_estimated_and_said_to_be() {
    let stream =
        vec![stream_head(), chunk(&text("你好，世界")), chunk(&finish("stop")), stream_end()];
    let mini = Mini::start(vec![stream]).await;
    let answered = ask(&provider(&mini.base, &json!({})).await, true).await.1.unwrap();
    assert!(answered.estimated);
    assert_eq!(answered.usage.output_tokens, 5);
    assert!((5..40).contains(&answered.usage.input_tokens), "{answered:?}");
}

#[tokio::test]
async fn each_refusal_reaches_the_operator_as_what_it_is() {
    for (status, code, kind) in [
        ("401 Unauthorized", "invalid_api_key", ErrorKind::Auth),
        ("404 Not Found", "model_not_found", ErrorKind::UnknownModel),
        ("429 Too Many Requests", "rate_limit_exceeded", ErrorKind::RateLimited),
        ("500 Internal Server Error", "server_error", ErrorKind::Unavailable),
        ("400 Bad Request", "invalid_value", ErrorKind::BadRequest),
        ("400 Bad Request", "content_filter", ErrorKind::ContentFilter),
    ] {
        for stream in [true, false] {
            let body = json!({ "error": { "message": format!("no: {KEY}"), "type": "t", "param": null, "code": code } });
            let mini =
                Mini::start(vec![vec![reply(status, "retry-after: 2\r\n", &body.to_string())]])
                    .await;
            let failure = failed(ask(&provider(&mini.base, &json!({})).await, stream).await.1);
            assert_eq!(failure.kind, kind, "{status} {code}");
            assert_eq!(failure.status, status[..3].parse().ok());
            assert_eq!(failure.retry_after, Some(Duration::from_secs(2)));
            assert!(!failure.message.contains(KEY), "{}", failure.message);
            assert!(failure.message.contains("[key]"), "{}", failure.message);
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_unavailable() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failure =
        failed(ask(&provider(&format!("http://{gone}/v1"), &json!({})).await, true).await.1);
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(!failure.message.contains(&gone.to_string()), "{}", failure.message);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut mini = Mini::start(vec![vec![reply("302 Found", "location: /v2\r\n", "{}")]]).await;
    let failure =
        failed(ask(&provider(&mini.base, &json!({ "max_retries": 3 })).await, true).await.1);
    assert_eq!(failure.kind, ErrorKind::BadRequest);
    assert_eq!(mini.counts().1, 1);
}

#[tokio::test]
async fn the_wait_that_the_provider_asks_for_is_kept() {
    let refusal = || vec![reply("429 Too Many Requests", "retry-after-ms: 300\r\n", "{}")];
    for stream in [true, false] {
        let answer = if stream { good_stream() } else { vec![reply("200 OK", "", WHOLE)] };
        let mut mini = Mini::start(vec![refusal(), answer]).await;
        let begun = Instant::now();
        ask(&provider(&mini.base, &json!({ "max_retries": 1 })).await, stream).await.1.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(mini.counts().1, 2);
    }
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let refusal = vec![reply("429 Too Many Requests", "retry-after: 60\r\n", "{}")];
    let for_ever = vec![reply("429 Too Many Requests", "retry-after: 1e18\r\n", "{}")];
    let mini = Mini::start(vec![refusal, for_ever]).await;
    let begun = Instant::now();
    let deadline = Some(begun + Duration::from_secs(30));
    let provider = provider(&mini.base, &json!({ "max_retries": 5 })).await;
    let failure = failed(provider.chat(asked(true), deadline, Record::default()).await.1);
    assert_eq!(failure.kind, ErrorKind::RateLimited);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(60)));
    let failure = failed(provider.chat(asked(true), deadline, Record::default()).await.1);
    assert_eq!(failure.kind, ErrorKind::RateLimited);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn attempts_are_bounded_and_a_wrong_key_is_tried_once() {
    for (status, attempts) in [("503 Service Unavailable", 3), ("401 Unauthorized", 1)] {
        let scripts = (0..5).map(|_| vec![reply(status, "retry-after-ms: 1\r\n", "{}")]).collect();
        let mut mini = Mini::start(scripts).await;
        failed(ask(&provider(&mini.base, &json!({ "max_retries": 2 })).await, true).await.1);
        assert_eq!(mini.counts().1, attempts, "{status}");
    }
}

#[tokio::test]
async fn nothing_is_tried_again_once_a_byte_of_the_answer_came() {
    let broken =
        vec![stream_head(), chunk(&text("Hel")), Step::Wait(Duration::from_millis(20)), Step::Cut];
    let mut mini = Mini::start(vec![broken, good_stream()]).await;
    let (record, answered) =
        ask(&provider(&mini.base, &json!({ "max_retries": 3 })).await, true).await;
    assert_eq!(failed(answered).kind, ErrorKind::Unavailable);
    assert_eq!(record.text(), "Hel");
    assert_eq!(mini.counts().1, 1);
}

#[tokio::test]
async fn a_provider_that_keeps_silent_is_too_slow() {
    let change = json!({ "timeouts": { "first_byte_ms": 150, "idle_ms": 150 } });
    for script in [
        vec![Step::AwaitClose],
        vec![stream_head(), Step::AwaitClose],
        vec![stream_head(), chunk(&text("Hel")), Step::AwaitClose],
    ] {
        let mut mini = Mini::start(vec![script]).await;
        let failure = failed(ask(&provider(&mini.base, &change).await, true).await.1);
        assert_eq!(failure.kind, ErrorKind::Timeout, "{failure:?}");
        while !matches!(mini.next().await, Seen::Closed) {}
    }
}

#[tokio::test]
async fn a_whole_answer_has_until_the_deadline() {
    let late = vec![Step::Wait(Duration::from_millis(400)), reply("200 OK", "", WHOLE)];
    let mini = Mini::start(vec![late, vec![Step::AwaitClose]]).await;
    let provider = provider(&mini.base, &json!({ "timeouts": { "first_byte_ms": 100 } })).await;
    ask(&provider, false).await.1.unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let answered = provider.chat(asked(false), deadline, Record::default()).await.1;
    assert_eq!(failed(answered).kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn broken_streams_are_failures_and_never_short_answers() {
    let not_json = b"data: {\"choices\":[{\"delta\":\n\n".to_vec();
    let not_utf8 = b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n".to_vec();
    let reported = event(&json!({ "error": { "message": "boom", "code": "server_error" } }));
    for bad in [not_json, not_utf8, reported, Vec::new()] {
        let mut stream = vec![stream_head(), chunk(&text("Hel"))];
        if !bad.is_empty() {
            stream.push(chunk(&bad));
        }
        stream.push(stream_end());
        let mini = Mini::start(vec![stream]).await;
        let (record, answered) = ask(&provider(&mini.base, &json!({})).await, true).await;
        assert_eq!(failed(answered).kind, ErrorKind::Unavailable);
        assert_eq!(record.text(), "Hel", "what came before is still handed on");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_unavailable() {
    for body in ["<html>", "{\"choices\":[]}"] {
        for stream in [true, false] {
            let mini = Mini::start(vec![vec![reply("200 OK", "", body)]]).await;
            let failure = failed(ask(&provider(&mini.base, &json!({})).await, stream).await.1);
            assert_eq!(failure.kind, ErrorKind::Unavailable, "{body}");
        }
    }
}

#[tokio::test]
async fn cancelling_closes_the_connection_at_once() {
    for script in
        [vec![Step::AwaitClose], vec![stream_head(), chunk(&text("Hel")), Step::AwaitClose]]
    {
        let waits_for_text = script.len() > 1;
        let mut mini = Mini::start(vec![script]).await;
        let provider = provider(&mini.base, &json!({})).await;
        let record = Record::default();
        let arrived = Arc::clone(&record.arrived);
        let begun = tokio::select! {
            answered = provider.chat(asked(true), None, record) => panic!("{:?}", answered.1),
            begun = async {
                if waits_for_text { arrived.notified().await } else { mini.request().await; }
                Instant::now()
            } => begun,
        };
        while !matches!(mini.next().await, Seen::Closed) {}
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_reader_that_left_ends_the_call() {
    let endless = vec![stream_head(), chunk(&text("Hel")), Step::AwaitClose];
    let mut mini = Mini::start(vec![endless]).await;
    let provider = provider(&mini.base, &json!({})).await;
    let record = Record { leaves_after: Some(1), ..Record::default() };
    let answered = provider.chat(asked(true), None, record).await.1;
    assert_eq!(answered, Err(Unanswered::Cancelled));
    while !matches!(mini.next().await, Seen::Closed) {}
}

#[tokio::test]
async fn a_server_without_a_key_gets_no_authorization() {
    let mut mini = Mini::start(vec![good_stream(), vec![reply("200 OK", "", WHOLE)]]).await;
    let settings = json!({ "base_url": mini.base });
    let provider = Provider::new(serde_json::from_value(settings).unwrap()).unwrap();
    let provider = Tried::new(provider).await;
    for stream in [true, false] {
        ask(&provider, stream).await.1.unwrap();
        let (head, _) = mini.request().await;
        assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
    }
}

#[tokio::test]
async fn a_key_does_not_follow_a_redirect() {
    let mut elsewhere = Mini::start(vec![good_stream()]).await;
    for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
        let to = format!("location: {}/chat/completions\r\n", elsewhere.base);
        let mut mini = Mini::start(vec![vec![reply(status, &to, "")]]).await;
        let provider = provider(&mini.base, &json!({})).await;
        let failure = failed(ask(&provider, true).await.1);
        assert!(failure.message.contains("redirects"), "{failure:?}");
        let (head, _) = mini.request().await;
        assert!(head.contains(KEY), "its own key went to its own address");
    }
    assert_eq!(elsewhere.counts(), (0, 0));
}

#[tokio::test]
async fn a_key_in_the_platforms_environment_goes_nowhere() {
    const TEST: &str = "provider::tests::a_key_in_the_platforms_environment_goes_nowhere";
    const PLATFORM: [&str; 3] = ["OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID"];
    #[expect(clippy::disallowed_methods, reason = "tells the child from the parent")]
    let child = std::env::var("OPENAI_ORG_ID").is_ok_and(|value| value == "platform-secret");
    if !child {
        // The variables are set for a child: this very test again.
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST]);
        for name in PLATFORM {
            command.env(name, "platform-secret");
        }
        assert!(command.status().await.unwrap().success());
        return;
    }
    let script = || vec![reply("200 OK", "", WHOLE)];
    let mut mini = Mini::start(vec![script(), script()]).await;
    let keyless = serde_json::from_value(json!({ "base_url": mini.base })).unwrap();
    let keyless = Tried::new(Provider::new(keyless).unwrap()).await;
    ask(&keyless, false).await.1.unwrap();
    let (head, body) = mini.request().await;
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    assert!(!format!("{head}{body}").contains("platform-secret"), "{head}");
    let own = provider(&mini.base, &json!({})).await;
    ask(&own, false).await.1.unwrap();
    let (head, body) = mini.request().await;
    assert!(head.contains(KEY), "{head}");
    assert!(!format!("{head}{body}").contains("platform-secret"), "{head}");
}

#[tokio::test]
async fn a_payload_that_is_no_chat_request_is_a_bad_request() {
    let provider = provider("http://127.0.0.1:9/v1", &json!({})).await;
    for payload in ["", "[]", "{\"model\":\"m\"}"] {
        let answered = provider.chat(payload.into(), None, Record::default()).await.1;
        assert_eq!(failed(answered).kind, ErrorKind::BadRequest, "{payload}");
    }
}
