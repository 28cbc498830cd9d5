//! Models that read and do not speak: vectors and classes over HTTP, what they cost, and what is refused.

use insta::assert_json_snapshot;
use qudao_core::ModelKind;
use qudao_testkit::{Manner, Reader, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::Answer,
    model::Script,
    world::{OPERATOR, Plan, World, bearer, per_token_each_way},
};

const CREDITS: i64 = 100_000_000;

async fn world(manner: Manner) -> World {
    let script = Script::says(&["Hi"], std::time::Duration::ZERO);
    let world = World::with(Plan { model: Some(script), ..Plan::default() }).await;
    Reader::register(&world.core.plugins, "vectors", ModelKind::Embed, manner).await;
    Reader::register(&world.core.plugins, "moods", ModelKind::Classify, manner).await;
    world
}

/// A tenant who may call the readers, at a thousandth of a unit per token that is read or written.
async fn tenant(world: &World, credits: i64) -> TestTenant {
    let builder = TestTenant::builder().credits(qudao_domain::Micros::new(credits));
    let tenant =
        builder.models(&["vectors"]).rates(per_token_each_way()).create(&world.db.store()).await;
    for models in [json!(["moods"]), json!(["fake"])] {
        let path = format!("/v1/tenants/{}/routes", tenant.id);
        let made = world.post(&path, OPERATOR, &json!({ "name": "More", "models": models })).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let price = |model: &str| qudao_storage::ModelPrice {
        model: model.to_owned(),
        currency: tenant.currency,
        rates: per_token_each_way(),
    };
    let prices = ["vectors", "moods", "fake"].map(price);
    world.db.store().sync_prices(&prices).await.unwrap();
    tenant
}

async fn embed(world: &World, tenant: &TestTenant, body: Value) -> Answer {
    world.post("/v1/embeddings", &tenant.api_key.reveal(), &body).await
}

async fn classify(world: &World, tenant: &TestTenant, body: Value) -> Answer {
    world.post("/v1/classifications", &tenant.api_key.reveal(), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_openais_shape_the_order_of_the_texts_and_a_price() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let body = json!({ "model": "vectors", "input": ["one two", "一二三", "a b c"] });
    let answer = embed(&world, &tenant, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_json_snapshot!(answer.body);
    assert_eq!(
        world.db.psql("SELECT charge, input_tokens, output_tokens FROM usage_events"),
        "6000|6|0"
    );
    let one = embed(&world, &tenant, json!({ "model": "vectors", "input": "one two" })).await;
    assert_eq!(one.body["data"][0], answer.body["data"][0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn base64_holds_the_same_numbers() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let body = json!({ "model": "vectors", "input": "one two", "encoding_format": "base64" });
    let answer = embed(&world, &tenant, body).await;
    let bytes = STANDARD.decode(answer.body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let (numbers, rest) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!((numbers, rest.len()), (vec![7.0, 2.0, 0.1], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_number_of_dimensions_may_be_named_and_no_other() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let body = |dimensions| json!({ "model": "vectors", "input": "a", "dimensions": dimensions });
    assert_eq!(embed(&world, &tenant, body(json!(3))).await.status, 200);
    let other = embed(&world, &tenant, body(json!(2))).await;
    assert_eq!((other.status, &other.body["error"]["param"]), (400, &json!("dimensions")));
    assert!(other.body["error"]["message"].as_str().unwrap().contains('3'), "{}", other.body);
    for wrong in [json!(0), json!(-1), json!("3"), json!(2.5)] {
        assert_eq!(embed(&world, &tenant, body(wrong.clone())).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_text_that_is_too_long_is_told() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let body = json!({ "model": "vectors", "input": ["short", "a".repeat(1_001)] });
    let answer = embed(&world, &tenant, body).await;
    assert_eq!(answer.body["data"][1]["truncated"], true);
    assert_eq!(answer.body["data"][0].get("truncated"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_come_with_probabilities_abstentions_and_words() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let body =
        json!({ "model": "moods", "input": ["a good day", "bad", "who knows"], "explain": true });
    let answer = classify(&world, &tenant, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_json_snapshot!(answer.body);
    // Read and explained: six words each way.
    assert_eq!(
        world.db.psql("SELECT charge, input_tokens, output_tokens FROM usage_events"),
        "12000|6|6"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_made_and_charged_once() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let headers = format!(
        "{}{}idempotency-key: k1\r\n",
        bearer(&tenant.api_key.reveal()),
        crate::world::JSON
    );
    let body = json!({ "model": "moods", "input": "good" }).to_string();
    let first = world.send("POST", "/v1/classifications", &headers, &body).await;
    let again = world.send("POST", "/v1/classifications", &headers, &body).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(world.db.psql("SELECT count(*), sum(charge) FROM usage_events"), "1|1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_and_costs_nothing() {
    let world = world(Manner::Well).await;
    let (rich, poor) = (tenant(&world, CREDITS).await, tenant(&world, 0).await);
    let model = "vectors";
    let bodies = [
        json!({ "model": model, "input": [] }),
        json!({ "model": model, "input": ["a", " "] }),
        json!({ "model": model, "input": [1, 2] }),
        json!({ "model": "", "input": "a" }),
        json!({ "model": model, "input": "a", "encoding_format": "int8" }),
        json!({ "model": model, "input": vec!["a"; 2049] }),
    ];
    let mut refusals = Vec::new();
    for body in bodies {
        let answer = embed(&world, &rich, body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        refusals.push(answer.body);
    }
    assert_json_snapshot!(refusals);
    let unknown = embed(&world, &rich, json!({ "model": "gpt-9", "input": "a" })).await;
    let empty = embed(&world, &poor, json!({ "model": model, "input": "a" })).await;
    let long = json!({ "model": "moods", "input": vec!["a"; 33], "explain": true });
    let long = classify(&world, &rich, long).await;
    assert_eq!([unknown.status, empty.status, long.status], [404, 402, 400]);
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_another_kind_is_refused_in_words() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let key = tenant.api_key.reveal();
    let chat = json!({ "model": "moods", "messages": [{ "role": "user", "content": "Hello" }] });
    let refusals = [
        embed(&world, &tenant, json!({ "model": "fake", "input": "a" })).await,
        classify(&world, &tenant, json!({ "model": "vectors", "input": "a" })).await,
        world.post("/v1/chat/completions", &key, &chat).await,
    ];
    assert!(refusals.iter().all(|answer| answer.status == 400));
    assert_json_snapshot!(refusals.map(|answer| answer.body));
    let models = world.get("/v1/models", &key).await;
    let mut kinds: Vec<_> = models.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["id"].as_str().unwrap(), model["kind"].as_str().unwrap()))
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            // Routes, which may stand in a model's place.
            ("More", "classify"),
            ("Test tenant", "embed"),
            ("fake", "chat"),
            ("moods", "classify"),
            ("vectors", "embed"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_one_kind_and_an_assistant_one_that_chats() {
    let world = world(Manner::Well).await;
    let tenant = tenant(&world, CREDITS).await;
    let routes = format!("/v1/tenants/{}/routes", tenant.id);
    let mixed = json!({ "name": "Mixed", "models": ["fake", "unheard-of", "moods"] });
    let mixed = world.post(&routes, OPERATOR, &mixed).await;
    assert_eq!((mixed.status, &mixed.body["errors"][0]["pointer"]), (422, &json!("/models/2")));
    let made = json!({ "name": "Moods", "models": ["moods"] });
    let made = world.post(&routes, OPERATOR, &made).await;
    let assistant = json!({ "name": "Ada", "system_prompt": "x", "route_id": made.body["id"] });
    let path = format!("/v1/tenants/{}/assistants", tenant.id);
    let refused = world.post(&path, OPERATOR, &assistant).await;
    assert_eq!(refused.status, 422);
    assert_json_snapshot!([&mixed.body["errors"], &refused.body["errors"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_what_was_asked_is_a_failure_of_the_model() {
    for manner in [Manner::LeavesOut, Manner::Repeats, Manner::Babbles, Manner::Fails] {
        let world = world(manner).await;
        let tenant = tenant(&world, CREDITS).await;
        let answer =
            embed(&world, &tenant, json!({ "model": "vectors", "input": ["a", "b"] })).await;
        assert_eq!(answer.status, 502, "{manner:?}: {}", answer.body);
        assert_eq!(answer.body["error"]["code"], "model_failed");
        assert_eq!(world.db.psql("SELECT coalesce(sum(charge), 0) FROM usage_events"), "0");
    }
}
