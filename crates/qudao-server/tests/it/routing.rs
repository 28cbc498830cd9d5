//! Routes over HTTP: what may be written, what answers tell, and what can be looked up.

use std::time::Duration;

use qudao_domain::Micros;
use qudao_plugin_api::wire::ErrorKind;
use qudao_testkit::{FakeModel, Script as Line, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::Answer,
    model::Script,
    world::{JSON, OPERATOR, World, bearer, per_token_each_way},
};

/// A node with the models `fake`, which answers, and `broken`, which does not; a tenant whose route asks
/// the latter first.
async fn world() -> (World, TestTenant) {
    let world = World::with_model(&Script::says(&["Hello", " you"], Duration::ZERO)).await;
    let broken = Line::reply("").failing_after(0, ErrorKind::Unavailable);
    FakeModel::register(&world.core.plugins, "broken", broken).await;
    let builder = TestTenant::builder().credits(Micros::new(100_000_000));
    let tenant = builder.models(&["broken", "fake"]).rates(per_token_each_way());
    let tenant = tenant.create(&world.db.store()).await;
    (world, tenant)
}

fn routes(tenant: &TestTenant) -> String {
    format!("/v1/tenants/{}/routes", tenant.id)
}

async fn patch(world: &World, tenant: &TestTenant, key: &str, body: &Value) -> Answer {
    let path = format!("{}/{}", routes(tenant), tenant.route_id);
    world.send("PATCH", &path, &format!("{}{JSON}", bearer(key)), &body.to_string()).await
}

/// The pointers of what is wrong.
fn faults(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, 422, "{}", answer.body);
    let errors = answer.body["errors"].as_array().unwrap();
    errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

