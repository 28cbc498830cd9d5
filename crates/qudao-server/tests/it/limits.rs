//! What is refused when somebody goes too fast or too much is under way, and what it costs others.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use qudao_storage::Rate;
use qudao_testkit::TestTenant;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    http::{self, Answer, Stream},
    model::Script,
    socket::Tab,
    world::{JSON, OPERATOR, Plan, World, bearer, completion, refusal, visitor},
};

const CREDITS: i64 = 100_000_000;

fn message(id: &str) -> Value {
    json!({ "id": id, "text": "Hello" })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_tells_how_fast_it_may_be_used_and_keeps_to_it() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.core.rates.admin = Rate::per_minute(1, 3);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    for left in ["2", "1", "0"] {
        let listed = world.get("/v1/tenants", OPERATOR).await;
        assert_eq!(listed.status, 200);
        assert_eq!(listed.header("ratelimit-policy"), Some(r#""admin";q=3;w=180"#));
        let state = listed.header("ratelimit").unwrap();
        assert!(state.starts_with(&format!(r#""admin";r={left};t="#)), "{state}");
    }
    let refused = world.get("/v1/tenants", OPERATOR).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.body["retry_after"], json!(wait));
    assert!(refused.header("ratelimit").unwrap().starts_with(r#""admin";r=0"#));
    // A tenant's key has an allowance of its own.
    let path = format!("/v1/tenants/{}/routes", tenant.id);
    assert_eq!(world.get(&path, &tenant.api_key.reveal()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assistant_and_a_tenant_have_limits_that_all_their_visitors_share() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.core.rates.visitor = Rate::per_minute(60, 30);
    plan.core.rates.assistant = Rate::per_minute(1, 4);
    plan.core.rates.tenant_messages = Rate::per_minute(1, 3);
    let world = World::with(plan).await;
    let (tenant, other) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let path = |key: &str| format!("/v1/web/{key}/messages");
    for n in 0..3 {
        let stored = world.post(&path(&tenant.public_key), &visitor(), &message("a")).await;
        assert_eq!(stored.status, 202);
        let state = stored.header("ratelimit").unwrap();
        for left in ["\"visitor\";r=29".to_owned(), format!("\"tenant_messages\";r={}", 2 - n)] {
            assert!(state.contains(&left), "{state}");
        }
    }
    let refused = world.post(&path(&tenant.public_key), &visitor(), &message("a")).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    let mut tab = Tab::open(&world, &tenant.public_key, &visitor(), "").await;
    tab.say("b", "Hello").await;
    let error = tab.until("error").await;
    assert_eq!((&error["code"], &error["id"]), (&json!("rate_limited"), &json!("b")));
    let wait = error["retry_after"].as_u64().unwrap();
    assert!((1..=60).contains(&wait), "{error}");
    let stored = world.post(&path(&other.public_key), &visitor(), &message("a")).await;
    assert_eq!(stored.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_keep_one_limit_for_a_key() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let mut plan = Plan { model: Some(script.clone()), ..Plan::default() };
    // So slow that nothing flows back while the test runs.
    plan.core.rates.key = Rate::per_minute(1, 3);
    plan.core.rates.tenant = Rate::per_second(1, 100);
    let rates = plan.core.rates.clone();
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let (second, _core) = world.same_redis_node(&script, rates).await;
    let mut served = 0;
    for n in 0..8 {
        let addr = if n % 2 == 0 { world.addr() } else { second.addrs()[0] };
        let headers = format!("{}{JSON}", bearer(&tenant.api_key.reveal()));
        let body = completion(&json!({})).to_string();
        let answer = http::send(addr, "POST", "/v1/chat/completions", &headers, &body).await;
        served += u32::from(answer.status == 200);
    }
    assert_eq!(served, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_key_is_limited_all_the_same() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let mut plan = Plan { model: Some(script.clone()), redis: false, ..Plan::default() };
    plan.core.rates.key = Rate::per_minute(1, 4);
    plan.core.rates.limiter.nodes = 2;
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(world.complete(&tenant, &json!({})).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
}

/// A completion, asked for again while the tokens of the call before have not returned.
async fn complete_in_time(world: &World, tenant: &TestTenant, more: &Value) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = world.complete(tenant, more).await;
        // Nothing is taken by a refusal, and without what returns the patience would not do.
        if answer.status != 429 || http::PATIENCE < begun.elapsed() {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_before_a_call_and_what_it_did_not_use_returns() {
    let script = Script::says(&["Hi"], Duration::ZERO);
    let mut plan = Plan { model: Some(script.clone()), ..Plan::default() };
    plan.core.rates.key_tokens = Rate::per_minute(1000, 1000);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    // Some 60 tokens for the message and 700 for the answer: two at once are too many.
    let big = json!({ "max_tokens": 700 });
    for _ in 0..3 {
        let answer = complete_in_time(&world, &tenant, &big).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("1000"));
        let left = answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u32>().unwrap();
        assert!((100..300).contains(&left), "{left}");
    }
    let huge = world.complete(&tenant, &json!({ "max_tokens": 5000 })).await;
    // The model's own bound makes it small enough.
    assert_eq!(huge.status, 400, "{}", huge.body);
    assert_eq!(huge.body["error"]["param"], "max_tokens");
    assert_eq!(huge.header("retry-after"), None);
    assert_eq!(script.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_gives_all_its_tokens_back() {
    let mut plan = Plan::default();
    plan.core.rates.tenant_tokens = Rate::per_minute(1000, 1000);
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    for _ in 0..4 {
        let answer = complete_in_time(&world, &tenant, &json!({ "max_tokens": 700 })).await;
        assert_eq!(refusal(&answer), (503, "model_not_ready".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_those_that_may_be_open_are_shed() {
    let (script, prompter) = Script::prompted();
    let mut plan = Plan { model: Some(script), ..Plan::default() };
    plan.core.api.in_flight = 3;
    plan.core.api.tenant_in_flight = 2;
    let world = World::with(plan).await;
    let (noisy, other) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let body = completion(&json!({ "stream": true })).to_string();
    let (tasks, mut open) = (TaskTracker::new(), Vec::new());
    for tenant in [&noisy, &noisy, &other] {
        let key = tenant.api_key.reveal();
        let connection = TcpStream::connect(world.addr()).await.unwrap();
        let headers = format!("{}{JSON}", bearer(&key));
        let body = body.clone();
        open.push(tasks.spawn(async move {
            Stream::open(connection, "POST", "/v1/chat/completions", &headers, &body).await
        }));
        let count = open.len();
        while world.core.calls_in_flight() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let refused = world.complete(&noisy, &json!({})).await;
    assert_eq!(refusal(&refused), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let refused = world.complete(&other, &json!({})).await;
    assert_eq!(refusal(&refused), (503, "overloaded".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What ends makes room.
    drop(prompter);
    for call in open {
        drop(call.await.unwrap());
    }
    let begun = Instant::now();
    while world.core.calls_in_flight() != 0 {
        assert!(begun.elapsed() < http::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_messages_are_not_answered_takes_no_more_and_others_do() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.core.backlog.tenant = 3;
    plan.core.backlog.platform = 5;
    plan.core.backlog.count_every = Duration::from_millis(50);
    let world = World::with(plan).await;
    let (noisy, other) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let path = |key: &str| format!("/v1/web/{key}/messages");
    let (we, they) = (visitor(), visitor());
    // What comes during a count may be known after the next one only. So each message is repeated,
    // which adds none, until it is answered as it should be.
    let write = async |tenant: &TestTenant, token: &str, id: &str, wanted: u16| {
        let begun = Instant::now();
        loop {
            let answer = world.post(&path(&tenant.public_key), token, &message(id)).await;
            if answer.status == wanted {
                return (answer.header("retry-after").map(str::to_owned), refusal(&answer).1);
            }
            assert!(begun.elapsed() < http::PATIENCE, "{id}: {}", answer.head);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for id in ["a", "b", "c"] {
        write(&noisy, &we, id, 202).await;
    }
    let slow = (Some("5".to_owned()), "rate_limited".to_owned());
    assert_eq!(write(&noisy, &we, "a", 429).await, slow);
    for id in ["a", "b"] {
        write(&other, &they, id, 202).await;
    }
    let full = (Some("5".to_owned()), "overloaded".to_owned());
    assert_eq!(write(&other, &they, "a", 503).await, full);
    let mut tab = Tab::open(&world, &other.public_key, &they, "").await;
    let error = loop {
        tab.say("a", "Hello").await;
        let frame = tab.receipt().await;
        if frame["type"] == "error" {
            break frame;
        }
    };
    assert_eq!((&error["code"], &error["retry_after"]), (&json!("overloaded"), &json!(5)));
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "5");

    // They are answered, and after the next count there is room.
    world.db.psql("UPDATE conversations SET ready_at = NULL, done_seq = last_seq");
    write(&noisy, &we, "e", 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bodies_is_shed_before_they_fill_the_memory() {
    const HALF: usize = 100_000;
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.server.limits.bodies_bytes = 4 * HALF;
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\n{}{JSON}content-length: {}\r\n\r\n",
        bearer(&tenant.api_key.reveal()),
        2 * HALF,
    );
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = TcpStream::connect(world.addr()).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        let _ = connection.write_all(&vec![b' '; HALF]).await;
        connections.push(connection);
    }
    let mut answers: FuturesUnordered<_> = connections.into_iter().map(Stream::answered).collect();
    for refused in 0..16 {
        let status = timeout(http::PATIENCE, answers.next()).await;
        assert_eq!(status, Ok(Some(503)), "after {refused}");
    }
    // Who is let in waits for the other half and gets nothing yet.
    while let Ok(status) = timeout(Duration::from_millis(300), answers.next()).await {
        assert_eq!(status, Some(503), "nobody was let in");
    }
    drop(answers);
    // The flood is over: there is room again.
    let begun = Instant::now();
    while world.complete(&tenant, &json!({})).await.body["error"]["code"] == "overloaded" {
        assert!(begun.elapsed() < http::PATIENCE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_beyond_those_that_may_be_open_are_refused_with_a_time_to_come_back() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.server.limits.chats_per_visitor = 2;
    plan.server.limits.chats_per_tenant = 3;
    let world = World::with(plan).await;
    let (tenant, other) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let events = format!("/v1/web/{}/events", tenant.public_key);
    let greedy = visitor();
    let mut first = Tab::open(&world, &tenant.public_key, &greedy, "").await;
    first.until("ready").await;
    let second = world.stream("GET", &events, &greedy, "").await;
    assert_eq!(second.status, 200);
    let refused = world.get(&events, &greedy).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("10"));
    let mut third = Tab::open(&world, &tenant.public_key, &greedy, "").await;
    let error = third.until("error").await;
    assert_eq!((&error["code"], &error["retry_after"]), (&json!("rate_limited"), &json!(10)));
    assert!(third.next().await.is_err());

    let mut guest = Tab::open(&world, &tenant.public_key, &visitor(), "").await;
    guest.until("ready").await;
    let refused = world.get(&events, &visitor()).await;
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    let elsewhere = format!("/v1/web/{}/events", other.public_key);
    assert_eq!(world.stream("GET", &elsewhere, &visitor(), "").await.status, 200);
    // A tab that is closed makes room.
    drop(first);
    let begun = Instant::now();
    while world.stream("GET", &events, &greedy, "").await.status != 200 {
        assert!(begun.elapsed() < http::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_the_bound_are_refused() {
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.server.limits.headers = 20;
    plan.server.limits.header_bytes = 4096;
    let world = World::with(plan).await;
    let many: String = (0..20).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(4096));
    for headers in [many, long] {
        let refused = world.send("GET", "/livez", &headers, "").await;
        assert_eq!(refusal(&refused), (431, "headers_too_large".to_owned()));
        assert_eq!(refused.header("connection"), Some("close"));
    }
    assert_eq!(world.send("GET", "/livez", "", "").await.status, 200);
}

/// Only where this machine has an address of its own: connections from itself have no bound.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only picks the address from which one would reach the outside.
    let own = probe.connect("198.51.100.1:9").and_then(|()| probe.local_addr());
    let Some(own) = own.ok().filter(|own| !own.ip().is_loopback()) else { return };
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.server.bind = vec!["0.0.0.0:0".parse().unwrap()];
    plan.server.limits.connections_per_address = 2;
    let world = World::with(plan).await;
    let addr = (own.ip(), world.addr().port()).into();
    let idle = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    // An idle connection is known once the server has taken it.
    let begun = Instant::now();
    let refused = loop {
        assert!(begun.elapsed() < http::PATIENCE);
        let answer = http::send(addr, "GET", "/livez", "", "").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(refusal(&refused), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(idle);
    let begun = Instant::now();
    while http::send(addr, "GET", "/livez", "", "").await.status != 200 {
        assert!(begun.elapsed() < http::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_hang_while_all_connections_of_the_database_are_taken() {
    let plan = Plan { worker: false, ..Plan::default() };
    let world = World::with(plan).await;
    let tenant = world.tenant(CREDITS).await;
    let path = format!("/v1/web/{}/messages", tenant.public_key);
    assert_eq!(world.post(&path, &visitor(), &message("a")).await.status, 202);
    let (mut taken, mut in_vain) = (Vec::new(), 0);
    // One that is not to be had may be on its way.
    while in_vain < 2 {
        match world.core.store.begin(tenant.id).await {
            Ok(tx) => {
                taken.push(tx);
                in_vain = 0;
            }
            Err(_) => in_vain += 1,
        }
    }
    assert!(!taken.is_empty());
    let refused = world.post(&path, &visitor(), &message("b")).await;
    assert_eq!(refusal(&refused), (503, "unavailable".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("2"));
    drop(taken);
    assert_eq!(world.post(&path, &visitor(), &message("b")).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_floods_a_model_leaves_places_for_another() {
    // As many as the model has for all.
    const PLACES: usize = 64;
    let (script, prompter) = Script::prompted();
    let world = World::with(Plan { model: Some(script.clone()), ..Plan::default() }).await;
    let (noisy, quiet) = (world.tenant(CREDITS).await, world.tenant(CREDITS).await);
    let body = completion(&json!({ "stream": true })).to_string();
    let tasks = TaskTracker::new();
    let addr = world.addr();
    let call = |key: String| {
        let headers = format!("{}{JSON}", bearer(&key));
        let body = body.clone();
        tasks.spawn(async move {
            let connection = TcpStream::connect(addr).await.unwrap();
            let path = "/v1/chat/completions";
            Stream::open(connection, "POST", path, &headers, &body).await.status
        })
    };
    let first = call(quiet.api_key.reveal());
    while script.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut flood = Vec::new();
    for _ in 0..PLACES + 20 {
        flood.push(call(noisy.api_key.reveal()));
    }
    let refused = |flood: &[tokio::task::JoinHandle<u16>]| {
        flood.iter().filter(|call| call.is_finished()).count()
    };
    let begun = Instant::now();
    while refused(&flood) < 20 + PLACES / 8 {
        assert!(begun.elapsed() < http::PATIENCE, "{} were refused", refused(&flood));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let late = call(quiet.api_key.reveal());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!late.is_finished(), "the model does not speak yet");
    drop(prompter);
    assert_eq!((first.await.unwrap(), late.await.unwrap()), (200, 200));
    let mut served = 0;
    for call in flood {
        match call.await.unwrap() {
            200 => served += 1,
            status => assert_eq!(status, 503),
        }
    }
    assert_eq!(served, PLACES - PLACES / 8);
}
