//! Routes over HTTP: what may be written, what answers tell, and what can be looked up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qudao_core::{CoreSettings, DataClass, ModelKind, settings::RoutingSettings};
use qudao_domain::{Micros, routing::BreakerSettings};
use qudao_plugin_api::{
    PluginError,
    wire::{ErrorKind, FinishReason},
};
use qudao_plugin_host::ModelEntry;
use qudao_testkit::{FakeModel, Manner, Reader, Script as Line, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::{Answer, PATIENCE},
    model::{Script, done},
    world::{JSON, OPERATOR, Plan, World, bearer, per_token_each_way},
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

/// A node that leaves a model alone for a while after two calls, and a model that fails while told to.
async fn nervous(open: Duration) -> (World, TestTenant, Arc<AtomicBool>, Arc<Script>) {
    let well = Arc::new(AtomicBool::new(false));
    let does = Arc::clone(&well);
    let script = Script::new(move |sink| {
        if !does.load(Ordering::SeqCst) {
            return Err(PluginError::internal("no"));
        }
        sink.token("Hi")?;
        Ok(done(1, FinishReason::Stop))
    });
    let breaker =
        BreakerSettings { min_calls: 2, cooldown: open, probes: 1, ..BreakerSettings::default() };
    let routing = RoutingSettings { breaker, ..RoutingSettings::default() };
    let core = CoreSettings { routing, ..CoreSettings::default() };
    let plan = Plan { model: Some(Arc::clone(&script)), core, ..Plan::default() };
    let world = World::with(plan).await;
    let builder = TestTenant::builder().credits(Micros::new(100_000_000));
    let tenant = builder.models(&["fake"]).rates(per_token_each_way());
    let tenant = tenant.create(&world.db.store()).await;
    (world, tenant, well, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_a_models_name_is_refused_while_the_model_is_left_alone_and_tries_it_then() {
    let (world, tenant, well, script) = nervous(Duration::from_secs(10)).await;
    let key = tenant.api_key.reveal();
    let path = "/v1/chat/completions";
    let direct = by_route(&json!({ "model": "fake" }));
    for _ in 0..2 {
        assert_eq!(world.post(path, &key, &direct).await.status, 502);
    }
    well.store(true, Ordering::SeqCst);
    let headers = format!("{}{JSON}idempotency-key: k\r\n", bearer(&key));
    for _ in 0..2 {
        let refused = world.send("POST", path, &headers, &direct.to_string()).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        let error = &refused.body["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("model_unavailable"), &json!("server_error"))
        );
        assert!(error["message"].as_str().unwrap().contains("`fake`"), "{error}");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&wait), "what is left of 10 s, rounded up: {wait}");
    }
    let by_name = world.post(path, &key, &by_route(&json!({}))).await;
    assert_eq!(
        (by_name.status, &by_name.body["error"]["code"]),
        (503, &json!("model_unavailable"))
    );
    assert!(by_name.header("retry-after").is_some());
    assert_eq!(script.calls(), 2, "nobody asked it meanwhile");
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
    assert_eq!(world.get("/v1/breakers", OPERATOR).await.body["data"][0]["state"], "open");

    let begun = Instant::now();
    loop {
        let tried = world.send("POST", path, &headers, &direct.to_string()).await;
        if tried.status == 200 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "a refusal is not kept under the key: {}", tried.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.get("/v1/breakers", OPERATOR).await.body["data"][0]["state"], "closed");
    assert_eq!(script.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_on_offer_tell_what_they_do_what_they_cost_and_how_they_are() {
    let (world, tenant, ..) = nervous(Duration::from_secs(60)).await;
    FakeModel::register(&world.core.plugins, "not-for-sale", Line::reply("Hi")).await;
    let key = tenant.api_key.reveal();
    let path = format!("/v1/tenants/{}/models", tenant.id);
    let before = world.get(&path, &key).await;
    assert_eq!(
        (before.status, &before.body["data"]),
        (
            200,
            &json!([{
                "model": "fake", "kind": "chat", "data_class": "local", "state": "ready",
                "breaker": "closed", "open_for_s": null,
                "price": {
                    "currency": tenant.currency.to_string(), "input_per_mtok": "1000",
                    "output_per_mtok": "1000", "per_call": "0",
                },
            }])
        )
    );
    for _ in 0..2 {
        world.post("/v1/chat/completions", &key, &by_route(&json!({ "model": "fake" }))).await;
    }
    let after = world.get(&path, &key).await;
    let offer = &after.body["data"][0];
    assert_eq!(offer["breaker"], "open");
    assert!((50.0..=60.0).contains(&offer["open_for_s"].as_f64().unwrap()), "{offer}");
    let rival = world.tenant(1_000_000).await;
    assert_eq!(world.get(&path, &rival.api_key.reveal()).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_traffic_is_told_and_its_decisions_are_found_by_how_they_ended() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    let rules = json!([{
        "name": "long", "when": [{ "signal": "characters", "at_least": 10 }],
        "targets": [{ "model": "fake" }],
    }, {
        "name": "Chinese", "when": [{ "signal": "language", "any_of": ["zh"] }],
        "targets": [{ "model": "broken" }],
    }]);
    // No figure of two calls may take the canary back while they are looked at.
    let canary = json!({ "model": "fake", "mode": "live", "percent": 100 });
    let set = patch(&world, &tenant, &key, &json!({ "rules": rules, "canary": canary })).await;
    assert_eq!(set.status, 200, "{}", set.body);
    let say = |text: &str| by_route(&json!({ "messages": [{ "role": "user", "content": text }] }));
    for (text, status) in [("a long message", 200), ("你好吗", 503), ("short", 200)] {
        let answer = world.post("/v1/chat/completions", &key, &say(text)).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let ended = patch(&world, &tenant, &key, &json!({ "canary": null })).await;
    assert_eq!(ended.status, 200);
    let answer = world.post("/v1/chat/completions", &key, &say("short")).await;
    assert_eq!(answer.header("x-qudao-fallbacks"), Some("1"));
    world.eventually("SELECT count(*) FROM route_decisions", "4").await;

    let path = format!("{}/{}/traffic", routes(&tenant), tenant.route_id);
    let traffic = world.get(&path, &key).await;
    assert_eq!(traffic.status, 200, "{}", traffic.body);
    let body = &traffic.body;
    assert_eq!((&body["minutes"], &body["decisions"]), (&json!(60), &json!(4)));
    let shares = body["models"].as_array().unwrap();
    let share =
        |at: usize| (&shares[at]["model"], &shares[at]["decisions"], &shares[at]["fallbacks"]);
    assert_eq!(share(0), (&json!("fake"), &json!(3), &json!(1)));
    assert!(shares[0]["latency_ms"].is_number(), "{shares:?}");
    assert_eq!(share(1), (&Value::Null, &json!(1), &json!(1)));
    assert_eq!(shares[1]["latency_ms"], Value::Null);
    let rule = |name: Value, decisions| json!({ "rule": name, "decisions": decisions });
    assert_eq!(
        body["rules"],
        json!([rule(Value::Null, 2), rule(json!("Chinese"), 1), rule(json!("long"), 1)])
    );
    let why = json!([{ "model": "broken", "why": "provider_unavailable", "times": 2 }]);
    assert_eq!((&body["passed_over"], &body["trial"]), (&why, &Value::Null));

    let own = format!("/v1/tenants/{}/decisions", tenant.id);
    for (query, found) in [
        ("model=fake", 3),
        ("model=broken", 0),
        ("arm=canary", 1),
        ("arm=stable", 3),
        ("outcome=first", 2),
        ("outcome=fallback", 1),
        ("outcome=nobody", 1),
        ("outcome=first&arm=canary&model=fake", 1),
    ] {
        let list = world.get(&format!("{own}?{query}"), &key).await;
        assert_eq!(list.body["data"].as_array().unwrap().len(), found, "{query}: {}", list.body);
    }
    for query in ["arm=left", "outcome=maybe", "model=", "model=a%00b"] {
        let refused = world.get(&format!("{own}?{query}"), &key).await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (400, &json!("invalid_query")),
            "{query}"
        );
    }
    for minutes in ["0", "10081", "soon"] {
        let refused = world.get(&format!("{path}?minutes={minutes}"), &key).await;
        assert_eq!(refused.status, 400, "{minutes}");
    }
    let rival = world.tenant(1_000_000).await.api_key.reveal();
    assert_eq!(world.get(&path, &rival).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_shows_both_sides() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    let canary =
        json!({ "model": "fake", "mode": "shadow", "percent": 100, "agreement": { "by": "text" } });
    let change = json!({ "models": ["fake", "broken"], "canary": canary });
    assert_eq!(patch(&world, &tenant, &key, &change).await.status, 200);
    let path = format!("{}/{}/traffic?minutes=5", routes(&tenant), tenant.route_id);
    let none =
        json!({ "calls": 0, "failures": 0, "latency_ms": null, "compared": 0, "agreement": null });
    let trial = &world.get(&path, &key).await.body["trial"];
    assert_eq!(trial, &json!({ "canary": none, "stable": none }));
    assert_eq!(world.post("/v1/chat/completions", &key, &by_route(&json!({}))).await.status, 200);
    world.eventually("SELECT count(agreement) FROM route_decisions", "1").await;
    let trial = &world.get(&path, &key).await.body["trial"];
    assert_eq!((&trial["canary"]["calls"], &trial["stable"]["calls"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&trial["canary"]["compared"], &trial["canary"]["agreement"]),
        (&json!(1), &json!(1.0))
    );
    assert!(trial["stable"]["latency_ms"].is_number(), "{trial}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_keeps_words_on_the_machine_shows_them_to_no_sentiment_model_elsewhere() {
    let (world, tenant) = world().await;
    let key = tenant.api_key.reveal();
    for (name, data_class) in [("near", DataClass::Local), ("far", DataClass::Remote)] {
        let entry = ModelEntry { data_class, ..ModelEntry::of_kind(name, ModelKind::Classify) };
        Reader::register_entry(&world.core.plugins, entry, Manner::Well).await;
    }
    let price = |model: &str| qudao_storage::ModelPrice {
        model: model.to_owned(),
        currency: tenant.currency,
        rates: per_token_each_way(),
    };
    let prices = ["near", "far", "fake", "broken"].map(price);
    world.db.store().sync_prices(&prices).await.unwrap();
    let rule = |when: Value, local_only: bool| json!({ "name": "r", "when": [when], "targets": [{ "model": "fake" }], "local_only": local_only });
    let sad = json!({ "signal": "sentiment", "any_of": ["sad"] });
    let private = json!({ "signal": "personal_data", "any_of": ["any"] });
    for (model, rules, asked) in [
        ("far", json!([rule(sad.clone(), false)]), true),
        ("near", json!([rule(sad.clone(), false), rule(private.clone(), true)]), true),
        ("far", json!([rule(sad.clone(), false), rule(private.clone(), true)]), false),
    ] {
        let change = json!({ "models": ["fake"], "rules": rules, "sentiment_model": model });
        let set = patch(&world, &tenant, &key, &change).await;
        assert_eq!(set.status, 200, "{}", set.body);
        world.db.psql("DELETE FROM route_decisions");
        let answer = world.post("/v1/chat/completions", &key, &by_route(&json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        world.eventually("SELECT count(*) FROM route_decisions", "1").await;
        let remote = "SELECT count(*) FROM route_decisions \
                      WHERE body #>> '{signals,sentiment,unknown}' = 'remote'";
        assert_eq!(world.db.psql(remote), if asked { "0" } else { "1" }, "{model}");
    }
    let asked = "SELECT model, count(*) FROM usage_events WHERE model IN ('near', 'far') GROUP BY 1 ORDER BY 1";
    world.eventually(asked, "far|1\nnear|1").await;
}
