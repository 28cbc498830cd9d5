//! What has to stay on the machine stays: a route with `local_only` in front of a provider elsewhere that
//! writes down every byte that reaches it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

use crate::{
    platform::{Platform, Wanted, openai_instance},
    visitor::Visitor,
};

const PHONE: &str = "Call me: 13812345678";

/// A provider elsewhere. It answers everybody.
struct Elsewhere(MockServer);

struct Answerer;

impl Respond for Answerer {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let asked: Value = request.body_json().unwrap_or_default();
        let usage = json!({ "prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6 });
        if asked["stream"] != true {
            let message = json!({ "role": "assistant", "content": "far" });
            let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
            let whole = json!({ "object": "chat.completion", "choices": [choice], "usage": usage });
            return ResponseTemplate::new(200).set_body_json(whole);
        }
        let chunk = |delta: Value, finish: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
            let chunk = json!({ "object": "chat.completion.chunk", "choices": [choice] });
            format!("data: {chunk}\n\n")
        };
        let last = json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage });
        let text = chunk(json!({ "content": "far" }), Value::Null)
            + &chunk(json!({}), json!("stop"))
            + &format!("data: {last}\n\ndata: [DONE]\n\n");
        ResponseTemplate::new(200).set_body_raw(text, "text/event-stream")
    }
}

impl Elsewhere {
    async fn start() -> Self {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(Answerer).mount(&server).await;
        Self(server)
    }

    /// The bodies of all that came.
    async fn heard(&self) -> Vec<String> {
        let requests = self.0.received_requests().await.unwrap();
        requests.iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect()
    }
}

/// The demo tenant's decisions when so many are there: they are written behind the answers.
async fn decisions(platform: &Platform, count: usize) -> Vec<Value> {
    let path = format!("/v1/tenants/{}/decisions", platform.text("tenant_id"));
    for _ in 0..400 {
        let (_, found) = platform.operator(Method::GET, &path, None).await;
        let found = found["data"].as_array().unwrap();
        if count <= found.len() {
            assert_eq!(found.len(), count, "{found:?}");
            return found.clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("there were never {count} decisions");
}

/// `echo` on this machine, `far` elsewhere; a turn that nobody may answer is given up at once.
async fn start(elsewhere: &Elsewhere) -> Platform {
    let settings = openai_instance(&format!("{}/v1", elsewhere.0.uri()), &["far"]);
    let environment = vec![
        ("QUDAO__WORKER__TURN_ATTEMPTS", "1".to_owned()),
        ("QUDAO__WORKER__MODEL_WAIT_S", "1".to_owned()),
    ];
    Platform::start_with(Wanted { settings, environment, ..Wanted::default() }).await
}

/// The route of the demo's assistant, changed. Returns its name.
async fn set_route(platform: &Platform, rules: Value, canary: Value) -> String {
    let tenant = platform.text("tenant_id");
    let assistants = format!("/v1/tenants/{tenant}/assistants");
    let (_, assistants) = platform.operator(Method::GET, &assistants, None).await;
    let route = assistants["data"][0]["route_id"].as_str().unwrap();
    let path = format!("/v1/tenants/{tenant}/routes/{route}");
    let change = json!({ "models": ["far"], "rules": rules, "canary": canary });
    // Nobody writes such a rule by mistake.
    let (status, refusal) = platform.operator(Method::PATCH, &path, Some(change)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refusal}");
    assert_eq!(refusal["errors"][0]["pointer"], "/rules/0/targets/0/model");
    let (status, changed) =
        platform.operator(Method::PATCH, &path, Some(json!({ "models": ["far"] }))).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    // It is there all the same where the model was on the machine when the rule was written.
    let routing = json!({ "rules": rules, "canary": canary });
    let uuid = route.trim_start_matches("rte_");
    platform.sql(&format!("UPDATE routes SET routing = '{routing}' WHERE route_id = '{uuid}'"));
    // A node serves what it read of a tenant's routes for a second at most.
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    changed["name"].as_str().unwrap().to_owned()
}

fn private(targets: Value) -> Value {
    json!({
        "name": "personal data stays here",
        "when": [{ "signal": "personal_data", "any_of": ["any"] }],
        "targets": targets, "local_only": true, "canary": true,
    })
}

async fn ask(platform: &Platform, model: &str, text: &str, stream: bool) -> (StatusCode, Value) {
    let messages = json!([{ "role": "user", "content": text }]);
    let body = json!({ "model": model, "messages": messages, "stream": stream });
    platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await
}

#[tokio::test]
async fn personal_data_is_answered_on_the_machine_and_the_rest_is_not() {
    let elsewhere = Elsewhere::start().await;
    let platform = start(&elsewhere).await;
    let targets = json!([{ "model": "far" }, { "model": "echo" }]);
    // A trial of the model elsewhere, in which the rule would take part.
    let canary = json!({ "model": "far", "mode": "live", "percent": 100 });
    let rules = json!([private(targets)]);
    let route = set_route(&platform, rules, canary).await;

    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("a", "Hello").await;
    assert_eq!(visitor.reply().await["text"], "far");
    assert_eq!(elsewhere.heard().await.len(), 1, "it is there, and asked where that is allowed");
    visitor.say("b", PHONE).await;
    assert_eq!(visitor.reply().await["text"], PHONE, "the model on the machine repeats it");
    // The number is still among what a model would read.
    visitor.say("c", "Thank you").await;
    assert_eq!(visitor.reply().await["text"], "Thank you");

    for stream in [false, true] {
        let (status, answer) = ask(&platform, &route, PHONE, stream).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer.to_string().contains("13812345678"), "{answer}");
    }
    let (status, answer) = ask(&platform, &route, "Hello again", false).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["choices"][0]["message"]["content"], "far");

    let heard = elsewhere.heard().await;
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard.iter().all(|body| !body.contains("138")), "{heard:?}");
    platform.assert_books_balance();
}

#[tokio::test]
async fn where_only_a_model_elsewhere_could_answer_nobody_does() {
    let elsewhere = Elsewhere::start().await;
    let platform = start(&elsewhere).await;
    let rules = json!([private(json!([{ "model": "far" }]))]);
    let route = set_route(&platform, rules, Value::Null).await;

    for stream in [false, true] {
        let (status, refusal) = ask(&platform, &route, PHONE, stream).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
        assert_eq!(refusal["error"]["code"], "model_not_ready");
        let words = refusal["error"]["message"].as_str().unwrap();
        assert!(words.contains("local models only"), "{words}");
    }
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("a", PHONE).await;
    let notice = visitor.reply().await;
    assert_eq!(notice["role"], "notice", "{notice}");
    assert_eq!(elsewhere.heard().await, Vec::<String>::new());

    for decision in decisions(&platform, 3).await {
        assert_eq!(decision["model"], Value::Null);
        assert_eq!(decision["detail"]["tries"][0]["outcome"], "remote", "{decision}");
    }
    assert!(platform.usage().await.iter().all(|row| row["model"] != "far"));
    platform.assert_books_balance();
}
