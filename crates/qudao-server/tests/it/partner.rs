//! The partner channel protocol against a real database, and a real endpoint where one is needed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use qudao_channels::partner::{Courier, NewKeys, Postman, keep_keys, set_endpoint};
use qudao_core::CoreSettings;
use qudao_domain::{ChannelId, key::SecretHash, state::ChannelKind, text::Name};
use qudao_egress::{Egress, Limits, Rules};
use qudao_pcp::{Event, Report, Role, Secret, Signed, Signer, Verifier};
use qudao_server::{PartnerSettings, ServerSettings};
use qudao_storage::NewChannel;
use qudao_testkit::TestTenant;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    http::Answer,
    model::Script,
    world::{JSON, OPERATOR, Plan, World, bearer, refusal},
};

const CREDITS: i64 = 1_000_000_000;

/// A partner with a channel.
#[derive(Clone)]
pub(crate) struct Partner {
    pub(crate) tenant: TestTenant,
    pub(crate) channel: ChannelId,
    pub(crate) bearer: String,
    pub(crate) secret: Secret,
}

fn courier(total: Duration) -> Courier {
    let limits = Limits { total, ..Limits::default() };
    let sandbox = Egress::new(Rules::default().with_this_machine(), limits).unwrap();
    Courier { public: None, sandbox: Some(sandbox) }
}

pub(crate) async fn world(model: Option<&Arc<Script>>) -> World {
    world_with(model, CoreSettings::default(), Duration::from_secs(10)).await
}

/// Waits so long for the answer of an endpoint.
pub(crate) async fn world_with(
    model: Option<&Arc<Script>>,
    core: CoreSettings,
    total: Duration,
) -> World {
    let bind = "127.0.0.1:0".parse().unwrap();
    let mut server = ServerSettings::new(bind, SecretHash::of(OPERATOR));
    server.partner = PartnerSettings { courier: courier(total), report_keys: Vec::new() };
    let model = model.map(Arc::clone);
    let world = World::with(Plan { server, core, model, ..Plan::default() }).await;
    drop(Postman::default().start(Arc::clone(&world.core), courier(total)));
    world
}

impl World {
    pub(crate) async fn partner(&self) -> Partner {
        let tenant = self.tenant(CREDITS).await;
        let mut tx = self.core.store.begin(tenant.id).await.unwrap();
        let name = Name::parse("Partner").unwrap();
        let new = NewChannel {
            kind: ChannelKind::Partner,
            public_key: None,
            ..NewChannel::web(name, String::new(), tenant.assistant_id, "en".to_owned())
        };
        let channel = tx.create_channel(&new).await.unwrap().id;
        let keys = NewKeys::generate(tenant.id, false);
        keep_keys(&mut tx, &self.core, channel, &keys, Duration::ZERO).await.unwrap();
        tx.commit().await.unwrap();
        Partner { tenant, channel, bearer: keys.bearer, secret: keys.secret }
    }

    async fn pcp(&self, partner: &Partner, method: &str, path: &str, body: &Value) -> Answer {
        let path = format!("/v1/pcp/channels/{}/{path}", partner.channel);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let json = if body.is_empty() { "" } else { JSON };
        self.send(method, &path, &format!("{}{json}", bearer(&partner.bearer)), &body).await
    }

    /// Posts an event with a signature of its secret.
    async fn report(&self, partner: &Partner, query: &str, event: &Event) -> Answer {
        let body = event.to_bytes();
        let headers = signed(partner, event, &body, Timestamp::now());
        let path = format!("/v1/pcp/channels/{}/events{query}", partner.channel);
        self.send("POST", &path, &headers, std::str::from_utf8(&body).unwrap()).await
    }

    async fn log(&self, partner: &Partner) -> Vec<Value> {
        let page = self.pcp(partner, "GET", "events?after=0&limit=200", &Value::Null).await;
        assert_eq!(page.status, 200, "{}", page.body);
        page.body["events"].as_array().unwrap().clone()
    }

    async fn endpoint(&self, partner: &Partner, url: &str) {
        let mut tx = self.core.store.begin(partner.tenant.id).await.unwrap();
        let to = (url, "webhook", None);
        set_endpoint(&mut tx, &self.core, partner.channel, to).await.unwrap();
        tx.commit().await.unwrap();
        self.core.forget_channel(partner.tenant.id, partner.channel).await;
        let verified = self.pcp(partner, "POST", "endpoint:verify", &Value::Null).await;
        assert_eq!(verified.status, 200, "{}", verified.body);
    }
}

fn signed(partner: &Partner, event: &Event, body: &[u8], at: Timestamp) -> String {
    let signer = Signer { secrets: vec![partner.secret.clone()], ..Signer::default() };
    let signature = signer.sign(&event.id, at, body).unwrap();
    let (id, second) = (&event.id, at.as_second());
    format!(
        "{}{JSON}pcp-version: 2026-11-01\r\nwebhook-id: {id}\r\n\
         webhook-timestamp: {second}\r\nwebhook-signature: {signature}\r\n",
        bearer(&partner.bearer)
    )
}

