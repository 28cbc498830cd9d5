//! One trace per turn and per call, from its beginning to the provider, and none of it says what
//! anybody wrote.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header_exists, method},
};

use crate::{
    collector::{Collector, Span},
    metrics,
    platform::{Platform, Wanted, openai_instance},
    visitor::Visitor,
};

/// No span, metric or log line may hold any of these.
const QUESTION: &str = "canary-question-7f3a one two three";
const ANSWER: &str = "canary-answer-91bc four five";
const PROVIDER_KEY: &str = "sk-test";
/// The trace and the span of a client.
const CLIENT: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

fn reply() -> ResponseTemplate {
    let answer = json!({
        "id": "c1", "object": "chat.completion", "created": 1, "model": "remote",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": ANSWER },
        }],
        "usage": { "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 },
    });
    ResponseTemplate::new(200).set_body_json(answer)
}

async fn provider() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(reply()).mount(&server).await;
    server
}

/// A provider that leaves the first request of a turn without an answer.
async fn provider_that_hangs_once() -> MockServer {
    let server = MockServer::start().await;
    // The demo's own greeting has no trace.
    let first = Mock::given(method("POST")).and(header_exists("traceparent"));
    let hangs = reply().set_delay(Duration::from_secs(60));
    first.respond_with(hangs).up_to_n_times(1).mount(&server).await;
    Mock::given(method("POST")).respond_with(reply()).mount(&server).await;
    server
}

/// The `traceparent`s that reached a provider, in order; the demo's own greeting has none.
async fn seen_by(provider: &MockServer) -> Vec<String> {
    let requests = provider.received_requests().await.unwrap();
    let header = |request: &wiremock::Request| {
        request.headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned())
    };
    requests.iter().filter_map(header).collect()
}

async fn platform(provider: &MockServer, collector: &str, more: &str) -> Platform {
    let settings = openai_instance(&format!("{}/v1", provider.uri()), &["remote"]) + more;
    let environment = vec![
        ("QUDAO__DEMO__MODEL", "remote".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.to_owned()),
        ("QUDAO_LOG", "debug,hyper=info,h2=info".to_owned()),
    ];
    Platform::start_with(Wanted { settings, environment, ..Wanted::default() }).await
}

/// The spans of a trace by their name; each is there once.
async fn trace(collector: &Collector, id: &str) -> BTreeMap<String, Span> {
    let mut spans = BTreeMap::new();
    for span in collector.spans().await {
        if span.trace == id {
            let name = span.name.clone();
            assert!(spans.insert(name, span).is_none(), "a span is there twice");
        }
    }
    spans
}

/// Log lines alone: the demo prints its keys.
fn log_lines(platform: &Platform) -> String {
    let log = platform.log();
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty());
    lines.join("\n")
}

async fn assert_nothing_is_said(platform: &Platform, collector: &Collector) {
    let spans = String::from_utf8_lossy(&collector.raw().await).into_owned();
    let (metrics, log) = (platform.metrics().await, log_lines(platform));
    for secret in [
        "canary-question",
        "canary-answer",
        PROVIDER_KEY,
        platform.text("api_key"),
        platform.text("operator_key"),
    ] {
        for (place, text) in [("the spans", &spans), ("the metrics", &metrics), ("the log", &log)] {
            assert!(!text.contains(secret), "{place} hold {secret}");
        }
    }
}

