//! The web chat over its socket.

use std::time::Duration;

use qudao_storage::Rate;
use qudao_testkit::TestTenant;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    http::{Stream, send},
    model::{Prompter, Script},
    socket::Tab,
    world::{Plan, World, bearer, refusal, visitor},
};

const CREDITS: i64 = 100_000_000;

struct Chat {
    world: World,
    tenant: TestTenant,
    token: String,
    prompter: Option<Prompter>,
}

impl Chat {
    async fn prompted() -> Self {
        let (script, prompter) = Script::prompted();
        let world = World::with_model(&script).await;
        let tenant = world.tenant(CREDITS).await;
        Self { world, tenant, token: visitor(), prompter: Some(prompter) }
    }

    async fn tab(&self, after: &str) -> Tab {
        Tab::open(&self.world, &self.tenant.public_key, &self.token, after).await
    }

    fn model_says(&self, piece: &str) {
        self.prompter.as_ref().unwrap().say(piece);
    }

    fn model_ends(&mut self) {
        self.prompter = None;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_to_every_tab_and_then_stands_there_as_a_message() {
    let mut chat = Chat::prompted().await;
    let (mut one, mut two) = (chat.tab("").await, chat.tab("").await);
    assert_eq!(one.until("ready").await, json!({ "type": "ready", "cursor": "0.0" }));
    two.until("ready").await;
    one.say("m1", "Hello").await;
    let accepted = one.until("accepted").await;
    assert_eq!(
        accepted,
        json!({ "type": "accepted", "id": "m1", "key": "i:1", "duplicate": false })
    );
    for tab in [&mut one, &mut two] {
        let message = tab.until("message").await;
        assert_eq!(
            [&message["key"], &message["role"], &message["text"], &message["client_id"]],
            [&json!("i:1"), &json!("user"), &json!("Hello"), &json!("m1")]
        );
    }
    chat.model_says("Hi");
    one.typed("Hi").await;
    two.typed("Hi").await;
    chat.model_says(" there");
    one.typed("Hi there").await;
    chat.model_ends();
    let (first, second) = (one.reply().await, two.reply().await);
    assert_eq!(first, second);
    assert_eq!((&first["key"], &first["text"]), (&json!("o:1"), &json!("Hi there")));
    assert_eq!(one.streamed(&first["turn"]), "Hi there");
    assert_eq!((&one.cursor, &two.cursor), (&"1.1".to_owned(), &"1.1".to_owned()));
    chat.world.eventually("SELECT charge FROM usage_events", "2000").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_a_cursor_loses_nothing_and_sees_nothing_twice() {
    let mut chat = Chat::prompted().await;
    let mut tab = chat.tab("").await;
    tab.say("m1", "Hello").await;
    chat.model_says("Hi");
    tab.typed("Hi").await;
    let cursor = tab.cursor.clone();
    assert_eq!(cursor, "1.0");
    // The network is gone, without a farewell.
    drop(tab);
    chat.model_ends();
    chat.world.eventually("SELECT count(*) FROM outbox", "1").await;
    let mut tab = chat.tab(&cursor).await;
    let first = tab.next().await.unwrap();
    assert_eq!((&first["type"], &first["key"]), (&json!("message"), &json!("o:1")));
    assert_eq!(tab.next().await.unwrap(), json!({ "type": "ready", "cursor": "1.1" }));
    let mut again = chat.tab(&tab.cursor).await;
    assert_eq!(again.next().await.unwrap(), json!({ "type": "ready", "cursor": "1.1" }));
    let mut anew = chat.tab("").await;
    let mut keys = Vec::new();
    while let Ok(frame) = anew.next().await {
        match frame["type"].as_str() {
            Some("message") => keys.push(frame["key"].as_str().unwrap().to_owned()),
            _ => break,
        }
    }
    assert_eq!(keys, ["i:1", "o:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_twice_is_stored_and_answered_once() {
    let mut chat = Chat::prompted().await;
    let mut tab = chat.tab("").await;
    tab.say("m1", "Hello").await;
    assert_eq!(tab.until("accepted").await["duplicate"], json!(false));
    tab.say("m1", "Hello").await;
    let again = tab.until("accepted").await;
    assert_eq!((&again["duplicate"], &again["key"]), (&json!(true), &json!("i:1")));
    let mut other = chat.tab("").await;
    other.say("m1", "Hello").await;
    assert_eq!(other.until("accepted").await["duplicate"], json!(true));
    chat.model_says("Hi");
    chat.model_ends();
    tab.reply().await;
    chat.world.eventually("SELECT count(*) FROM inbox", "1").await;
    chat.world.eventually("SELECT count(*) FROM outbox", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_keeps_and_charges_what_was_delivered() {
    for over_http in [false, true] {
        let chat = Chat::prompted().await;
        let mut tab = chat.tab("").await;
        tab.say("m1", "Hello").await;
        chat.model_says("one ");
        chat.model_says("two");
        tab.typed("one two").await;
        if over_http {
            let path = format!("/v1/web/{}/stop", chat.tenant.public_key);
            let stopped = chat.world.send("POST", &path, &bearer(&chat.token), "").await;
            assert_eq!(stopped.status, 204);
        } else {
            tab.write(&json!({ "type": "stop" })).await;
        }
        let partial = tab.reply().await;
        assert_eq!(partial["text"], "one two");
        let books = "SELECT delivered_tokens, charge, end_reason FROM usage_events";
        chat.world.eventually(books, "2|2000|cancelled").await;
        chat.world.eventually("SELECT sum(amount) FROM ledger_entries", "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_the_middle_of_an_answer_gets_its_beginning() {
    let mut chat = Chat::prompted().await;
    let mut tab = chat.tab("").await;
    tab.say("m1", "Hello").await;
    chat.model_says("Once upon ");
    tab.typed("Once upon ").await;
    let mut late = chat.tab("").await;
    late.typed("Once upon ").await;
    chat.model_says("a time");
    late.typed("Once upon a time").await;
    tab.typed("Once upon a time").await;
    chat.model_ends();
    assert_eq!(late.reply().await["text"], "Once upon a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_answer_comes_by_the_poll() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let mut plan = Plan { model: Some(script), redis: false, ..Plan::default() };
    plan.server.limits.open_turn_poll = Duration::from_millis(200);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let mut tab = Tab::open(&world, &tenant.public_key, &visitor(), "").await;
    tab.say("m1", "Hello").await;
    assert_eq!(tab.reply().await["text"], "Hi");
    assert_ne!(world.core.bus.dropped(), 0, "the hints were lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_opens_for_its_own_site_only() {
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/web/{}/socket", tenant.public_key);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let evil = format!("{upgrade}origin: https://evil.example\r\n");
    let answer = send(world.addr(), "GET", &path, &evil, "").await;
    assert_eq!(refusal(&answer), (403, "origin_refused".to_owned()));
    let own = format!("{upgrade}origin: http://test\r\n");
    let connection = TcpStream::connect(world.addr()).await.unwrap();
    let mut connection = connection;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{own}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(Stream::answered(connection).await, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_is_told_so() {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    let world = World::start().await;
    let tenant = world.tenant(CREDITS).await;
    let key = &tenant.public_key;

    let mut mistyped = Tab::open(&world, key, "vt_short", "").await;
    assert_eq!(mistyped.until("error").await["code"], "invalid_credentials");
    assert_eq!(mistyped.next().await, Err(Some(CloseCode::Policy)));
    let mut lost = Tab::open(&world, key, &visitor(), "here").await;
    assert_eq!(lost.until("error").await["code"], "invalid_cursor");

    let mut tab = Tab::open(&world, key, &visitor(), "").await;
    tab.until("ready").await;
    tab.write(&json!({ "type": "shout" })).await;
    assert_eq!(tab.until("error").await["code"], "bad_request");
    tab.say("m1", "").await;
    let refused = tab.until("error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("validation_failed"), &json!("m1")));
    tab.write(&json!({ "type": "ping" })).await;
    tab.until("pong").await;
    tab.say("m2", &"x".repeat(200_000)).await;
    assert_eq!(tab.next().await, Err(Some(CloseCode::Size)));
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_writes_too_fast_is_asked_to_wait() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.core.rates.visitor = Rate::per_minute(1, 3);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/web/{}/messages", tenant.public_key);
    let (hasty, calm) = (visitor(), visitor());
    let message = |id: &str| json!({ "id": id, "text": "Hello" });
    for id in ["a", "b", "c"] {
        assert_eq!(world.post(&path, &hasty, &message(id)).await.status, 202);
    }
    let refused = world.post(&path, &hasty, &message("d")).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let mut tab = Tab::open(&world, &tenant.public_key, &hasty, "").await;
    tab.say("e", "Hello").await;
    let refused = tab.until("error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("rate_limited"), &json!("e")));
    assert_eq!(world.post(&path, &calm, &message("a")).await.status, 202);
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_at_the_same_address_is_no_new_burst() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.core.rates.chat_address = Rate::per_minute(1, 3);
    let world = World::with(plan).await;
    let (tenant, other) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let path = |key: &str| format!("/v1/web/{key}/messages");
    let message = json!({ "id": "a", "text": "Hello" });
    for _ in 0..3 {
        let stored = world.post(&path(&tenant.public_key), &visitor(), &message).await;
        assert_eq!(stored.status, 202);
    }
    let refused = world.post(&path(&tenant.public_key), &visitor(), &message).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    let mut tab = Tab::open(&world, &tenant.public_key, &visitor(), "").await;
    tab.say("b", "Hello").await;
    assert_eq!(tab.until("error").await["code"], "rate_limited");
    assert_eq!(world.post(&path(&other.public_key), &visitor(), &message).await.status, 202);
    let elsewhere = format!(
        "authorization: Bearer {}\r\ncontent-type: application/json\r\n\
         x-forwarded-for: 198.51.100.1\r\n",
        visitor(),
    );
    let stored =
        world.send("POST", &path(&tenant.public_key), &elsewhere, &message.to_string()).await;
    assert_eq!(stored.status, 202);
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "5");
}
