//! Visitors who speak: what a web channel takes beside words, on its page and in a widget.

use qudao_domain::Micros;
use qudao_testkit::{Ear, TestTenant};
use serde_json::{Value, json};

use crate::{
    http::Answer,
    model::Script,
    world::{Plan, World, bearer, per_token_each_way, refusal, visitor},
};

const OGG: &str = "OggS\u{1}\u{2}";
const GIF: &str = "GIF89a\u{1}\0";

struct Hall {
    world: World,
    tenant: TestTenant,
}

impl Hall {
    async fn new(params: Value) -> Self {
        let script = Script::says(&["Your parcel is on its way."], std::time::Duration::ZERO);
        let world = World::with(Plan { model: Some(script), ..Plan::default() }).await;
        Ear::register(&world.core.plugins, "ear", Some(&["Where is my parcel?"])).await;
        let builder = TestTenant::builder().credits(Micros::new(100_000_000)).params(params);
        let builder = builder.models(&["fake", "ear"]).rates(per_token_each_way());
        let tenant = builder.create(&world.db.store()).await;
        Self { world, tenant }
    }

    fn set(&self, settings: &Value) {
        let channel = self.tenant.channel_id.as_uuid();
        let sql = format!(
            "UPDATE channels SET settings = '{settings}', revision = revision + 1 \
             WHERE channel_id = '{channel}'"
        );
        self.world.db.psql(&sql);
    }

    async fn face(&self) -> Value {
        let path = format!("/v1/web/{}/session", self.tenant.public_key);
        self.world.send("POST", &path, "", "").await.body["channel"].clone()
    }

    async fn speak(&self, token: &str, query: &str, bytes: &str) -> Answer {
        let path = format!("/v1/web/{}/files?{query}", self.tenant.public_key);
        self.world.send("POST", &path, &bearer(token), bytes).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_visitor_says_is_heard_answered_and_charged_once_each() {
    let hall = Hall::new(json!({ "speech_model": "ear" })).await;
    assert_eq!(hall.face().await["voice"], true);
    let token = visitor();
    let sent = hall.speak(&token, "id=v1&name=voice.ogg&voice=true", OGG).await;
    assert_eq!((sent.status, &sent.body["duplicate"]), (202, &json!(false)), "{}", sent.body);
    hall.world.eventually("SELECT count(*) FROM outbox WHERE kind = 'reply'", "1").await;
    // A browser that did not hear of it sends it again.
    let again = hall.speak(&token, "id=v1&name=voice.ogg&voice=true", OGG).await;
    assert_eq!((again.status, &again.body["duplicate"]), (202, &json!(true)));
    let path = format!("/v1/web/{}/messages", hall.tenant.public_key);
    let history = hall.world.get(&path, &token).await.body;
    let part = &history["data"][0]["parts"][0];
    assert_eq!((&part["type"], &part["alt"]), (&json!("audio"), &json!("Where is my parcel?")));
    assert_eq!(history["data"][1]["text"], "Your parcel is on its way.");
    let booked = "SELECT string_agg(model, ' ' ORDER BY model) FROM usage_events";
    assert_eq!(hall.world.db.psql(booked), "ear fake");
    assert_eq!(hall.world.db.psql("SELECT count(*) FROM media"), "1");
    // Nobody else hears of it.
    let other = hall.world.get(&path, &visitor()).await.body;
    assert_eq!(other["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_files_takes_voices_and_nothing_else() {
    let hall = Hall::new(json!({ "speech_model": "ear" })).await;
    let token = visitor();
    for (query, bytes, wanted) in [
        ("id=f1&name=a.ogg", OGG, (415, "unsupported_media_type")),
        ("id=f2&voice=true", GIF, (415, "unsupported_media_type")),
        ("id=f3&voice=true", "words", (415, "unsupported_media_type")),
        ("id=f4&voice=true", "", (415, "unsupported_media_type")),
        ("id=f5&voice=loud", OGG, (400, "invalid_query")),
        ("id=&voice=true", OGG, (400, "invalid_query")),
    ] {
        let (status, code) = refusal(&hall.speak(&token, query, bytes).await);
        assert_eq!((status, &*code), wanted, "{query}");
    }
    let path = format!("/v1/web/{}/files?id=v1&voice=true", hall.tenant.public_key);
    assert_eq!(hall.world.send("POST", &path, "", OGG).await.status, 401);
    assert_eq!(hall.world.db.psql("SELECT count(*) FROM inbox"), "0");
    assert_eq!(hall.speak(&token, "id=v2&voice=true", OGG).await.status, 202);
    hall.set(&json!({ "uploads": true }));
    let deadline = std::time::Instant::now() + crate::http::PATIENCE;
    while hall.speak(&token, "id=f6&name=a.gif", GIF).await.status != 202 {
        assert!(std::time::Instant::now() < deadline, "the channel takes files now");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_a_microphone_to_which_nobody_listens() {
    let deaf = Hall::new(json!({})).await;
    assert_eq!(deaf.face().await["voice"], false);
    let refused = deaf.speak(&visitor(), "id=v1&voice=true", OGG).await;
    assert_eq!(refusal(&refused), (409, "conflict".to_owned()));
    let hall = Hall::new(json!({ "speech_model": "ear" })).await;
    hall.set(&json!({ "voice": false }));
    assert_eq!(hall.face().await["voice"], false);
    let refused = hall.speak(&visitor(), "id=v1&voice=true", OGG).await;
    assert_eq!(refusal(&refused), (409, "conflict".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_takes_what_its_page_takes() {
    let hall = Hall::new(json!({ "speech_model": "ear" })).await;
    hall.set(&json!({ "origins": ["https://shop.example"] }));
    let origin = "origin: https://shop.example\r\n";
    let path = format!("/v1/widget/{}/token", hall.tenant.public_key);
    let headers = format!("{origin}{}", crate::world::JSON);
    let given = hall.world.send("POST", &path, &headers, "{}").await.body;
    assert_eq!(
        (&given["channel"]["voice"], &given["widget"]["uploads"]),
        (&json!(true), &json!(false))
    );
    let headers = format!("{origin}{}", bearer(given["token"].as_str().unwrap()));
    let files = format!("/v1/widget/{}/files", hall.tenant.public_key);
    let voice = format!("{files}?id=v1&name=voice.webm&voice=true");
    let sent = hall.world.send("POST", &voice, &headers, OGG).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let picture = format!("{files}?id=f1&voice=true");
    let refused = hall.world.send("POST", &picture, &headers, GIF).await;
    assert_eq!(refusal(&refused), (415, "unsupported_media_type".to_owned()));
    hall.world.eventually("SELECT count(*) FROM outbox WHERE kind = 'reply'", "1").await;
}