#[tokio::test]
async fn a_web_turn_is_one_trace_from_its_acceptance_to_the_provider_and_to_its_delivery() {
    let (provider, collector) = (provider().await, Collector::start().await);
    let platform = platform(&provider, &collector.url(), "").await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    assert_eq!(visitor.reply().await["text"], ANSWER);

    let turn = platform.charged_turns().await[0]["turn_id"].as_str().unwrap().to_owned();
    let id = turn.trim_start_matches("trn_");
    let expected = ["accept", "chat remote", "commit", "deliver", "hold", "plugin", "turn", "wait"];
    for name in expected {
        collector.wait_for(id, name).await;
    }
    let spans = trace(&collector, id).await;
    let names: Vec<_> = spans.keys().map(String::as_str).collect();
    assert_eq!(names, expected);
    let parents = [
        ("turn", "accept"),
        ("wait", "turn"),
        ("hold", "turn"),
        ("chat remote", "turn"),
        ("plugin", "chat remote"),
        ("commit", "turn"),
        ("deliver", "accept"),
    ];
    assert_eq!(spans["accept"].parent, "");
    for (child, parent) in parents {
        assert_eq!(spans[child].parent, spans[parent].id, "{child} is not under {parent}");
    }
    assert!(spans.values().all(|span| span.failure.is_empty()), "{spans:?}");

    let chat = &spans["chat remote"].attributes;
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "remote"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "2"),
        ("gen_ai.response.finish_reasons", "stop"),
    ] {
        assert_eq!(chat.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(spans["turn"].attributes["qudao.turn.outcome"], "answered");
    assert_eq!(spans["plugin"].attributes["qudao.plugin.instance"], "openai");
    assert_eq!(seen_by(&provider).await, [format!("00-{id}-{}-01", spans["plugin"].id)]);
    assert!(log_lines(&platform).contains(&format!("\"trace_id\":\"{id}\"")));
    assert_nothing_is_said(&platform, &collector).await;
}

#[tokio::test]
async fn a_message_that_a_request_brought_points_to_the_trace_of_the_request() {
    let (provider, collector) = (provider().await, Collector::start().await);
    let platform = platform(&provider, &collector.url(), "").await;
    let visitor = Visitor::arrive(&platform).await;
    let key = platform.text("chat_url").rsplit('/').next().unwrap().to_owned();
    let (path, (id, client)) = (format!("/v1/web/{key}/messages"), CLIENT);
    let headers = [("traceparent", &*format!("00-{id}-{client}-01"))];
    let body = json!({ "id": "m1", "text": QUESTION });
    let (status, answer) =
        platform.send(Method::POST, &path, &visitor.token, &headers, Some(body)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let accept = collector.wait_for("", "accept").await;
    assert_eq!(accept.links, [id]);
    assert_ne!(accept.trace, id, "a turn's trace is the same for whoever takes it over");
    collector.wait_for(id, "POST /v1/web/{key}/messages").await;
}

async fn ask(platform: &Platform, model: &str, traceparent: &str) -> (StatusCode, Value) {
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let body = json!({ "model": model, "messages": messages });
    let (key, path) = (platform.text("api_key"), "/v1/chat/completions");
    platform.send(Method::POST, path, key, &[("traceparent", traceparent)], Some(body)).await
}

#[tokio::test]
async fn a_call_of_the_api_goes_on_in_the_clients_trace_and_only_if_the_client_records_it() {
    let (provider, collector) = (provider().await, Collector::start().await);
    let platform = platform(&provider, &collector.url(), "").await;
    let (id, client) = CLIENT;
    let other = id.replace('4', "5");
    let (status, answer) = ask(&platform, "remote", &format!("00-{other}-{client}-00")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = ask(&platform, "remote", &format!("00-{id}-{client}-01")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], ANSWER);

    let head = "POST /v1/chat/completions";
    let expected = [head, "admission", "call", "chat remote", "credit", "plugin", "settle"];
    for name in expected {
        collector.wait_for(id, name).await;
    }
    let spans = trace(&collector, id).await;
    let names: Vec<_> = spans.keys().map(String::as_str).collect();
    assert_eq!(names, expected);
    assert_eq!(spans[head].parent, client);
    assert_eq!(spans[head].attributes["http.response.status_code"], "200");
    let parents = [
        ("call", head),
        ("admission", "call"),
        ("credit", "call"),
        ("chat remote", "call"),
        ("plugin", "chat remote"),
        ("settle", "call"),
    ];
    for (child, parent) in parents {
        assert_eq!(spans[child].parent, spans[parent].id, "{child} is not under {parent}");
    }
    assert_eq!(spans["chat remote"].attributes["gen_ai.usage.output_tokens"], "2");
    let unrecorded = format!("00-{other}-{client}-00");
    let recorded = format!("00-{id}-{}-01", spans["plugin"].id);
    assert_eq!(seen_by(&provider).await, [unrecorded, recorded]);
    assert!(trace(&collector, &other).await.is_empty());
    assert_nothing_is_said(&platform, &collector).await;
}

#[tokio::test]
async fn what_a_model_fails_with_is_a_word_in_the_trace_and_a_log_line_of_the_plugin_names_it() {
    let (provider, collector) = (MockServer::start().await, Collector::start().await);
    let refusal = json!({ "error": { "message": format!("no {QUESTION}"), "type": "auth" } });
    let refusal = ResponseTemplate::new(401).set_body_json(refusal);
    Mock::given(method("POST")).respond_with(refusal).mount(&provider).await;
    let platform = platform(&provider, &collector.url(), "").await;
    let (id, client) = CLIENT;
    let (status, _) = ask(&platform, "remote", &format!("00-{id}-{client}-01")).await;
    assert!(status.is_server_error(), "{status}");
    let plugin = collector.wait_for(id, "plugin").await;
    assert_eq!(plugin.failure, "provider_auth");
    assert_eq!(plugin.attributes["error.type"], "provider_auth");
    assert_eq!(collector.wait_for(id, "chat remote").await.failure, "provider_auth");
    let log = log_lines(&platform);
    for said in ["the provider failed: Auth", "a model's provider refuses the platform"] {
        let line = log.lines().find(|line| line.contains(said) && line.contains(id));
        assert!(line.is_some(), "no line {said:?} names {id}: {log}");
    }
    assert!(!log.contains("canary-question"), "the log holds what the provider said: {log}");
    let count = "qudao_model_errors_total{plugin_instance=\"openai\",class=\"provider_auth\"}";
    // The demo's greeting is refused as well.
    assert!(1.0 <= metrics::value(&platform, count).await);
    let spans = String::from_utf8_lossy(&collector.raw().await).into_owned();
    assert!(!spans.contains("canary"), "the spans hold what the provider said");
}

#[tokio::test]
async fn a_turn_is_one_trace_over_the_node_that_accepts_and_the_one_that_answers() {
    let collector = Collector::start().await;
    let node = |words: Vec<&'static str>| Wanted {
        words,
        environment: vec![("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())],
        ..Wanted::default()
    };
    let api = Platform::start_with(node(vec!["--role", "api"])).await;
    let mut beside = node(vec!["--role", "worker"]);
    beside.environment.push(("DATABASE_URL", api.text("database_url").to_owned()));
    beside.environment.push(("REDIS_URL", api.redis_url()));
    let _worker = Platform::start_with(beside).await;
    let mut visitor = Visitor::arrive(&api).await;
    visitor.say("m1", QUESTION).await;
    assert_eq!(visitor.reply().await["text"], QUESTION);
    let accept = collector.wait_for("", "accept").await;
    let turn = collector.wait_for(&accept.trace, "turn").await;
    let deliver = collector.wait_for(&accept.trace, "deliver").await;
    assert_eq!((&turn.parent, &deliver.parent), (&accept.id, &accept.id));
    assert_eq!((accept.role.as_str(), turn.role.as_str()), ("api", "worker"));
    assert_ne!(accept.node, turn.node);
}

#[tokio::test]
async fn a_turn_that_a_killed_platform_left_is_answered_in_the_same_trace() {
    let (provider, collector) = (provider_that_hangs_once().await, Collector::start().await);
    let mut platform = platform(&provider, &collector.url(), "").await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    let accept = collector.wait_for("", "accept").await;
    while seen_by(&provider).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    platform.kill_with_children().await;

    platform.restart().await;
    let (token, cursor) = (visitor.token.clone(), visitor.cursor.clone());
    let key = platform.text("chat_url").rsplit('/').next().unwrap().to_owned();
    let mut visitor = Visitor::connect(platform.text("base_url"), &key, token, cursor).await;
    assert_eq!(visitor.reply().await["text"], ANSWER);
    let id = &accept.trace;
    let deliver = collector.wait_for(id, "deliver").await;
    let turn = collector.wait_for(id, "turn").await;
    assert_eq!(turn.attributes["qudao.turn.attempt"], "2");
    assert_eq!((&turn.parent, &deliver.parent), (&accept.id, &accept.id));
    let seen = seen_by(&provider).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|traceparent| traceparent.contains(id.as_str())), "{seen:?}");
    assert_ne!(seen[0], seen[1], "each attempt is a span of its own");
    assert_eq!(platform.charged_turns().await[0]["turn_id"].as_str().unwrap(), format!("trn_{id}"));
}

#[tokio::test]
async fn what_ended_last_is_sent_before_the_platform_ends() {
    let (provider, collector) = (provider().await, Collector::start().await);
    let mut platform = platform(&provider, &collector.url(), "").await;
    let (id, client) = CLIENT;
    let (status, answer) = ask(&platform, "remote", &format!("00-{id}-{client}-01")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(platform.stop().await.success());
    let spans = trace(&collector, id).await;
    assert!(spans.contains_key("call") && spans.contains_key("settle"), "{spans:?}");
}

#[tokio::test]
async fn a_collector_that_hangs_holds_back_neither_a_turn_nor_the_end_of_the_platform() {
    let provider = provider().await;
    // Takes connections and says nothing.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let settings = "[telemetry]\nqueue_spans = 4\n";
    let mut platform = platform(&provider, &url, settings).await;
    let mut visitor = Visitor::arrive(&platform).await;
    for message in ["m1", "m2", "m3"] {
        visitor.say(message, QUESTION).await;
        assert_eq!(visitor.reply().await["text"], ANSWER);
    }
    let full = metrics::value(&platform, "qudao_spans_dropped_total{why=\"queue_full\"}").await;
    assert!(0.0 < full, "{}", platform.metrics().await);
    let ended = tokio::time::timeout(Duration::from_secs(30), platform.stop()).await;
    assert!(ended.expect("the platform waits for its collector").success());
    assert!(platform.log().contains("the collector did not take the last spans in time"));
}
