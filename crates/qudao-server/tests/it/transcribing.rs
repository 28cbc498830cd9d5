//! `POST /v1/audio/transcriptions`: what is said in a sound, what that costs, and what is refused.

use insta::{assert_json_snapshot, assert_snapshot};
use qudao_domain::Micros;
use qudao_testkit::{Ear, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::{Answer, Stream},
    model::Script,
    world::{OPERATOR, Plan, World, bearer, per_token_each_way, refusal},
};

const PATH: &str = "/v1/audio/transcriptions";
const CREDITS: i64 = 100_000_000;
/// What the ear hears in each sound, a second each.
const SAID: &[&str] = &["Hello.", "Where is my parcel?"];
/// As long as its two seconds are at least: what is set aside for a call is bounded by the bytes.
const SOUND: &str = match std::str::from_utf8(&[b'x'; 600]) {
    Ok(bytes) => bytes,
    Err(_) => panic!("letters"),
};
/// Two seconds at a thousandth of a unit.
const CHARGED: &str = "2000|2|0";

async fn world(hears: Option<&[&str]>) -> World {
    let script = Script::says(&["Hi"], std::time::Duration::ZERO);
    let world = World::with(Plan { model: Some(script), ..Plan::default() }).await;
    Ear::register(&world.core.plugins, "ear", hears).await;
    world
}

async fn tenant(world: &World, credits: i64) -> TestTenant {
    let builder = TestTenant::builder().credits(Micros::new(credits)).name("Test tenant");
    builder.models(&["ear"]).rates(per_token_each_way()).create(&world.db.store()).await
}

/// A form as clients write it.
fn form(bound: &str, fields: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (name, value) in fields {
        let file = if *name == "file" { "; filename=\"voice.ogg\"" } else { "" };
        body += &format!(
            "--{bound}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n"
        );
    }
    body + &format!("--{bound}--\r\n")
}

fn headers(key: &str, bound: &str) -> String {
    format!("{}content-type: multipart/form-data; boundary={bound}\r\n", bearer(key))
}

/// Sends a sound with more fields.
async fn transcribe(world: &World, tenant: &TestTenant, more: &[(&str, &str)]) -> Answer {
    let fields = [&[("file", SOUND), ("model", "ear")], more].concat();
    send(world, tenant, &fields).await
}

async fn send(world: &World, tenant: &TestTenant, fields: &[(&str, &str)]) -> Answer {
    let head = headers(&tenant.api_key.reveal(), "b0");
    world.send("POST", PATH, &head, &form("b0", fields)).await
}

