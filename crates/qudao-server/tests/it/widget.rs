//! The widget: who gets a token, what a token opens, and everything that it does not.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{SinkExt as _, StreamExt as _};
use qudao_core::vault::Place;
use qudao_domain::ChannelId;
use qudao_testkit::TestTenant;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::{
    http::{Answer, PATIENCE, Stream, send},
    model::Script,
    world::{JSON, World, bearer, refusal, visitor},
};

const SHOP: &str = "https://shop.example";
const BLOG: &str = "http://blog.example:8080";
const CREDITS: i64 = 100_000_000;

struct Site {
    world: World,
    tenant: TestTenant,
}

impl Site {
    async fn new(world: World, settings: &Value) -> Self {
        let tenant = world.tenant(CREDITS).await;
        let site = Self { world, tenant };
        site.set(settings);
        site
    }

    /// A site whose channel lists [`SHOP`] and [`BLOG`].
    async fn listed() -> Self {
        Self::new(World::start().await, &json!({ "origins": [SHOP, BLOG], "uploads": true })).await
    }

    fn set(&self, settings: &Value) {
        set(&self.world, self.tenant.channel_id, settings);
    }

    fn path(&self, end: &str) -> String {
        format!("/v1/widget/{}/{end}", self.tenant.public_key)
    }

    async fn ask(&self, method: &str, end: &str, headers: &str, body: &str) -> Answer {
        self.world.send(method, &self.path(end), headers, body).await
    }

    async fn ask_token(&self, headers: &str, body: &Value) -> Answer {
        self.ask("POST", "token", &format!("{headers}{JSON}"), &body.to_string()).await
    }