fn message(room: &str, id: &str, text: &str) -> Event {
    let data =
        json!({ "message": { "external_id": id, "parts": [{ "type": "text", "text": text }] } });
    in_room(room, Event::new("message.created", Timestamp::now(), data))
}

fn in_room(room: &str, event: Event) -> Event {
    let conversation =
        Some(qudao_pcp::Conversation { external_id: room.to_owned(), ..Default::default() });
    Event { conversation, ..event }
}

fn text(event: &Value) -> &str {
    event["data"]["message"]["parts"][0]["text"].as_str().unwrap_or_default()
}

/// A request: its header and its body.
type Got = (BTreeMap<String, String>, Vec<u8>);

/// An endpoint that answers as told and keeps what it got.
struct Endpoint {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Endpoint {
    /// `answer` gets the event and how many events came before it.
    async fn listen(answer: impl Fn(&Value, usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/hook", listener.local_addr().unwrap().port());
        let got = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&got), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while let Some((headers, body, taken)) =
                        Box::pin(next_request(&mut stream, &bytes)).await
                    {
                        bytes = taken;
                        let event: Value = serde_json::from_slice(&body).unwrap();
                        let reply = if event["type"] == "endpoint.verify" {
                            let challenge = &event["data"]["challenge"];
                            ok(&json!({ "challenge": challenge }))
                        } else {
                            let before = kept.lock().unwrap().len();
                            kept.lock().unwrap().push((headers, body));
                            answer(&event, before)
                        };
                        if stream.write_all(reply.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, got }
    }

    fn events(&self) -> Vec<Value> {
        let got = self.got.lock().unwrap();
        got.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    async fn wait_for(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        for _ in 0..400 {
            let events = self.events();
            if wanted(&events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the endpoint got only {:?}", self.events());
    }
}

async fn next_request(
    stream: &mut tokio::net::TcpStream,
    rest: &[u8],
) -> Option<(BTreeMap<String, String>, Vec<u8>, Vec<u8>)> {
    let mut bytes = rest.to_vec();
    let mut chunk = [0; 65536];
    loop {
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = whole.split_once("\r\n\r\n") {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let headers: BTreeMap<_, _> =
                lines.map(|(key, value)| (key.to_lowercase(), value.to_owned())).collect();
            let length: usize = headers.get("content-length")?.parse().ok()?;
            let start = head.len() + 4;
            if start + length <= bytes.len() {
                let body = bytes[start..start + length].to_vec();
                return Some((headers, body, bytes[start + length..].to_vec()));
            }
        }
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read != 0)?;
        bytes.extend_from_slice(&chunk[..read]);
    }
}

fn status(code: u16, headers: &str) -> String {
    format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\n{headers}\r\n")
}

fn ok(body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn sent(_: &Value, _: usize) -> String {
    ok(&json!({ "status": "sent" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_taken_once_and_its_answer_lies_in_the_log() {
    let world = world(None).await;
    let partner = world.partner().await;
    let event = message("room-1", "m-1", "Hello, 世界");
    let first = world.report(&partner, "", &event).await;
    assert_eq!(first.status, 202, "{}", first.body);
    assert_eq!(first.body["duplicate"], false);
    assert!(first.header("ratelimit").is_some());
    let again = world.report(&partner, "", &event).await;
    assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)));
    assert_eq!(again.body["message_id"], first.body["message_id"]);
    // Another event with the same message is the same message.
    let other = world.report(&partner, "", &message("room-1", "m-1", "Hello, 世界")).await;
    assert_eq!((other.status, &other.body["message_id"]), (200, &first.body["message_id"]));
    // Another event under the same id is refused.
    let changed = Event { data: message("room-1", "m-2", "Bye").data, ..event.clone() };
    assert_eq!(refusal(&world.report(&partner, "", &changed).await), (409, "id_reused".into()));
    let log = world.log(&partner).await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!((text(&log[0]), &log[0]["seq"]), ("Hello, 世界", &json!(1)));
    assert_eq!(log[0]["data"]["turn"]["in_reply_to"], "m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_keeps_failing_is_paused_probed_and_taken_back() {
    let core = CoreSettings { sends_mail: true, ..CoreSettings::default() };
    let world = world_with(None, core, Duration::from_secs(10)).await;
    let partner = world.partner().await;
    let well = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&well);
    let endpoint = Endpoint::listen(move |event, before| match state.load(Ordering::SeqCst) {
        true => sent(event, before),
        false => status(500, ""),
    });
    let endpoint = endpoint.await;
    world.endpoint(&partner, &endpoint.url).await;
    world.db.psql("UPDATE channels SET settings = settings || '{\"contact_email\": \"ops@partner.example\"}' WHERE kind = 'partner'");
    world.core.forget_channel(partner.tenant.id, partner.channel).await;
    // One more failure is too many.
    world.db.psql("UPDATE partner_channels SET failures = 19, failing_since = now()");
    world.report(&partner, "", &message("room-1", "m-1", "Hello")).await;
    let breaker = "SELECT failures, paused_until > now() FROM partner_channels";
    world.eventually(breaker, "20|t").await;
    let letters = "SELECT count(*) FROM mails WHERE kind = 'notice' AND sealed IS NOT NULL";
    world.eventually(letters, "1").await;
    let fault = "SELECT fault LIKE '%keeps failing%' FROM channels WHERE kind = 'partner'";
    assert_eq!(world.db.psql(fault), "t");

    // Half open: one probe, which fails too, and no second letter.
    world.db.psql("UPDATE partner_channels SET paused_until = now() - interval '1 second'");
    world.eventually(breaker, "21|t").await;
    assert_eq!(endpoint.events().last().unwrap()["type"], "ping");
    assert_eq!(world.db.psql(letters), "1");

    // The next probe is answered well: closed, and what waited goes out in order.
    well.store(true, Ordering::SeqCst);
    let before = endpoint.events().len();
    world.db.psql("UPDATE partner_channels SET paused_until = now() - interval '1 second'");
    world.eventually("SELECT failures, paused_until IS NULL FROM partner_channels", "0|t").await;
    world.db.psql("UPDATE partner_events SET next_at = now() WHERE state = 'ready'");
    let events = endpoint.wait_for(|events| before + 1 < events.len()).await;
    assert_eq!(events[before]["type"], "ping");
    assert_eq!(text(&events[before + 1]), "Hello");
    assert_eq!(world.db.psql("SELECT fault IS NULL FROM channels WHERE kind = 'partner'"), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_by_the_partner_is_refused_and_leaves_nothing() {
    let world = world(None).await;
    let partner = world.partner().await;
    let stranger = Partner { secret: Secret::generate(), ..world.partner().await };
    let path = format!("/v1/pcp/channels/{}/events", partner.channel);
    let event = message("room-1", "m-1", "Hello");
    let body = String::from_utf8(event.to_bytes()).unwrap();
    let now = Timestamp::now();
    let good = signed(&partner, &event, body.as_bytes(), now);
    let seconds = |delta| now.checked_add(jiff::SignedDuration::from_secs(delta)).unwrap();
    let invalid = (401, "signature_invalid".to_owned());
    let cases = [
        (good.clone(), body.replace("Hello", "Hullo"), invalid.clone()),
        (signed(&partner, &event, body.as_bytes(), seconds(-302)), body.clone(), invalid.clone()),
        (signed(&partner, &event, body.as_bytes(), seconds(360)), body.clone(), invalid.clone()),
        (
            good.replace("webhook-signature: v1,", "webhook-signature: v1"),
            body.clone(),
            invalid.clone(),
        ),
        (good.replace("webhook-signature:", "x-nothing:"), body.clone(), invalid.clone()),
        (
            good.replace("2026-11-01", "2020-01-01"),
            body.clone(),
            (400, "unsupported_version".into()),
        ),
        (
            good.replace(&partner.bearer, &stranger.bearer),
            body.clone(),
            (401, "invalid_credentials".into()),
        ),
        (good.replace("pck_test_", "pck_live_"), body.clone(), (401, "invalid_credentials".into())),
    ];
    for (headers, body, wanted) in cases {
        let answer = world.send("POST", &path, &headers, &body).await;
        assert_eq!(refusal(&answer), wanted, "{headers}");
        assert_eq!(answer.body["retryable"], false);
    }
    assert!(world.log(&partner).await.is_empty());
    assert_eq!(world.db.psql("SELECT count(*) FROM channel_events"), "0");
}

/// Each of 50 events five times, shuffled: one reply each, in the order of the first arrivals.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_redeliveries_gives_one_reply_each() {
    let world = world(None).await;
    let partner = world.partner().await;
    let events: Vec<_> = (0..50)
        .map(|n| message(&format!("room-{}", n % 5), &format!("m-{n}"), &format!("n{n}")))
        .collect();
    let mut order: Vec<usize> = (0..250).map(|n| n % 50).collect();
    // A shuffle that is the same each time.
    let mut state = 7_u64;
    for at in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
    }
    let mut new = 0;
    for chunk in order.chunks(5) {
        let reports = chunk.iter().map(|at| async {
            loop {
                let answer = world.report(&partner, "", &events[*at]).await;
                if answer.status != 429 {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        for answer in futures_util::future::join_all(reports).await {
            assert!(matches!(answer.status, 200 | 202), "{}", answer.body);
            new += usize::from(answer.body["duplicate"] == false);
        }
    }
    assert_eq!(new, 50);
    let log = world.log(&partner).await;
    assert_eq!(log.len(), 50);
    for room in 0..5 {
        let here = log.iter().filter(|event| {
            event["conversation"]["external_id"] == format!("room-{room}").as_str()
        });
        let numbers: Vec<_> = here.map(|event| event["seq"].as_i64().unwrap()).collect();
        assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_outside_of_the_sandbox_and_the_storm_is_charged_once() {
    let world = world(Some(&Script::says(&["It is on", " its way."], Duration::ZERO))).await;
    let partner = world.partner().await;
    let sql = format!(
        "UPDATE partner_channels SET sandbox = false WHERE channel_id = '{}'",
        partner.channel.as_uuid()
    );
    world.db.psql(&sql);
    let event = message("room-1", "m-1", "Where is order 17?");
    let answer = world.report(&partner, "?reply=wait&timeout=20", &event).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(text(&answer.body["messages"][0]), "It is on its way.");
    for _ in 0..5 {
        let again = world.report(&partner, "", &event).await;
        assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)));
    }
    assert_eq!(world.log(&partner).await.len(), 1);
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "1");
    let attributed = in_room(
        "room-2",
        Event {
            attribution: Some(qudao_pcp::Attribution {
                reference: Some("spring24".into()),
                ..Default::default()
            }),
            ..message("room-2", "m-2", "Hi")
        },
    );
    assert_eq!(world.report(&partner, "", &attributed).await.status, 202);
    assert_eq!(world.db.psql("SELECT body->>'ref' FROM attributions"), "spring24");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_a_verified_endpoint_signed_and_in_order() {
    let world = world(None).await;
    let partner = world.partner().await;
    let endpoint = Endpoint::listen(|event, before| {
        // The first message fails twice, and holds back its own conversation alone.
        let slow = event["conversation"]["external_id"] == "a" && before < 2;
        if slow { status(500, "") } else { sent(event, before) }
    })
    .await;
    world.report(&partner, "", &message("a", "m-0", "before it was verified")).await;
    world.endpoint(&partner, &endpoint.url).await;
    for n in 1..=5 {
        world.report(&partner, "", &message("a", &format!("a-{n}"), &format!("a{n}"))).await;
        world.report(&partner, "", &message("b", &format!("b-{n}"), &format!("b{n}"))).await;
    }
    let done = |events: &[Value]| {
        let ids: std::collections::HashSet<_> =
            events.iter().map(|event| event["id"].to_string()).collect();
        11 == ids.len()
    };
    let events = endpoint.wait_for(done).await;
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for event in &events {
        let room = event["conversation"]["external_id"].as_str().unwrap().to_owned();
        let seq = event["seq"].as_i64().unwrap();
        let before = last.insert(room, seq).unwrap_or(0);
        assert!(seq == before + 1 || seq == before, "{events:?}");
    }
    let verifier = Verifier { secrets: vec![partner.secret.clone()], ..Verifier::default() };
    for (headers, body) in endpoint.got.lock().unwrap().iter() {
        let signed = Signed {
            id: &headers["webhook-id"],
            timestamp: &headers["webhook-timestamp"],
            signature: &headers["webhook-signature"],
        };
        verifier.verify(signed, body, Timestamp::now()).unwrap();
        assert!(headers["webhook-signature"].contains("v1a,"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_is_set_aside_told_of_and_replayed_under_its_id() {
    let world = world(None).await;
    let partner = world.partner().await;
    let cured = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let well = Arc::clone(&cured);
    let endpoint = Endpoint::listen(move |event, before| {
        let sick = text(event) == "poison" && !well.load(std::sync::atomic::Ordering::SeqCst);
        if sick { status(422, "") } else { sent(event, before) }
    })
    .await;
    world.endpoint(&partner, &endpoint.url).await;
    world.report(&partner, "", &message("a", "m-1", "poison")).await;
    world.report(&partner, "", &message("a", "m-2", "well")).await;
    let events = endpoint
        .wait_for(|events| {
            let has = |kind: &str| events.iter().any(|event| event["type"] == kind);
            has("delivery.gap") && events.iter().any(|event| text(event) == "well")
        })
        .await;
    let gap = events.iter().find(|event| event["type"] == "delivery.gap").unwrap();
    assert_eq!((&gap["data"]["from_seq"], &gap["data"]["reason"]), (&json!(1), &json!("refused")));
    assert_eq!(events.iter().filter(|event| text(event) == "poison").count(), 1);
    let dead = world.pcp(&partner, "GET", "deliveries?status=dead", &Value::Null).await;
    assert_eq!(dead.body["data"][0]["last_status"], 422, "{}", dead.body);
    let id = dead.body["data"][0]["event_id"].clone();
    cured.store(true, std::sync::atomic::Ordering::SeqCst);
    let replayed = world.pcp(&partner, "POST", "deliveries:replay", &json!({ "ids": [id] })).await;
    assert_eq!(replayed.body["replayed"], 1, "{}", replayed.body);
    endpoint
        .wait_for(|events| events.iter().filter(|event| text(event) == "poison").count() == 2)
        .await;
    let got = endpoint.got.lock().unwrap();
    let (headers, body) = got.last().unwrap();
    let again: Value = serde_json::from_slice(body).unwrap();
    assert_eq!((again["id"].clone(), headers["pcp-replay"].as_str()), (id, "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_gets_nothing_until_it_is_verified_again() {
    let world = world(None).await;
    let partner = world.partner().await;
    let endpoint =
        Endpoint::listen(
            |event, before| {
                if before == 0 { status(410, "") } else { sent(event, before) }
            },
        )
        .await;
    world.endpoint(&partner, &endpoint.url).await;
    world.report(&partner, "", &message("a", "m-1", "one")).await;
    world
        .eventually("SELECT count(*) FROM partner_channels WHERE disabled_at IS NOT NULL", "1")
        .await;
    world.report(&partner, "", &message("a", "m-2", "two")).await;
    let ping = world.pcp(&partner, "POST", "ping", &Value::Null).await;
    assert_eq!((&ping.body["endpoint"], &ping.body["sandbox"]), (&json!("disabled"), &json!(true)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(endpoint.events().len(), 1);
    world.endpoint(&partner, &endpoint.url).await;
    let events = endpoint.wait_for(|events| 3 <= events.len()).await;
    assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["one", "one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_acknowledged_and_followed_from_a_cursor() {
    let world = world(None).await;
    let partner = world.partner().await;
    for n in 1..=3 {
        world.report(&partner, "", &message("a", &format!("m-{n}"), &format!("n{n}"))).await;
    }
    let page = world.pcp(&partner, "GET", "events?limit=2", &Value::Null).await;
    assert_eq!(
        (page.body["events"].as_array().unwrap().len(), &page.body["cursor"]),
        (2, &json!("2"))
    );
    let acked = world.pcp(&partner, "POST", "events:ack", &json!({ "cursor": "2" })).await;
    assert_eq!(acked.body["cursor"], "2", "{}", acked.body);
    let rest = world.pcp(&partner, "GET", "events", &Value::Null).await;
    assert_eq!(text(&rest.body["events"][0]), "n3");
    let path = format!("/v1/pcp/channels/{}/stream?after=1", partner.channel);
    let mut stream = world.stream("GET", &path, &partner.bearer, "").await;
    assert!(stream.event().await.unwrap().starts_with("id: 2\nevent: message.created\ndata: "));
    assert!(stream.event().await.unwrap().contains("n3"));
    world.report(&partner, "", &message("a", "m-4", "n4")).await;
    assert!(stream.event().await.unwrap().contains("n4"));
    let of_turn = format!("/v1/pcp/channels/{}/events?reply=sse", partner.channel);
    let event = message("b", "m-5", "!stream 5");
    let body = event.to_bytes();
    let headers = signed(&partner, &event, &body, Timestamp::now());
    let answer = world.send("POST", &of_turn, &headers, std::str::from_utf8(&body).unwrap()).await;
    let all = answer.body.as_str().unwrap().to_owned();
    assert_eq!(all.matches("event: message.delta").count(), 5, "{all}");
    assert!(all.contains("word1 word2 word3 word4 word5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn magic_words_fail_expire_and_split_as_they_say() {
    let world = world(None).await;
    let partner = world.partner().await;
    let event = message("a", "m-1", "!fail 503 x2");
    for _ in 0..2 {
        let answer = world.report(&partner, "", &event).await;
        assert_eq!(
            (refusal(&answer), &answer.body["retryable"]),
            ((503, "unavailable".into()), &json!(true))
        );
    }
    assert_eq!(world.report(&partner, "", &event).await.status, 202);
    let slow = world.report(&partner, "", &message("a", "m-2", "!429 7")).await;
    assert_eq!((slow.status, slow.header("retry-after")), (429, Some("7")));
    let caps = json!({ "text": { "max": 100, "unit": "utf16" }, "buttons": { "level": "native" } });
    let declared = world.pcp(&partner, "PUT", "capabilities", &caps).await;
    assert_eq!((declared.status, &declared.body["text"]["max"]), (200, &json!(100)));
    world.report(&partner, "", &message("b", "m-3", "!big")).await;
    world.report(&partner, "", &message("c", "m-4", "!buttons")).await;
    let log = world.log(&partner).await;
    let here = |room: &str| -> Vec<Value> {
        let fits = |event: &&Value| event["conversation"]["external_id"] == room;
        log.iter().filter(fits).cloned().collect()
    };
    let pieces = here("b");
    assert!(2 < pieces.len(), "{log:?}");
    assert!(pieces.iter().all(|piece| text(piece).encode_utf16().count() <= 100));
    assert_eq!(pieces.last().unwrap()["data"]["turn"]["final"], true);
    assert_eq!(here("c")[0]["data"]["message"]["parts"][0]["type"], "buttons");
    let wrong = json!({ "text": { "max": "many" } });
    assert_eq!(
        refusal(&world.pcp(&partner, "PUT", "capabilities", &wrong).await),
        (422, "validation_failed".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refuses_nobody_and_a_handoff_silences_the_assistant() {
    let world = world(None).await;
    let mut partner = world.partner().await;
    let rotated = world.pcp(&partner, "POST", "keys:rotate", &Value::Null).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    assert_eq!(world.report(&partner, "", &message("a", "m-1", "old")).await.status, 202);
    partner.secret = Secret::parse(rotated.body["secret"].as_str().unwrap()).unwrap();
    assert_eq!(world.report(&partner, "", &message("a", "m-2", "new")).await.status, 202);
    let room = |kind: &str| in_room("a", Event::new(kind, Timestamp::now(), json!({})));
    assert_eq!(world.report(&partner, "", &room("handoff.accepted")).await.status, 202);
    assert_eq!(world.report(&partner, "", &message("a", "m-3", "silence")).await.status, 202);
    assert_eq!(world.report(&partner, "", &room("handoff.returned")).await.status, 202);
    assert_eq!(world.report(&partner, "", &message("a", "m-4", "again")).await.status, 202);
    assert_eq!(world.report(&partner, "", &room("brand.new")).await.status, 202);
    let log = world.log(&partner).await;
    let said: Vec<_> = log.iter().filter(|event| event["seq"].is_i64()).map(text).collect();
    assert_eq!(said, ["old", "new", "again"]);
    assert_eq!(world.db.psql("SELECT count(*) FROM channel_events WHERE kind = 'brand.new'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_makes_keys_and_a_green_report_lifts_the_sandbox() {
    let world = world(None).await;
    let mut partner = world.partner().await;
    let base = format!("/v1/tenants/{}/channels/{}", partner.tenant.id, partner.channel);
    let key = partner.tenant.api_key.reveal();
    let made = world.send("POST", &format!("{base}/partner-keys"), &bearer(&key), "").await;
    assert_eq!(made.status, 201, "{}", made.body);
    partner.bearer = made.body["bearer_key"].as_str().unwrap().to_owned();
    partner.secret = Secret::parse(made.body["signing_secret"].as_str().unwrap()).unwrap();
    assert_eq!(world.report(&partner, "", &message("a", "m-1", "hi")).await.status, 202);
    let own = qudao_pcp::PrivateKey::generate();
    let to = json!({ "transport": "pull", "public_key": own.public().to_string() });
    let set = world
        .send(
            "PUT",
            &format!("{base}/partner-endpoint"),
            &format!("{}{JSON}", bearer(&key)),
            &to.to_string(),
        )
        .await;
    assert_eq!(set.status, 200, "{}", set.body);
    let inside = json!({ "endpoint_url": "http://10.0.0.1/", "transport": "webhook" });
    let refused = world
        .send(
            "PUT",
            &format!("{base}/partner-endpoint"),
            &format!("{}{JSON}", bearer(&key)),
            &inside.to_string(),
        )
        .await;
    assert_eq!(refusal(&refused), (422, "validation_failed".into()));
    let case = |id: String| qudao_pcp::CaseReport {
        id,
        title: String::new(),
        outcome: qudao_pcp::Outcome::Passed,
        detail: String::new(),
        took_ms: 1,
    };
    let ids = (1..=15).map(|n| format!("S{n:02}")).chain((1..=12).map(|n| format!("T{n:02}")));
    let mut report = Report {
        kit: "test".into(),
        pcp_version: qudao_pcp::VERSION.into(),
        role: Role::Adapter,
        channel: partner.channel.to_string(),
        at: Timestamp::now(),
        cases: ids.map(case).collect(),
    };
    let submit = async |report: &Report, key: &qudao_pcp::PrivateKey| {
        let signed = serde_json::to_value(report.sign(key)).unwrap();
        world.pcp(&partner, "POST", "conformance", &signed).await
    };
    let stranger = qudao_pcp::PrivateKey::generate();
    assert_eq!(refusal(&submit(&report, &stranger).await), (422, "report_refused".into()));
    let all = report.cases.split_off(20);
    assert_eq!(refusal(&submit(&report, &own).await), (422, "report_refused".into()));
    report.cases.extend(all);
    let lifted = submit(&report, &own).await;
    assert_eq!((lifted.status, &lifted.body["sandbox"]), (200, &json!(false)), "{}", lifted.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_the_channel_sees_each_answer_grow() {
    let (script, prompter) = Script::prompted();
    let world = world(Some(&script)).await;
    let partner = world.partner().await;
    let sql = format!(
        "UPDATE partner_channels SET sandbox = false WHERE channel_id = '{}'",
        partner.channel.as_uuid()
    );
    world.db.psql(&sql);
    let path = format!("/v1/pcp/channels/{}/stream", partner.channel);
    let mut stream = world.stream("GET", &path, &partner.bearer, "").await;
    let event = message("room-1", "m-1", "Where is order 17?");
    assert_eq!(world.report(&partner, "", &event).await.status, 202);
    // A hint that came before the reader listened is lost: words are said until one is seen.
    let frame = loop {
        prompter.say("word ");
        let waited = tokio::time::timeout(Duration::from_millis(300), stream.event()).await;
        if let Ok(frame) = waited {
            break frame.unwrap();
        }
    };
    assert!(frame.starts_with("event: message.delta\ndata: "), "{frame}");
    let data: Value = serde_json::from_str(frame.split_once("data: ").unwrap().1).unwrap();
    assert_eq!(data["conversation"]["external_id"], "room-1", "{frame}");
    assert!(data["append"].as_str().unwrap().contains("word"), "{frame}");
    drop(prompter);
    let whole = loop {
        let frame = stream.event().await.unwrap();
        if !frame.starts_with("event: message.delta") {
            break frame;
        }
    };
    assert!(whole.starts_with("id: 1\nevent: message.created\ndata: "), "{whole}");
    assert!(whole.contains("word"), "{whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_a_partners_state_verifies_replays_and_revokes() {
    let world = world(None).await;
    let partner = world.partner().await;
    let key = partner.tenant.api_key.reveal();
    let base = format!("/v1/tenants/{}/channels/{}", partner.tenant.id, partner.channel);
    let ask = async |method: &str, path: &str, body: &Value| {
        let json = if body.is_null() { "" } else { JSON };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        world
            .send(method, &format!("{base}{path}"), &format!("{}{json}", bearer(&key)), &text)
            .await
    };
    let state = async || world.get(&base, &key).await.body["partner"].clone();
    let first = state().await;
    assert_eq!(
        (&first["sandbox"], &first["endpoint"], &first["keys"]),
        (&json!(true), &json!("none"), &json!(1))
    );
    let nowhere = ask("POST", "/partner-endpoint/verify", &Value::Null).await;
    assert_eq!(refusal(&nowhere), (409, "endpoint_unverified".into()), "{}", nowhere.body);

    let endpoint = Endpoint::listen(sent).await;
    let to = json!({ "endpoint_url": endpoint.url, "transport": "webhook" });
    assert_eq!(ask("PUT", "/partner-endpoint", &to).await.status, 200);
    assert_eq!(state().await["endpoint"], "unverified");
    let verified = ask("POST", "/partner-endpoint/verify", &Value::Null).await;
    assert_eq!(
        (verified.status, &verified.body["verified"]),
        (200, &json!(true)),
        "{}",
        verified.body
    );
    assert_eq!(state().await["endpoint"], "active");

    world.report(&partner, "", &message("a", "m-1", "one")).await;
    world.eventually("SELECT count(*) FROM partner_events WHERE state = 'done'", "1").await;
    let listed = ask("GET", "/deliveries?status=done", &Value::Null).await.body;
    let id = listed["data"][0]["event_id"].clone();
    assert!(id.is_string(), "{listed}");
    assert_eq!(ask("GET", "/deliveries?status=odd", &Value::Null).await.status, 400);
    let replayed = ask("POST", "/deliveries/replay", &json!({ "ids": [id] })).await;
    assert_eq!(
        (replayed.status, &replayed.body["replayed"]),
        (200, &json!(1)),
        "{}",
        replayed.body
    );
    endpoint.wait_for(|events| 2 <= events.len()).await;

    assert_eq!(ask("DELETE", "/partner-keys", &Value::Null).await.status, 204);
    assert_eq!(state().await["keys"], 0);
    let pinged = world.pcp(&partner, "POST", "ping", &Value::Null).await;
    assert_eq!(refusal(&pinged), (401, "invalid_credentials".into()));
    let web = format!("/v1/tenants/{}/channels/{}", partner.tenant.id, partner.tenant.channel_id);
    for (method, path) in
        [("GET", "deliveries"), ("DELETE", "partner-keys"), ("POST", "partner-endpoint/verify")]
    {
        let answer = world.send(method, &format!("{web}/{path}"), &bearer(&key), "").await;
        assert_eq!(refusal(&answer).0, 409, "{path} {}", answer.body);
    }
    let rival = world.tenant(0).await;
    let stranger = world
        .send("DELETE", &format!("{base}/partner-keys"), &bearer(&rival.api_key.reveal()), "")
        .await;
    assert_eq!(stranger.status, 404);
    let acts = "SELECT string_agg(action, ' ' ORDER BY seq) FROM audit_events WHERE action LIKE 'partner_%'";
    assert_eq!(
        world.db.psql(acts).trim(),
        "partner_endpoint.verify partner_endpoint.set partner_endpoint.verify \
         partner_delivery.replay partner_key.revoke"
    );
}

/// Values that a field is not meant to have.
fn odd(n: usize) -> Value {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let all = [
        Value::Null,
        json!(""),
        json!(-1),
        json!(1e308),
        json!([]),
        json!({}),
        json!("\u{0}"),
        json!("\u{202e}👩‍👩‍👧‍👦".repeat(50)),
        json!("x".repeat(20_000)),
        json!([{ "type": "text" }, 7, null, { "type": "image", "size": "many" }]),
        json!([{ "type": "location", "latitude": "north" }]),
        deep,
    ];
    all[n % all.len()].clone()
}

/// What is done to one of ten thousand events, beside the field that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgery {
    /// It is signed as it should be.
    None,
    /// Some of the body is missing, under a signature of what is left.
    Cut,
    /// A byte was changed after it was signed.
    Flipped,
    /// The same JSON, written in another way.
    Rewritten,
    /// By the secret of another partner.
    Stranger,
    /// Ten minutes ago.
    Old,
    /// In ten minutes.
    Early,
    /// No signature.
    Unsigned,
}

impl Forgery {
    fn of(n: usize) -> Self {
        match n % 16 {
            9 => Self::Cut,
            10 => Self::Flipped,
            11 => Self::Rewritten,
            12 => Self::Stranger,
            13 => Self::Old,
            14 => Self::Early,
            15 => Self::Unsigned,
            _ => Self::None,
        }
    }

    /// The headers and the body as they come in.
    fn forge(
        self,
        n: usize,
        by: &Partner,
        other: &Partner,
        event: &Event,
        body: String,
    ) -> (String, String) {
        let now = Timestamp::now();
        let at = match self {
            Self::Old => now - Duration::from_secs(600),
            Self::Early => now + Duration::from_secs(600),
            _ => now,
        };
        let mut cut = body.len() * (n % 7) / 7;
        while !body.is_char_boundary(cut) {
            cut -= 1;
        }
        let body = if self == Self::Cut { body[..cut].to_owned() } else { body };
        let mut headers = signed(by, event, body.as_bytes(), at);
        if self == Self::Stranger {
            let theirs = Partner { secret: other.secret.clone(), ..by.clone() };
            headers = signed(&theirs, event, body.as_bytes(), at);
        }
        if self == Self::Unsigned {
            headers.truncate(headers.find("webhook-signature").unwrap());
        }
        let sent = match self {
            Self::Flipped => body.replacen("\"spec\"", "\"spek\"", 1),
            Self::Rewritten => format!(" {body}"),
            _ => body,
        };
        (headers, sent)
    }

    fn is_refused(self) -> bool {
        !matches!(self, Self::None | Self::Cut)
    }
}

/// One of ten thousand: an event with one field of another kind or value.
fn hostile(n: usize) -> (Event, String) {
    const KINDS: [&str; 5] =
        ["message.created", "button.pressed", "message.read", "brand.new", "handoff.accepted"];
    const POINTERS: [&str; 15] = [
        "/data",
        "/data/message",
        "/data/message/parts",
        "/data/message/external_id",
        "/data/message/reply_to",
        "/conversation",
        "/conversation/external_id",
        "/sender",
        "/attribution",
        "/time",
        "/spec",
        "/type",
        "/seq",
        "/channel_data",
        "/expires_at",
    ];
    let mut event = message(&format!("room-{n}"), &format!("m-{n}"), "Hello");
    event.kind = KINDS[n % KINDS.len()].to_owned();
    event.channel_data = Some(json!(1));
    event.seq = Some(1);
    event.attribution = Some(qudao_pcp::Attribution::default());
    event.expires_at = Some(Timestamp::now());
    let mut hostile = serde_json::to_value(&event).unwrap();
    let pointer = POINTERS[(n / 12) % POINTERS.len()];
    match hostile.pointer_mut(pointer) {
        Some(field) => *field = odd(n),
        None => hostile[pointer.rsplit('/').next().unwrap()] = odd(n),
    }
    (event, hostile.to_string())
}

/// Ten thousand: signed as they should be and wrong in every other way, or well and forged. Never a
/// 5xx, nothing taken that was forged, and nothing of the others dropped silently.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_events_of_a_partner_are_refused_or_kept_and_never_fail() {
    const EVENTS: usize = 10_000;
    const PARTNERS: usize = 16;
    let world = Arc::new(world(None).await);
    let mut partners = Vec::new();
    for _ in 0..PARTNERS {
        partners.push(world.partner().await);
    }
    let partners = Arc::new(partners);
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..PARTNERS {
        let (world, partners) = (Arc::clone(&world), Arc::clone(&partners));
        tasks.spawn(async move {
            let (partner, other) = (&partners[first], &partners[(first + 1) % PARTNERS]);
            let path = format!("/v1/pcp/channels/{}/events", partner.channel);
            let (mut taken, mut forged) = (0, 0);
            for n in (first..EVENTS).step_by(PARTNERS) {
                // Not the number itself: each partner would meet one forgery only.
                let forgery = Forgery::of(n / PARTNERS);
                let (event, body) = hostile(n);
                let answer = loop {
                    let (headers, body) = forgery.forge(n, partner, other, &event, body.clone());
                    let answer = world.send("POST", &path, &headers, &body).await;
                    if answer.status != 429 {
                        break answer;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                };
                assert!(answer.status < 500, "{}: {} {body}", answer.status, answer.body);
                if forgery.is_refused() {
                    assert!(
                        (400..500).contains(&answer.status),
                        "{forgery:?}: {} {body}",
                        answer.body
                    );
                    forged += 1;
                }
                taken += usize::from(answer.status == 202);
            }
            (taken, forged)
        });
    }
    let (mut taken, mut forged) = (0, 0);
    while let Some(of_one) = tasks.join_next().await {
        let of_one = of_one.unwrap();
        (taken, forged) = (taken + of_one.0, forged + of_one.1);
    }
    let kept: usize = world
        .db
        .psql("SELECT count(*) FROM channel_events WHERE body ? 'answer' AND kind <> 'message'")
        .parse()
        .unwrap();
    assert_eq!(kept, taken);
    assert!(1_000 < taken, "{taken}");
    assert!(3_000 < forged, "{forged}");
}