fn charged(world: &World) -> String {
    world.db.psql("SELECT charge, input_tokens, output_tokens FROM usage_events")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_has_openais_shape_and_a_price_by_the_second() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let answer = transcribe(&world, &tenant, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let usage = json!({ "type": "duration", "seconds": 2 });
    assert_eq!(answer.body, json!({ "text": "Hello. Where is my parcel?", "usage": usage }));
    assert_eq!(answer.header("x-qudao-model"), Some("ear"));
    assert_eq!(charged(&world), CHARGED);
    let by_route = send(&world, &tenant, &[("file", SOUND), ("model", "Test tenant")]).await;
    assert_eq!((by_route.status, &by_route.body), (200, &answer.body));
    assert_eq!(by_route.header("x-qudao-model"), Some("ear"));
    assert!(by_route.header("x-qudao-decision").unwrap().starts_with("dec_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_answer_holds_the_same_words() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let mut told = String::new();
    for format in ["text", "srt", "vtt"] {
        let answer = transcribe(&world, &tenant, &[("response_format", format)]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let kind = answer.header("content-type").unwrap();
        told += &format!("== {kind}\n{}", answer.body.as_str().unwrap());
    }
    assert_snapshot!(told);
    let more = [
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "segment"),
        ("language", "ZH"),
        ("prompt", "Parcels."),
        ("temperature", "0.2"),
        ("chunking_strategy", "auto"),
    ];
    let answer = transcribe(&world, &tenant, &more).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_json_snapshot!(answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_each_stretch_and_ends_when_it_is_charged() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let connection = tokio::net::TcpStream::connect(world.addr()).await.unwrap();
    let fields = [("file", SOUND), ("model", "ear"), ("stream", "true")];
    let head = headers(&tenant.api_key.reveal(), "b0");
    let stream = Stream::open(connection, "POST", PATH, &head, &form("b0", &fields)).await;
    assert_eq!(stream.status, 200);
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    assert_snapshot!(stream.all().await);
    assert_eq!(charged(&world), CHARGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_made_and_charged_once_whatever_the_forms_bounds() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let key = tenant.api_key.reveal();
    let again = async |bound: &str, once: &str, fields: &[(&str, &str)]| {
        let head = format!("{}idempotency-key: {once}\r\n", headers(&key, bound));
        world.send("POST", PATH, &head, &form(bound, fields)).await
    };
    let fields = [("file", SOUND), ("model", "ear")];
    let first = again("b0", "k1", &fields).await;
    let second = again("b1", "k1", &fields).await;
    assert_eq!((first.status, second.status), (200, 200), "{}", second.body);
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(second.header("x-qudao-model"), Some("ear"));
    for other in
        [&[("file", "OggX"), ("model", "ear")][..], &[fields[0], fields[1], ("prompt", "x")]]
    {
        let refused = again("b0", "k1", other).await;
        assert_eq!(refusal(&refused), (422, "idempotency_key_reused".to_owned()));
    }
    let flowing = [fields[0], fields[1], ("stream", "true")];
    let (first, second) = (again("b0", "k2", &flowing).await, again("b1", "k2", &flowing).await);
    assert!(second.body.as_str().unwrap().contains("data: [DONE]"), "{}", second.body);
    let events = |answer: &Answer| -> Vec<String> {
        let text = answer.body.as_str().unwrap().to_owned();
        text.lines().filter(|line| line.starts_with("data: ")).map(str::to_owned).collect()
    };
    assert_eq!(events(&first), events(&second));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(world.db.psql("SELECT count(*), sum(charge) FROM usage_events"), "2|4000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_and_costs_nothing() {
    let world = world(Some(SAID)).await;
    let (rich, poor) = (tenant(&world, CREDITS).await, tenant(&world, 0).await);
    let long = "x".repeat(4_001);
    let (file, model) = (("file", SOUND), ("model", "ear"));
    let mut refusals = Vec::new();
    for fields in [
        &[model][..],
        &[("file", ""), model],
        &[file],
        &[file, ("model", "")],
        &[file, model, model],
        &[file, model, ("language", "english")],
        &[file, model, ("language", "")],
        &[file, model, ("prompt", &long)],
        &[file, model, ("prompt", "\0")],
        &[file, model, ("response_format", "diarized_json")],
        &[file, model, ("temperature", "hot")],
        &[file, model, ("temperature", "1.5")],
        &[file, model, ("stream", "maybe")],
        &[file, model, ("stream", "true"), ("response_format", "srt")],
        &[file, model, ("timestamp_granularities[]", "segment")],
        &[
            file,
            model,
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "segment"),
            ("timestamp_granularities[]", "word"),
        ],
    ] {
        let answer = send(&world, &rich, fields).await;
        assert_eq!(answer.status, 400, "{fields:?}: {}", answer.body);
        refusals.push(answer.body);
    }
    assert_json_snapshot!(refusals);
    let unknown = send(&world, &rich, &[file, ("model", "whisper-1")]).await;
    let empty = send(&world, &poor, &[file, model]).await;
    assert_eq!(refusal(&unknown), (404, "model_not_found".to_owned()));
    assert_eq!(refusal(&empty), (402, "insufficient_quota".to_owned()));
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_form_or_too_large_is_refused_before_it_is_read() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let key = tenant.api_key.reveal();
    let json = world.post(PATH, &key, &json!({ "model": "ear", "file": SOUND })).await;
    assert_eq!(json.status, 415);
    assert!(json.body["error"]["message"].as_str().unwrap().contains("multipart/form-data"));
    let head = headers(&key, "b0");
    let broken = world.send("POST", PATH, &head, "--b0\r\nContent-Dis").await;
    assert_eq!(broken.status, 400, "{}", broken.body);
    // One byte more than a plugin's request has room for.
    let large = "x".repeat((15 << 20) / 4 * 3 + 1);
    let refused = send(&world, &tenant, &[("file", &large), ("model", "ear")]).await;
    assert_eq!(refused.status, 413, "{}", refused.body);
    let larger = "x".repeat(12 << 20);
    let refused = send(&world, &tenant, &[("file", &larger), ("model", "ear")]).await;
    assert_eq!(refused.status, 413, "{}", refused.body);
    let whole = send(&world, &tenant, &[("file", &large[1..]), ("model", "ear")]).await;
    assert_eq!(whole.status, 200, "{}", whole.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_other_kinds_and_of_other_tenants_are_refused_in_words() {
    let world = world(Some(SAID)).await;
    let tenant = tenant(&world, CREDITS).await;
    let stranger = world.tenant(CREDITS).await;
    let path = format!("/v1/tenants/{}/routes", tenant.id);
    let more = json!({ "name": "Chat", "models": ["fake"] });
    assert_eq!(world.post(&path, OPERATOR, &more).await.status, 201);
    let chats = send(&world, &tenant, &[("file", SOUND), ("model", "fake")]).await;
    assert_eq!(refusal(&chats), (400, "wrong_model_kind".to_owned()));
    let message = json!([{ "role": "user", "content": "Hello" }]);
    let key = tenant.api_key.reveal();
    let body = json!({ "model": "ear", "messages": message });
    let spoken_to = world.post("/v1/chat/completions", &key, &body).await;
    assert_eq!(refusal(&spoken_to), (400, "wrong_model_kind".to_owned()));
    assert_json_snapshot!([chats.body, spoken_to.body]);
    let theirs = transcribe(&world, &stranger, &[]).await;
    assert_eq!(refusal(&theirs), (404, "model_not_found".to_owned()));
    let nobody = headers("qk_live_wrong", "b0");
    let form = form("b0", &[("file", SOUND), ("model", "ear")]);
    assert_eq!(world.send("POST", PATH, &nobody, &form).await.status, 401);
    let keys = format!("/v1/tenants/{}/api-keys", tenant.id);
    let reads = json!({ "name": "Reads", "scopes": ["billing:read"] });
    let made = world.post(&keys, OPERATOR, &reads).await;
    let reads = headers(made.body["key"].as_str().unwrap(), "b0");
    assert_eq!(world.send("POST", PATH, &reads, &form).await.status, 403);
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_that_the_model_refuses_is_the_callers_mistake_and_costs_nothing() {
    let world = world(None).await;
    let tenant = tenant(&world, CREDITS).await;
    for more in [&[][..], &[("stream", "true")]] {
        let answer = transcribe(&world, &tenant, more).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.body["error"]["message"], "damaged: as the test says");
    }
    assert_eq!(world.db.psql("SELECT count(*) FROM usage_events"), "0");
    assert_eq!(world.db.psql("SELECT sum(posted) FROM wallets"), CREDITS.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_charged_as_what_was_listened_to_and_has_no_words() {
    let world = world(Some(&[])).await;
    let tenant = tenant(&world, CREDITS).await;
    let whole = transcribe(&world, &tenant, &[]).await;
    assert_eq!((whole.status, &whole.body["text"]), (200, &Value::from("")));
    let verbose = transcribe(&world, &tenant, &[("response_format", "verbose_json")]).await;
    assert_eq!((&verbose.body["language"], &verbose.body["segments"]), (&json!("und"), &json!([])));
    let subtitles = transcribe(&world, &tenant, &[("response_format", "vtt")]).await;
    assert_eq!(subtitles.body, "WEBVTT\n\n");
    assert_eq!(world.db.psql("SELECT count(*), sum(charge) FROM usage_events"), "3|3000");
}
