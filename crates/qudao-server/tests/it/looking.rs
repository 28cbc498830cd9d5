//! `POST /v1/detections`: what is in a picture, what that costs, and what is refused.

use qudao_testkit::{Eye, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::Answer,
    model::Script,
    world::{Plan, World, per_token_each_way},
};

async fn world(sees: &[(&str, f32)]) -> (World, TestTenant) {
    let script = Script::says(&["Hi"], std::time::Duration::ZERO);
    let world = World::with(Plan { model: Some(script), ..Plan::default() }).await;
    Eye::register(&world.core.plugins, "eye", sees).await;
    let builder = TestTenant::builder().credits(qudao_domain::Micros::new(100_000_000));
    let builder = builder.models(&["eye"]).rates(per_token_each_way());
    let tenant = builder.create(&world.db.store()).await;
    (world, tenant)
}

async fn detect(world: &World, tenant: &TestTenant, body: Value) -> Answer {
    world.post("/v1/detections", &tenant.api_key.reveal(), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn things_come_with_boxes_scores_and_a_price() {
    let (world, tenant) = world(&[("person", 0.75), ("cup", 0.5)]).await;
    let body = json!({ "model": "eye", "image": "data:image/png;base64,AAAA" });
    let answer = detect(&world, &tenant, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let place = json!({ "left": 1.0, "top": 2.0, "width": 3.0, "height": 4.0 });
    assert_eq!(
        answer.body,
        json!({
            "object": "detection",
            "model": "eye",
            "width": 40,
            "height": 20,
            "objects": [
                { "label": "person", "score": 0.75, "box": place },
                { "label": "cup", "score": 0.5, "box": place },
            ],
            "usage": { "prompt_tokens": 1, "total_tokens": 1 },
        })
    );
    assert_eq!(
        world.db.psql("SELECT charge, input_tokens, output_tokens FROM usage_events"),
        "1000|1|0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_leaves_out_and_an_annotated_picture_comes_whole() {
    let (world, tenant) = world(&[("person", 0.75), ("cup", 0.5)]).await;
    let body = json!({ "model": "eye", "image": "AAAA", "threshold": 0.6, "annotate": true });
    let answer = detect(&world, &tenant, body).await;
    assert_eq!(answer.body["objects"].as_array().unwrap().len(), 1, "{}", answer.body);
    // A JPEG file's first three bytes and `person`, of two parts.
    assert_eq!(answer.body["annotated"], "data:image/jpeg;base64,/9j/cGVyc29u");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_picture_is_refused_and_costs_nothing() {
    let (world, tenant) = world(&[("person", 0.75)]).await;
    for (image, more) in [
        ("", json!({})),
        ("data:image/png;base64,", json!({})),
        ("data:image/png,AAAA", json!({})),
        ("https://example.org/a.png", json!({})),
        ("not base64!", json!({})),
        ("AAAA", json!({ "threshold": 1.5 })),
        ("AAAA", json!({ "model": "" })),
    ] {
        let mut body = json!({ "model": "eye", "image": image });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = detect(&world, &tenant, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    let chats = detect(&world, &tenant, json!({ "model": "fake", "image": "AAAA" })).await;
    assert_ne!(chats.status, 200);
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_the_model_refuses_costs_nothing() {
    let (world, tenant) = world(&[]).await;
    let answer = detect(&world, &tenant, json!({ "model": "eye", "image": "AAAA" })).await;
    assert_ne!(answer.status, 200, "{}", answer.body);
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}
