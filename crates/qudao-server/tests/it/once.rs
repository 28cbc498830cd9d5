//! `Idempotency-Key`: what is repeated takes effect once.

use std::time::Duration;

use futures_util::future::join_all;
use qudao_plugin_api::PluginError;
use qudao_testkit::TestTenant;
use serde_json::{Value, json};

use crate::{
    http::{Answer, Stream},
    model::Script,
    world::{JSON, OPERATOR, World, bearer, completion, refusal},
};

const CREDITS: i64 = 10_000_000;

impl World {
    async fn keyed(&self, path: &str, auth: &str, key: &str, body: &Value) -> Answer {
        let headers = format!("{}{JSON}idempotency-key: {key}\r\n", bearer(auth));
        self.send("POST", path, &headers, &body.to_string()).await
    }

    async fn ask(&self, tenant: &TestTenant, key: &str, more: &Value) -> Answer {
        let auth = tenant.api_key.reveal();
        self.keyed("/v1/chat/completions", &auth, key, &completion(more)).await
    }

    fn balance(&self, tenant: &TestTenant) -> i64 {
        let id = tenant.id.as_uuid();
        let sql = format!("SELECT posted FROM wallets WHERE tenant_id = '{id}'");
        self.db.psql(&sql).parse().unwrap()
    }
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// The texts of a stream, put together.
fn spoken(stream: &str) -> String {
    let chunks = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks = chunks.filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let texts = chunks.map(|chunk| chunk["choices"][0]["delta"]["content"].clone());
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_post_of_the_admin_api_takes_effect_once_and_answers_the_same() {
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let base = format!("/v1/tenants/{}", tenant.id);
    let (route, assistant) = (tenant.route_id.to_string(), tenant.assistant_id.to_string());
    let cases = [
        ("/v1/tenants".to_owned(), json!({ "name": "Acme" }), "tenants"),
        (format!("{base}/credits"), json!({ "amount": "5" }), "credits"),
        (format!("{base}/routes"), json!({ "name": "r", "models": ["fake"] }), "routes"),
        (
            format!("{base}/assistants"),
            json!({ "name": "a", "system_prompt": "p", "route_id": route }),
            "assistants",
        ),
        (
            format!("{base}/channels"),
            json!({ "name": "c", "kind": "web", "assistant_id": assistant }),
            "channels",
        ),
        (format!("{base}/api-keys"), json!({ "name": "k" }), "api_keys"),
    ];
    for (path, body, table) in cases {
        let count = format!("SELECT count(*) FROM {table}");
        let before: i64 = world.db.psql(&count).parse().unwrap();
        let first = world.keyed(&path, OPERATOR, "same", &body).await;
        assert_eq!((first.status, replayed(&first)), (201, false), "{path}: {}", first.body);
        let again = world.keyed(&path, OPERATOR, "same", &body).await;
        assert_eq!((again.status, replayed(&again)), (201, true), "{path}");
        assert_eq!(first.header("location"), again.header("location"), "{path}");
        let mut shown = first.body.clone();
        if table == "api_keys" {
            assert!(shown["key"].as_str().unwrap().starts_with("qk_live_"));
            shown["key"] = Value::Null;
        }
        assert_eq!(shown, again.body, "{path}");
        let mut other = body.clone();
        other["name"] = json!("another");
        let other = if table == "credits" { json!({ "amount": "6" }) } else { other };
        let other = world.keyed(&path, OPERATOR, "same", &other).await;
        assert_eq!(refusal(&other), (422, "idempotency_key_reused".to_owned()), "{path}");
        let new = world.keyed(&path, OPERATOR, "new", &body).await;
        assert_eq!((new.status, replayed(&new)), (201, false), "{path}");
        let added = world.db.psql(&count).parse::<i64>().unwrap() - before;
        // The operator's tenant comes with a channel of its own, which is not what is counted.
        assert_eq!(added, 2, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_kept_for_the_repetition() {
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/tenants/{}/api-keys", tenant.id);
    let made = world.keyed(&path, OPERATOR, "k", &json!({ "name": "k" })).await;
    assert_eq!(made.header("cache-control"), Some("no-store"));
    // `qk_live_`, the key's id, and the secret, which may hold that mark itself.
    let secret = made.body["key"].as_str().unwrap().splitn(4, '_').last().unwrap();
    let kept = world.db.psql("SELECT convert_from(body, 'UTF8') FROM idempotency_records");
    assert!(kept.contains(made.body["id"].as_str().unwrap()) && !kept.contains(secret), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_is_compared_by_what_it_says_and_a_refusal_leaves_the_key_free() {
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/tenants/{}/assistants", tenant.id);
    let nobody = format!("rte_{}", "0".repeat(32));
    let wrong = json!({ "name": "a", "system_prompt": "p", "route_id": nobody });
    let refused = world.keyed(&path, OPERATOR, "k", &wrong).await;
    assert_eq!(refusal(&refused), (422, "validation_failed".to_owned()));
    let right =
        json!({ "name": "a", "system_prompt": "p", "route_id": tenant.route_id.to_string() });
    let made = world.keyed(&path, OPERATOR, "k", &right).await;
    assert_eq!((made.status, replayed(&made)), (201, false), "{}", made.body);
    let headers = format!("{}{JSON}idempotency-key: k\r\n", bearer(OPERATOR));
    let other_order = format!(
        "{{ \"route_id\": \"{}\",\n\"system_prompt\": \"p\", \"name\": \"a\" }}",
        tenant.route_id
    );
    let again = world.send("POST", &path, &headers, &other_order).await;
    assert!(replayed(&again), "{}", again.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_used_is_refused_before_anything_is_done() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let routes = format!("/v1/tenants/{}/routes", tenant.id);
    let body = json!({ "name": "r", "models": ["fake"] });
    let long = "k".repeat(256);
    for key in ["", "  ", "a\tb", "ключ", &long] {
        let refused = world.keyed(&routes, OPERATOR, key, &body).await;
        assert_eq!(refusal(&refused), (400, "idempotency_key_invalid".to_owned()), "{key:?}");
        let refused = world.ask(&tenant, key, &json!({})).await;
        assert_eq!(refusal(&refused), (400, "idempotency_key_invalid".to_owned()), "{key:?}");
    }
    let twice = world.keyed(&routes, OPERATOR, "a\r\nidempotency-key: b", &body).await;
    assert_eq!(refusal(&twice), (400, "idempotency_key_invalid".to_owned()));
    let credits = format!("/v1/tenants/{}/credits", tenant.id);
    let keyless = world.post(&credits, OPERATOR, &json!({ "amount": "1" })).await;
    assert_eq!(refusal(&keyless), (400, "idempotency_key_required".to_owned()));
    assert_eq!(script.calls(), 0);
    let longest = world.keyed(&routes, OPERATOR, &"k".repeat(255), &body).await;
    assert_eq!(longest.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_requests_at_once_one_takes_effect_and_no_other_answer_is_given() {
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/tenants/{}/credits", tenant.id);
    let body = json!({ "amount": "5" });
    let answers = join_all((0..20).map(|_| world.keyed(&path, OPERATOR, "k", &body))).await;
    let fresh = answers.iter().filter(|answer| answer.status == 201 && !replayed(answer)).count();
    assert_eq!(fresh, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(refusal(answer), (409, "idempotency_key_in_flight".to_owned()));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(world.balance(&tenant), CREDITS + 5_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_the_tenants_own_and_new_again_after_a_day() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let (one, two) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    for tenant in [&one, &two] {
        assert!(!replayed(&world.ask(tenant, "same", &json!({})).await));
        assert!(replayed(&world.ask(tenant, "same", &json!({})).await));
    }
    assert_eq!(script.calls(), 2);
    world.db.psql("UPDATE idempotency_records SET created_at = now() - interval '1 day'");
    assert!(!replayed(&world.ask(&one, "same", &json!({ "max_tokens": 7 })).await));
    assert_eq!((script.calls(), world.balance(&one)), (3, CREDITS - 2_000));
    // Credits are remembered by the ledger for ever.
    let path = format!("/v1/tenants/{}/credits", one.id);
    for round in 0..2 {
        let answer = world.keyed(&path, OPERATOR, "c", &json!({ "amount": "5" })).await;
        assert_eq!((answer.status, replayed(&answer)), (201, round == 1));
        world.db.psql("UPDATE idempotency_records SET created_at = now() - interval '1 day'");
    }
    assert_eq!(world.balance(&one), CREDITS - 2_000 + 5_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_completion_is_the_same_and_neither_calls_the_model_nor_charges() {
    let script = Script::says(&["Hi", " there"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let first = world.ask(&tenant, "k", &json!({})).await;
    assert_eq!((first.status, replayed(&first)), (200, false), "{}", first.body);
    let again = world.ask(&tenant, "k", &json!({})).await;
    assert_eq!((again.status, replayed(&again)), (200, true));
    assert_eq!(first.body, again.body);
    let other = world.ask(&tenant, "k", &json!({ "temperature": 0.5 })).await;
    assert_eq!(refusal(&other), (422, "idempotency_key_reused".to_owned()));

    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let first = world.ask(&tenant, "s", &stream).await;
    let again = world.ask(&tenant, "s", &stream).await;
    assert_eq!((replayed(&first), replayed(&again)), (false, true));
    assert_eq!(again.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let (first, again) = (first.body.as_str().unwrap(), again.body.as_str().unwrap());
    for stream in [first, again] {
        assert_eq!(spoken(stream), "Hi there", "{stream}");
        assert!(stream.contains("\"total_tokens\":12") && stream.contains("[DONE]"), "{stream}");
    }
    let id = |stream: &str| stream[stream.find("chatcmpl-").unwrap()..][..41].to_owned();
    assert_eq!(id(first), id(again), "the completion is called the same");
    assert_eq!((script.calls(), world.balance(&tenant)), (2, CREDITS - 4_000));
    // An empty wallet is no reason to hold back what was paid.
    world.db.psql("UPDATE wallets SET posted = 0, held = 0");
    assert!(replayed(&world.ask(&tenant, "k", &json!({})).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_under_way_is_409_and_one_that_failed_may_be_tried_again() {
    let (script, prompter) = Script::prompted();
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    prompter.say("one");
    let auth = format!("{}\r\nidempotency-key: k", tenant.api_key.reveal());
    let body = completion(&json!({ "stream": true })).to_string();
    let mut stream: Stream = world.stream("POST", "/v1/chat/completions", &auth, &body).await;
    let second = world.ask(&tenant, "k", &json!({ "stream": true })).await;
    assert_eq!(refusal(&second), (409, "idempotency_key_in_flight".to_owned()));
    assert_eq!(second.header("retry-after"), Some("1"));
    drop(prompter);
    while stream.event().await.is_some() {}
    assert!(replayed(&world.ask(&tenant, "k", &json!({ "stream": true })).await));
    assert_eq!(script.calls(), 1);

    let failing = Script::new(|_| Err(PluginError::internal("no")));
    let world = World::with_model(&failing).await;
    let tenant = world.tenant(CREDITS).await;
    for calls in 1..=2 {
        let failed = world.ask(&tenant, "k", &json!({})).await;
        assert_eq!(refusal(&failed), (502, "model_failed".to_owned()));
        assert_eq!((failing.calls(), replayed(&failed)), (calls, false));
    }
    assert_eq!(world.balance(&tenant), CREDITS);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_and_repeats_the_call_gets_the_whole_answer_and_pays_it_once() {
    let (script, prompter) = Script::prompted();
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    prompter.say("one");
    let auth = format!("{}\r\nidempotency-key: k", tenant.api_key.reveal());
    let body = completion(&json!({ "stream": true })).to_string();
    let mut stream = world.stream("POST", "/v1/chat/completions", &auth, &body).await;
    stream.event().await.unwrap();
    drop(stream);
    for piece in ["two", "three"] {
        prompter.say(piece);
    }
    drop(prompter);
    world.eventually("SELECT delivered_tokens, charge FROM usage_events", "3|3000").await;
    let again = world.ask(&tenant, "k", &json!({ "stream": true })).await;
    assert_eq!(
        (replayed(&again), spoken(again.body.as_str().unwrap())),
        (true, "onetwothree".into())
    );
    assert_eq!((script.calls(), world.balance(&tenant)), (1, CREDITS - 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_broke_off_after_it_was_charged_is_not_made_again_under_its_key() {
    let script = Script::new(|sink| {
        sink.token("half")?;
        std::thread::sleep(Duration::from_millis(100));
        Err(PluginError::internal("no"))
    });
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    let first = world.ask(&tenant, "k", &json!({ "stream": true })).await;
    assert_eq!(spoken(first.body.as_str().unwrap()), "half");
    let again = world.ask(&tenant, "k", &json!({ "stream": true })).await;
    assert_eq!(refusal(&again), (502, "model_failed".to_owned()));
    assert_eq!((script.calls(), world.balance(&tenant)), (1, CREDITS - 1_000));
    // Not streamed, nothing was delivered, so nothing was charged and it may be tried again.
    for calls in 2..=3 {
        let failed = world.ask(&tenant, "w", &json!({})).await;
        assert_eq!((failed.status, script.calls()), (502, calls));
    }
    assert_eq!(world.balance(&tenant), CREDITS - 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_a_dead_node_lapses_and_the_call_is_made_by_another() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let tenant = world.tenant(CREDITS).await;
    world.ask(&tenant, "k", &json!({})).await;
    // As a node leaves it that died in the middle.
    world.db.psql(
        "UPDATE idempotency_records SET status = NULL, body = NULL, claim_id = gen_random_uuid(), \
         lease_until = now() + interval '1 hour'",
    );
    let waiting = world.ask(&tenant, "k", &json!({})).await;
    assert_eq!(refusal(&waiting), (409, "idempotency_key_in_flight".to_owned()));
    world.db.psql("UPDATE idempotency_records SET lease_until = now() - interval '1 second'");
    let served = world.ask(&tenant, "k", &json!({})).await;
    assert_eq!((served.status, replayed(&served), script.calls()), (200, false, 2));
    assert!(replayed(&world.ask(&tenant, "k", &json!({})).await));
}
