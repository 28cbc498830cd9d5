//! Files on the chat page: sent where the channel takes them, and fetched by whose conversation it is.

use std::time::{Duration, Instant};

use qudao_domain::{MediaId, Micros};
use qudao_testkit::{Eye, TestTenant};
use serde_json::json;

use crate::{
    http::{Answer, PATIENCE},
    model::Script,
    world::{Plan, World, bearer, per_token_each_way, refusal, visitor},
};

/// A picture as far as its first bytes say.
const PICTURE: &str = "GIF89a\u{1}\0";

struct Page {
    world: World,
    tenant: TestTenant,
    token: String,
}

impl Page {
    async fn new(settings: &str) -> Self {
        let script = Script::says(&["Nice"], Duration::ZERO);
        let world = World::with(Plan { model: Some(script), ..Plan::default() }).await;
        Eye::register(&world.core.plugins, "eye", &[("cat", 0.62)]).await;
        let builder = TestTenant::builder().credits(Micros::new(100_000_000));
        let builder = builder.models(&["fake", "eye"]).rates(per_token_each_way());
        let params = json!({ "vision_model": "eye", "vision_annotate": true });
        let tenant = builder.params(params).create(&world.db.store()).await;
        let id = tenant.channel_id.as_uuid();
        world.db.psql(&format!(
            "UPDATE channels SET settings = '{settings}' WHERE channel_id = '{id}'"
        ));
        Self { world, tenant, token: visitor() }
    }

    async fn ask(&self, method: &str, end: &str, token: &str, body: &str) -> Answer {
        let path = format!("/v1/web/{}/{end}", self.tenant.public_key);
        self.world.send(method, &path, &bearer(token), body).await
    }

    /// Waits for the answer to the first message.
    async fn reply(&self) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let history = self.ask("GET", "messages", &self.token, "").await.body;
            if let Some(reply) = history["data"].get(1) {
                return reply.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{history}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_comes_back_with_what_was_found_in_it_and_to_nobody_else() {
    let page = Page::new(r#"{"uploads":true}"#).await;
    let session = page.ask("POST", "session", "", "").await;
    assert_eq!(session.body["uploads"], true, "{}", session.body);
    for duplicate in [false, true] {
        let sent = page.ask("POST", "files?id=f1&name=cat.gif", &page.token, PICTURE).await;
        assert_eq!((sent.status, &sent.body["duplicate"]), (202, &json!(duplicate)));
    }
    let reply = page.reply().await;
    assert_eq!(reply["parts"][0]["text"], "Nice");
    let drawn = &reply["parts"][1];
    assert_eq!(
        [&drawn["type"], &drawn["mime"], &drawn["alt"]],
        ["image", "image/jpeg", "The picture shows: 1 cat (62 %)."]
    );
    let own = page.ask("GET", "messages", &page.token, "").await.body;
    let own = own["data"][0]["parts"][0]["upload_id"].as_str().unwrap().to_owned();
    let fetched = page.ask("GET", &format!("files/{own}"), &page.token, "").await;
    assert_eq!((fetched.status, &fetched.body), (200, &json!(PICTURE)));
    for (name, value) in [
        ("content-type", "image/gif"),
        ("content-disposition", "attachment"),
        ("cache-control", "private, max-age=3600"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(fetched.header(name), Some(value), "{}", fetched.head);
    }
    let drawn = drawn["upload_id"].as_str().unwrap();
    let nobody = MediaId::new().to_string();
    let rival = page.world.tenant(1_000_000).await;
    for (token, id, wanted) in [
        (&*page.token, drawn, (200, "")),
        (&*page.token, &*nobody, (404, "not_found")),
        (&*page.token, "upl_1", (404, "not_found")),
        // A stranger, and one who wrote something of their own.
        (&*visitor(), drawn, (404, "not_found")),
        ("", drawn, (401, "invalid_credentials")),
    ] {
        let answer = page.ask("GET", &format!("files/{id}"), token, "").await;
        let code = answer.body["code"].as_str().unwrap_or_default();
        assert_eq!((answer.status, code), wanted, "{id}");
    }
    let other = visitor();
    let said = r#"{"id":"m1","text":"Hello"}"#;
    let headers = format!("{}content-type: application/json\r\n", bearer(&other));
    let path = format!("/v1/web/{}/messages", page.tenant.public_key);
    assert_eq!(page.world.send("POST", &path, &headers, said).await.status, 202);
    assert_eq!(page.ask("GET", &format!("files/{drawn}"), &other, "").await.status, 404);
    // The same visitor at another tenant's door.
    let path = format!("/v1/web/{}/files/{drawn}", rival.public_key);
    let answer = page.world.send("GET", &path, &bearer(&page.token), "").await;
    assert_eq!(refusal(&answer), (404, "not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_takes_no_files_unless_its_owner_says_so() {
    let page = Page::new("{}").await;
    let session = page.ask("POST", "session", "", "").await;
    assert_eq!(session.body["uploads"], false, "{}", session.body);
    let refused = page.ask("POST", "files?id=f1&name=cat.gif", &page.token, PICTURE).await;
    assert_eq!(refusal(&refused), (409, "conflict".to_owned()));
    assert_eq!(page.world.db.psql("SELECT count(*) FROM media"), "0");
    assert_eq!(page.world.db.psql("SELECT count(*) FROM inbox"), "0");
}