    async fn token(&self) -> String {
        let answer = self.ask_token(&origin(SHOP), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["token"].as_str().unwrap().to_owned()
    }

    async fn read(&self, from: &str, token: &str) -> (u16, String) {
        refusal(&self.ask("GET", "messages", &shown(from, token), "").await)
    }

    /// A token as this platform would seal it, with something in it changed.
    async fn sealed(&self, change: &Value) -> String {
        let mut plain = json!({
            "assistant": self.tenant.assistant_id.to_string(), "origin": SHOP,
            "peer": "ab".repeat(32), "until": now(&self.world) + 600,
        });
        plain.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        seal(&self.world, &self.tenant, self.tenant.channel_id, &plain).await
    }

    /// Asks until the answer is this one: nodes remember a channel for a second.
    async fn soon(&self, token: &str, wanted: (u16, &str)) {
        let begun = Instant::now();
        loop {
            let (status, code) = self.read(SHOP, token).await;
            if (status, code.as_str()) == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{status} {code}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn socket(&self, from: &str) -> Result<WebSocketStream<TcpStream>, u16> {
        let connection = TcpStream::connect(self.world.addr()).await.unwrap();
        let url = format!("ws://{}{}", self.world.addr(), self.path("socket"));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("origin", from.parse().unwrap());
        match client_async(request, connection).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }
}

fn set(world: &World, channel: ChannelId, settings: &Value) {
    let id = channel.as_uuid();
    world
        .db
        .psql(&format!("UPDATE channels SET settings = '{settings}' WHERE channel_id = '{id}'"));
}

async fn seal(world: &World, tenant: &TestTenant, channel: ChannelId, plain: &Value) -> String {
    let place = Place { table: "token", column: "widget", row: channel.as_uuid() };
    let sealed = world.core.vault.seal(tenant.id, place, plain.to_string().as_bytes()).await;
    format!("qw_{}", URL_SAFE_NO_PAD.encode(sealed.unwrap()))
}

fn now(world: &World) -> i64 {
    world.core.clock.now().as_second()
}

fn origin(site: &str) -> String {
    format!("origin: {site}\r\n")
}

fn shown(site: &str, token: &str) -> String {
    format!("{}{}", origin(site), bearer(token))
}

fn unwelcome() -> (u16, String) {
    (401, "invalid_credentials".to_owned())
}

async fn frame(socket: &mut WebSocketStream<TcpStream>, kind: &str) -> Value {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a frame in time");
        let Message::Text(text) = message.unwrap().unwrap() else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        if frame["type"] == kind {
            return frame;
        }
    }
}

async fn hello(socket: &mut WebSocketStream<TcpStream>, token: &str) {
    let hello = json!({ "type": "hello", "token": token });
    socket.send(Message::text(hello.to_string())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_given_to_pages_of_listed_sites_and_to_no_others() {
    let site = Site::new(World::start().await, &json!({})).await;
    let off = site.ask_token(&origin(SHOP), &json!({})).await;
    assert_eq!(refusal(&off), (403, "origin_refused".to_owned()));
    let told = off.body["detail"].as_str().unwrap();
    assert!(told.contains("`origins`") && told.contains("settings"), "{told}");

    let site = Site::listed().await;
    for (listed, named) in [(SHOP, SHOP), (BLOG, BLOG)] {
        let answer = site.ask_token(&origin(named), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), Some(listed));
        assert!(answer.header("vary").unwrap().contains("origin"), "{}", answer.head);
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.body["expires_in"], 900);
        assert_eq!(answer.body["widget"]["uploads"], true);
    }
    let lookalikes = [
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.",
        "null",
        "https://shop.example.evil.example",
        "https://evil.example",
        "https://www.shop.example",
        "http://blog.example",
        "https://shop.example/",
        "https://SHOP.example",
        "",
    ];
    for named in lookalikes {
        let answer = site.ask_token(&origin(named), &json!({})).await;
        assert_eq!(refusal(&answer), (403, "origin_refused".to_owned()), "{named}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{named}");
        assert!(answer.header("vary").unwrap().contains("origin"), "{named}");
    }
    for headers in [String::new(), format!("{}{}", origin(SHOP), origin("https://evil.example"))] {
        let answer = site.ask_token(&headers, &json!({})).await;
        assert_eq!(refusal(&answer), (403, "origin_refused".to_owned()), "{headers}");
    }
    let headers = format!("{}{JSON}", origin(SHOP));
    let unknown = site.world.send("POST", "/v1/widget/wk_none/token", &headers, "{}").await;
    assert_eq!(refusal(&unknown), (404, "not_found".to_owned()));
    // Nothing is stored of somebody who only looked.
    assert_eq!(site.world.db.psql("SELECT count(*) FROM contacts"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_what_a_listed_page_may_send() {
    let site = Site::listed().await;
    let asks = "access-control-request-method: POST\r\n\
                access-control-request-headers: authorization,content-type\r\n";
    for end in ["token", "messages", "stop", "events", "rating", "files"] {
        let answer = site.ask("OPTIONS", end, &format!("{}{asks}", origin(SHOP)), "").await;
        assert_eq!(answer.status, 204, "{end}: {}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), Some(SHOP));
        assert_eq!(answer.header("access-control-allow-methods"), Some("get, post"));
        let headers = answer.header("access-control-allow-headers").unwrap();
        assert_eq!(headers, "authorization, content-type");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let answer = site
            .ask("OPTIONS", end, &format!("{}{asks}", origin("https://evil.example")), "")
            .await;
        assert_eq!(refusal(&answer), (403, "origin_refused".to_owned()), "{end}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // The chat page's own endpoints and the admin API are nobody else's.
    for path in [format!("/v1/web/{}/messages", site.tenant.public_key), "/v1/tenants".to_owned()] {
        for method in ["OPTIONS", "GET"] {
            let answer = site.world.send(method, &path, &origin(SHOP), "").await;
            assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_had_with_a_token_and_goes_on_with_the_next() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let site = Site::new(world, &json!({ "origins": [SHOP] })).await;
    let first = site.ask_token(&origin(SHOP), &json!({})).await.body;
    let token = first["token"].as_str().unwrap();
    let headers = format!("{}{JSON}", shown(SHOP, token));
    let said = json!({ "id": "m1", "text": "Hello" }).to_string();
    let stored = site.ask("POST", "messages", &headers, &said).await;
    assert_eq!((stored.status, stored.header("access-control-allow-origin")), (202, Some(SHOP)));
    site.world.eventually("SELECT count(*) FROM outbox", "1").await;

    let renewed = site.ask_token(&origin(SHOP), &json!({ "visitor": first["visitor"] })).await.body;
    assert_eq!(renewed["visitor"], first["visitor"]);
    let renewed = renewed["token"].as_str().unwrap();
    assert_ne!(renewed, token);
    let history = site.ask("GET", "messages", &shown(SHOP, renewed), "").await.body;
    let texts: Vec<_> = history["data"].as_array().unwrap().iter().map(|m| &m["text"]).collect();
    assert_eq!(texts, ["Hello", "Hi"]);
    assert_eq!(site.ask("POST", "stop", &shown(SHOP, renewed), "").await.status, 204);

    let mut socket = site.socket(SHOP).await.unwrap();
    hello(&mut socket, renewed).await;
    assert_eq!(frame(&mut socket, "message").await["text"], "Hello");
    frame(&mut socket, "ready").await;
    let again = json!({ "type": "send", "id": "m1", "text": "Hello" });
    socket.send(Message::text(again.to_string())).await.unwrap();
    assert_eq!(frame(&mut socket, "accepted").await["duplicate"], true);

    let connection = TcpStream::connect(site.world.addr()).await.unwrap();
    let mut stream =
        Stream::open(connection, "GET", &site.path("events"), &shown(SHOP, renewed), "").await;
    assert!(
        stream.head.contains(&format!("access-control-allow-origin: {SHOP}")),
        "{}",
        stream.head
    );
    assert!(stream.event().await.unwrap().contains("Hello"));

    // Another visitor sees nothing of it.
    let other = site.token().await;
    let history = site.ask("GET", "messages", &shown(SHOP, &other), "").await.body;
    assert_eq!(history["data"], json!([]));
    for visitor in [json!("vw_short"), json!(visitor()), json!(1)] {
        let refused = site.ask_token(&origin(SHOP), &json!({ "visitor": visitor })).await;
        assert_eq!(refusal(&refused), (422, "validation_failed".to_owned()), "{visitor}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_where_it_was_made_for_and_nowhere_else() {
    let site = Site::listed().await;
    let token = site.token().await;
    assert_eq!(site.read(SHOP, &token).await.0, 200);

    // Another origin: one that is listed too, one that is not, none.
    assert_eq!(site.read(BLOG, &token).await, unwelcome());
    assert_eq!(site.read("https://evil.example", &token).await, (403, "origin_refused".to_owned()));
    let silent = site.ask("GET", "messages", &bearer(&token), "").await;
    assert_eq!(refusal(&silent), (403, "origin_refused".to_owned()));

    // Another channel of the tenant, and one of another tenant, which list the site too.
    let rival = site.world.tenant(CREDITS).await;
    set(&site.world, rival.channel_id, &json!({ "origins": [SHOP] }));
    let twin = ChannelId::new();
    site.world.db.psql(&format!(
        "INSERT INTO channels (tenant_id, channel_id, name, kind, public_key, assistant_id, locale, settings) \
         SELECT tenant_id, '{}', name, kind, 'wk_twin', assistant_id, locale, settings FROM channels \
         WHERE channel_id = '{}'",
        twin.as_uuid(), site.tenant.channel_id.as_uuid(),
    ));
    for key in ["wk_twin", &rival.public_key] {
        let path = format!("/v1/widget/{key}/messages");
        let answer = site.world.send("GET", &path, &shown(SHOP, &token), "").await;
        assert_eq!(refusal(&answer), unwelcome(), "{key}");
        // The refusal can be read by the page, which asks for another token then.
        assert_eq!(answer.header("access-control-allow-origin"), Some(SHOP));
    }
    // The chat page's endpoints take no widget's token, and the widget's take no page's.
    let page = format!("/v1/web/{}/messages", site.tenant.public_key);
    assert_eq!(refusal(&site.world.get(&page, &token).await), unwelcome());
    assert_eq!(site.read(SHOP, &visitor()).await, unwelcome());
    let missing = site.ask("GET", "messages", &origin(SHOP), "").await;
    assert_eq!(refusal(&missing), (401, "unauthenticated".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_forged_cut_or_over_opens_nothing() {
    let site = Site::listed().await;
    let token = site.token().await;
    assert_eq!(site.read(SHOP, &site.sealed(&json!({})).await).await.0, 200);

    let now = now(&site.world);
    for until in [now, now - 1, now - 3600, 0, i64::MIN] {
        let over = site.sealed(&json!({ "until": until })).await;
        assert_eq!(site.read(SHOP, &over).await, unwelcome(), "{until}");
    }
    let another = qudao_domain::AssistantId::new().to_string();
    let others = site.sealed(&json!({ "assistant": another })).await;
    assert_eq!(site.read(SHOP, &others).await, unwelcome());
    let more = site.sealed(&json!({ "admin": true })).await;
    assert_eq!(site.read(SHOP, &more).await, unwelcome());
    // Sealed by this platform, for something else of the tenant's.
    let place = Place {
        table: "channels",
        column: "secrets_sealed",
        row: site.tenant.channel_id.as_uuid(),
    };
    let sealed = site.world.core.vault.seal(site.tenant.id, place, b"{}").await.unwrap();
    let other = format!("qw_{}", URL_SAFE_NO_PAD.encode(sealed));
    assert_eq!(site.read(SHOP, &other).await, unwelcome());

    let bytes = URL_SAFE_NO_PAD.decode(&token[3..]).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut bent = bytes.clone();
        bent[at] ^= 1;
        let bent = format!("qw_{}", URL_SAFE_NO_PAD.encode(&bent));
        assert_eq!(site.read(SHOP, &bent).await, unwelcome(), "byte {at}");
        let cut = format!("qw_{}", URL_SAFE_NO_PAD.encode(&bytes[..at]));
        assert_eq!(site.read(SHOP, &cut).await, unwelcome(), "cut at {at}");
    }
    for text in [
        "qw_",
        "qw_!",
        "qw_AAAA",
        &token[3..],
        &format!("{token}="),
        &format!("qw_{}", "A".repeat(5000)),
    ] {
        assert_eq!(site.read(SHOP, text).await, unwelcome(), "{text:.40}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_the_site_is_taken_off_the_list_or_the_assistant_changes() {
    let site = Site::listed().await;
    let token = site.token().await;
    assert_eq!(site.read(SHOP, &token).await.0, 200);
    site.set(&json!({ "origins": [BLOG] }));
    site.soon(&token, (403, "origin_refused")).await;
    site.set(&json!({ "origins": [SHOP] }));
    site.soon(&token, (200, "none")).await;
    let (id, channel) = (qudao_domain::AssistantId::new(), site.tenant.channel_id.as_uuid());
    site.world.db.psql(&format!(
        "INSERT INTO assistants (tenant_id, assistant_id, name, route_id, system_prompt, greeting, params) \
         SELECT tenant_id, '{0}', 'Another', route_id, '', '', '{{}}' FROM assistants \
         WHERE assistant_id = '{1}'; \
         UPDATE channels SET assistant_id = '{0}' WHERE channel_id = '{channel}'",
        id.as_uuid(), site.tenant.assistant_id.as_uuid(),
    ));
    site.soon(&token, (401, "invalid_credentials")).await;
    assert_eq!(site.read(SHOP, &site.token().await).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_what_another_has_sealed() {
    let site = Site::listed().await;
    let token = site.token().await;
    let (node, _core) = site.world.another_node(&Script::says(&["Hi"], Duration::ZERO)).await;
    let answer =
        send(node.addrs()[0], "GET", &site.path("messages"), &shown(SHOP, &token), "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_opens_for_listed_sites_and_lasts_as_long_as_its_token() {
    let site = Site::listed().await;
    let token = site.token().await;
    for other in ["https://evil.example", "null", "http://test"] {
        assert_eq!(site.socket(other).await.err(), Some(403), "{other}");
    }
    for (from, wrong) in [(BLOG, token.as_str()), (SHOP, "qw_AAAA"), (SHOP, &visitor())] {
        let mut socket = site.socket(from).await.unwrap();
        hello(&mut socket, wrong).await;
        assert_eq!(frame(&mut socket, "error").await["code"], "invalid_credentials", "{from}");
    }
    let until = now(&site.world) + 3;
    let short = site.sealed(&json!({ "until": until })).await;
    let mut socket = site.socket(SHOP).await.unwrap();
    hello(&mut socket, &short).await;
    frame(&mut socket, "ready").await;
    frame(&mut socket, "reconnect").await;
    assert!(until <= now(&site.world), "not before the token's end");
    let mut stale = site.socket(SHOP).await.unwrap();
    hello(&mut stale, &short).await;
    assert_eq!(frame(&mut stale, "error").await["code"], "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_rated_once_a_day_and_the_last_word_counts() {
    let site = Site::listed().await;
    let token = site.token().await;
    let headers = format!("{}{JSON}", shown(SHOP, &token));
    let rate = async |score: i64| {
        site.ask("POST", "rating", &headers, &json!({ "score": score }).to_string()).await
    };
    assert_eq!(refusal(&rate(5).await), (404, "not_found".to_owned()), "nothing was said yet");
    let said = json!({ "id": "m1", "text": "Hello" }).to_string();
    assert_eq!(site.ask("POST", "messages", &headers, &said).await.status, 202);
    for score in [5, 1, 4] {
        assert_eq!(rate(score).await.status, 204);
    }
    for score in [0, 6, -1, 256] {
        assert_eq!(rate(score).await.status, 422, "{score}");
    }
    assert_eq!(site.world.db.psql("SELECT count(*), min(score) FROM ratings"), "1|4");
    let ratings = format!("/v1/tenants/{}/ratings", site.tenant.id);
    let key = site.tenant.api_key.reveal();
    let read = site.world.get(&ratings, &key).await.body;
    let channel = site.tenant.channel_id.to_string();
    assert_eq!(
        read["data"],
        json!([{ "channel_id": channel, "count": 1, "good": 1, "scores": [0, 0, 0, 1, 0] }])
    );
    assert_eq!((&read["days"], &read["latest"][0]["score"]), (&json!(30), &json!(4)), "{read}");
    site.world.db.psql("UPDATE ratings SET rated_at = now() - interval '40 days'");
    let later = site.world.get(&ratings, &key).await.body;
    assert_eq!((&later["data"], &later["latest"]), (&json!([]), &json!([])));
    let quarter = site.world.get(&format!("{ratings}?days=90&limit=1"), &key).await.body;
    assert_eq!(quarter["data"][0]["count"], 1, "{quarter}");
    for query in ["days=0", "days=367", "limit=0", "limit=201", "weeks=1"] {
        assert_eq!(
            site.world.get(&format!("{ratings}?{query}"), &key).await.status,
            400,
            "{query}"
        );
    }
    site.set(&json!({ "origins": [SHOP], "csat": false }));
    let begun = Instant::now();
    while rate(5).await.status != 409 {
        assert!(begun.elapsed() < PATIENCE, "ratings go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_message_once_by_what_is_in_it() {
    let site = Site::listed().await;
    let token = site.token().await;
    let headers = shown(SHOP, &token);
    let text = "dear shop,\nhere is my order";
    for duplicate in [false, true] {
        let answer = site.ask("POST", "files?id=f1&name=..%2Forder.txt", &headers, text).await;
        assert_eq!(
            (answer.status, &answer.body["duplicate"]),
            (202, &json!(duplicate)),
            "{}",
            answer.body
        );
    }
    let history = site.ask("GET", "messages", &headers, "").await.body;
    let message = &history["data"][0];
    assert_eq!(
        (&message["text"], &message["client_id"]),
        (&json!("[file: order.txt]"), &json!("f1"))
    );
    let part = &message["parts"][0];
    assert_eq!(
        [&part["type"], &part["mime"], &part["size"], &part["name"]],
        [&json!("file"), &json!("text/plain"), &json!(text.len()), &json!("order.txt")],
    );
    let picture = site.ask("POST", "files?id=f2&name=dot.txt", &headers, "GIF89a\u{1}\0").await;
    assert_eq!(picture.status, 202, "{}", picture.body);
    let history = site.ask("GET", "messages", &headers, "").await.body;
    assert_eq!(history["data"][1]["text"], "[image: dot.txt]");
    assert_eq!(history["data"][1]["parts"][0]["mime"], "image/gif");
    let file = history["data"][1]["parts"][0]["upload_id"].as_str().unwrap();
    let fetched = site.ask("GET", &format!("files/{file}"), &headers, "").await;
    assert_eq!((fetched.status, fetched.body), (200, json!("GIF89a\u{1}\0")));
    let stranger = shown(SHOP, &site.token().await);
    let refused = site.ask("GET", &format!("files/{file}"), &stranger, "").await;
    assert_eq!(refusal(&refused), (404, "not_found".to_owned()));
    site.world.db.psql("DELETE FROM media WHERE mime = 'image/gif'");
    let kept = "SELECT count(*), min(mime), min(size), min(convert_from(bytes, 'UTF8')) = \
                E'dear shop,\\nhere is my order', count(conversation_id) FROM media";
    assert_eq!(site.world.db.psql(kept), "1|text/plain|27|t|1");

    for (end, body, wanted) in [
        ("files?id=f2&name=a.png", "\u{1}\u{2}", (415, "unsupported_media_type")),
        ("files?id=f2", "", (415, "unsupported_media_type")),
        ("files?id=", text, (400, "invalid_query")),
        ("files", text, (400, "invalid_query")),
        ("files?id=f2&to=me", text, (400, "invalid_query")),
    ] {
        let refused = refusal(&site.ask("POST", end, &headers, body).await);
        assert_eq!((refused.0, refused.1.as_str()), wanted, "{end}");
    }
    let large = "x".repeat(10 * 1024 * 1024 + 1);
    let refused = site.ask("POST", "files?id=f3", &headers, &large).await;
    assert_eq!(refusal(&refused), (413, "body_too_large".to_owned()));
    assert_eq!(site.ask("POST", "files?id=f3", &headers, &large[1..]).await.status, 202);
    for (id, wanted) in [("f4", 202), ("f5", 202), ("f6", 202), ("f7", 413)] {
        let answer = site.ask("POST", &format!("files?id={id}"), &headers, &large[1..]).await;
        assert_eq!(answer.status, wanted, "{id}: {}", answer.body);
    }
    site.set(&json!({ "origins": [SHOP] }));
    let begun = Instant::now();
    while site.ask("POST", "files?id=f8", &headers, text).await.status != 409 {
        assert!(begun.elapsed() < PATIENCE, "files go on");
    }
}