fn by_route(more: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let mut body = json!({ "model": "Test tenant", "messages": messages, "max_tokens": 50 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_tell_who_gave_them_and_the_decision_can_be_read() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    let path = "/v1/chat/completions";
    let whole = world.post(path, &key, &by_route(&json!({}))).await;
    assert_eq!((whole.status, &whole.body["model"]), (200, &json!("Test tenant")));
    assert_eq!(whole.header("x-qudao-model"), Some("fake"));
    assert_eq!(whole.header("x-qudao-fallbacks"), Some("1"));
    assert_eq!(whole.header("x-qudao-route"), Some(tenant.route_id.to_string().as_str()));
    let id = whole.header("x-qudao-decision").unwrap();
    world.eventually("SELECT count(*) FROM route_decisions", "1").await;
    let own = format!("/v1/tenants/{}/decisions", tenant.id);
    let read = world.get(&format!("{own}/{id}"), &key).await;
    assert_eq!((read.status, &read.body["model"]), (200, &json!("fake")));
    let tries = &read.body["detail"]["tries"];
    assert_eq!(tries[0]["outcome"], "provider_unavailable", "{tries}");
    let call = read.body["turn_id"].as_str().unwrap();
    let hex = whole.body["id"].as_str().unwrap().strip_prefix("chatcmpl-").unwrap();
    assert_eq!(call, format!("trn_{hex}"));
    let found = world.get(&format!("{own}?turn_id={call}"), &key).await;
    assert_eq!(found.body["data"].as_array().unwrap().len(), 1);
    let wrong = world.get(&format!("{own}?turn_id=nobody"), &key).await;
    assert_eq!((wrong.status, &wrong.body["code"]), (400, &json!("invalid_query")));
    let stream = by_route(&json!({ "stream": true })).to_string();
    let streamed = world.stream("POST", path, &key, &stream).await;
    assert_eq!(streamed.status, 200);
    for header in ["x-qudao-model: fake", "x-qudao-fallbacks: 1", "x-qudao-decision: dec_"] {
        assert!(streamed.head.contains(header), "{}", streamed.head);
    }
    assert!(streamed.all().await.ends_with("data: [DONE]\n\n"));
    let direct = world.post(path, &key, &by_route(&json!({ "model": "fake" }))).await;
    assert_eq!(direct.header("x-qudao-model"), Some("fake"));
    assert_eq!(direct.header("x-qudao-route"), None);
    assert_eq!(world.db.psql("SELECT count(*), count(DISTINCT model) FROM usage_events"), "3|1");
    let breakers = world.get("/v1/breakers", OPERATOR).await;
    let broken = &breakers.body["data"][0];
    assert_eq!((&broken["model"], &broken["failures"]), (&json!("broken"), &json!(2)));
    assert_eq!(world.get("/v1/breakers", &key).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_told_the_same_and_decided_once() {
    let (world, tenant) = world().await;
    let headers = format!("{}{JSON}idempotency-key: k\r\n", bearer(&tenant.api_key.reveal()));
    let body = by_route(&json!({})).to_string();
    let first = world.send("POST", "/v1/chat/completions", &headers, &body).await;
    let again = world.send("POST", "/v1/chat/completions", &headers, &body).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    for header in ["x-qudao-model", "x-qudao-route", "x-qudao-fallbacks", "x-qudao-decision"] {
        assert!(first.header(header).is_some());
        assert_eq!(first.header(header), again.header(header));
    }
    world.eventually("SELECT count(*) FROM route_decisions", "1").await;
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_finds_neither_route_nor_decision() {
    let (world, tenant) = world().await;
    let whole =
        world.post("/v1/chat/completions", &tenant.api_key.reveal(), &by_route(&json!({}))).await;
    let id = whole.header("x-qudao-decision").unwrap();
    world.eventually("SELECT count(*) FROM route_decisions", "1").await;
    let rival = world.tenant(1_000_000).await;
    let key = rival.api_key.reveal();
    let own = format!("/v1/tenants/{}/decisions", rival.id);
    assert_eq!(world.get(&format!("{own}/{id}"), &key).await.status, 404);
    assert_eq!(world.get(&own, &key).await.body["data"], json!([]));
    let by_id = by_route(&json!({ "model": tenant.route_id.to_string() }));
    let refused = world.post("/v1/chat/completions", &key, &by_id).await;
    assert_eq!(refused.status, 404, "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_kept_as_they_were_written_and_wrong_ones_are_refused_where_they_are_wrong() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    let rules = json!([{
        "name": "long or poor",
        "when": [
            { "signal": "characters", "at_least": 10 },
            { "signal": "balance", "below": "0.5" },
            { "signal": "personal_data", "any_of": ["email"] },
        ],
        "targets": [{ "model": "fake", "weight": 3 }, { "model": "broken" }],
        "local_only": true,
        "canary": false,
    }]);
    let changed = patch(&world, &tenant, &key, &json!({ "rules": rules })).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let path = format!("{}/{}", routes(&tenant), tenant.route_id);
    let read = world.get(&path, &key).await;
    assert_eq!((&read.body["rules"], &read.body["models"]), (&rules, &json!(["broken", "fake"])));
    let acts = world.db.psql("SELECT action, target FROM audit_events");
    assert_eq!(acts, format!("route.update|{}", tenant.route_id));

    let one = |rule: Value| json!({ "rules": [rule] });
    let fake = json!([{ "model": "fake" }]);
    let when = |condition: Value| one(json!({ "name": "r", "when": [condition], "targets": fake }));
    for (body, pointer) in [
        (json!({}), ""),
        (json!({ "models": [] }), "/models"),
        (one(json!({ "name": " ", "targets": fake })), "/rules/0/name"),
        (one(json!({ "name": "r", "targets": [] })), "/rules/0/targets"),
        (
            one(json!({ "name": "r", "targets": [{ "model": "fake", "weight": 0 }] })),
            "/rules/0/targets/0/weight",
        ),
        (one(json!({ "name": "r", "targets": [{ "model": "a b" }] })), "/rules/0/targets/0/model"),
        (when(json!({ "signal": "sentiment", "any_of": ["negative"] })), "/rules/0/when/0"),
        (when(json!({ "signal": "language", "any_of": ["Chinese"] })), "/rules/0/when/0/any_of/0"),
        (when(json!({ "signal": "modality", "any_of": [] })), "/rules/0/when/0/any_of"),
        (when(json!({ "signal": "characters" })), "/rules/0/when/0"),
        (
            when(json!({ "signal": "characters", "at_least": 2, "at_most": 1 })),
            "/rules/0/when/0/at_most",
        ),
        (json!({ "sentiment_model": "fake" }), "/sentiment_model"),
        (json!({ "canary": { "model": "fake", "mode": "live", "percent": 0 } }), "/canary/percent"),
        (
            json!({ "canary": { "model": "fake", "mode": "shadow", "percent": 1, "paid_by": "operator" } }),
            "/canary/paid_by",
        ),
    ] {
        let refused = patch(&world, &tenant, &key, &body).await;
        assert_eq!(faults(&refused), [pointer], "{body}: {}", refused.body);
    }
    for body in [
        when(json!({ "signal": "mood", "any_of": ["sad"] })),
        when(json!({ "signal": "balance", "below": "much" })),
        when(json!({ "signal": "health", "model": "fake", "any_of": ["ill"] })),
        one(json!({ "name": "r", "targets": fake, "then": "stop" })),
    ] {
        let refused = patch(&world, &tenant, &key, &body).await;
        assert_eq!(refused.status, 422, "{body}: {}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_pay_for_a_trial_and_null_ends_it() {
    let (world, tenant) = world().await;
    let canary = json!({ "model": "fake", "mode": "shadow", "percent": 5, "paid_by": "operator" });
    let set = patch(&world, &tenant, OPERATOR, &json!({ "canary": canary })).await;
    assert_eq!(set.status, 200, "{}", set.body);
    assert_eq!(set.body["canary"]["state"], "running");
    assert_eq!(set.body["canary"]["rollback"]["min_calls"], 20);
    let key = tenant.api_key.reveal();
    let renamed = patch(&world, &tenant, &key, &json!({ "name": "Main" })).await;
    assert_eq!(renamed.body["canary"]["paid_by"], "operator", "others change the rest");
    let ended = patch(&world, &tenant, &key, &json!({ "canary": null })).await;
    assert_eq!((ended.status, &ended.body["canary"]), (200, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_listed_beside_models() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    let models = world.get("/v1/models", &key).await;
    let owners: Vec<_> = models.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["id"].as_str().unwrap(), model["owned_by"].as_str().unwrap()))
        .collect();
    assert_eq!(owners, [("broken", "broken"), ("fake", "fake"), ("Test tenant", "route")]);
    assert_eq!(world.get("/v1/models/Test%20tenant", &key).await.body["kind"], "chat");
}
