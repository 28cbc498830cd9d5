//! Four nodes over one Postgres and one Redis that belong to none of them: two for clients, two
//! for work. Each is stopped and started in its turn while people talk.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use qudao_testkit::{TestDb, TestRedis};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    person::{Doors, Person},
    platform::{Platform, SLOW, Wanted, descendants},
    visitor::Visitor,
};

/// Postgres and Redis that outlive every node.
struct Services {
    db: TestDb,
    redis: TestRedis,
}

impl Services {
    async fn start() -> Self {
        Self { db: TestDb::empty().await, redis: TestRedis::new().await }
    }

    async fn node(&self, role: &'static str, settings: &str) -> Platform {
        self.node_with(role, format!("{settings}\n{SLOW}")).await
    }

    /// A node whose model called `slow` is a part of its settings.
    async fn node_with(&self, role: &'static str, settings: String) -> Platform {
        let environment = vec![
            ("DATABASE_URL", self.db.url().to_owned()),
            ("REDIS_URL", self.redis.url().to_owned()),
            ("QUDAO__DEMO__MODEL", "slow".to_owned()),
            ("QUDAO__DATABASE__MAX_CONNECTIONS", "8".to_owned()),
        ];
        let words = vec!["--role", role];
        Platform::start_with(Wanted { settings, environment, words, ..Wanted::default() }).await
    }

    fn assert_books_balance(&self, node: &Platform) {
        node.assert_books_balance();
        let open = "SELECT count(*) FROM inbox WHERE state <> 'answered'";
        assert_eq!(self.db.psql(open), "0");
    }
}

/// Asks a node without a key.
async fn ask(base: &str, path: &str) -> (StatusCode, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("{base}{path}")).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_worker_answers_those_who_watch_it_and_nobody_else() {
    let services = Services::start().await;
    let api = services.node("api", "").await;
    let worker = services.node("worker", "").await;
    let base = worker.told("base_url");
    assert_eq!(ask(&base, "/livez").await.0, StatusCode::OK);
    let (status, metrics) = ask(&base, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(metrics.contains("qudao_"), "{metrics}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while ask(&base, "/readyz").await.0 != StatusCode::OK {
        assert!(Instant::now() < deadline, "{:?}", ask(&base, "/readyz").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for path in ["/v1/models", "/v1/tenants", "/docs", "/"] {
        assert_eq!(ask(&base, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(&api.told("base_url"), "/v1/models").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_node_for_clients_runs_no_turns() {
    let services = Services::start().await;
    let api = services.node("api", "").await;
    let mut visitor = Visitor::arrive(&api).await;
    visitor.say("m1", "who works").await;
    visitor.read_until("accepted").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(services.db.psql("SELECT sum(attempts) FROM conversations"), "0");
    let _worker = services.node("worker", "").await;
    assert_eq!(visitor.reply().await["text"], "who works");
    services.assert_books_balance(&api);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_one_after_another_and_no_message_is_lost() {
    let services = Services::start().await;
    let mut nodes = Vec::new();
    for role in ["api", "api", "worker", "worker"] {
        nodes.push(services.node(role, "").await);
    }
    let doors: Doors = Arc::default();
    doors.lock().unwrap().extend([nodes[0].told("base_url"), nodes[1].told("base_url")]);
    let enough = Arc::new(Mutex::new(false));
    let mut people = JoinSet::new();
    for number in 0..4 {
        let mut person = Person::arrive(&nodes[number % 2], &doors).await;
        let enough = Arc::clone(&enough);
        people.spawn(async move {
            let (mut asked, mut heard) = (Vec::new(), Vec::new());
            while !*enough.lock().unwrap() {
                let text = format!("{number} says {} one two three four five six", asked.len());
                heard.extend(person.talk(&format!("m{}", asked.len()), &text).await);
                asked.push(text);
            }
            assert_eq!(heard, asked);
            assert!(0 < person.previews);
            asked.len()
        });
    }
    for (index, node) in nodes.iter_mut().enumerate() {
        let status = node.stop().await;
        assert!(status.success(), "{status}\n{}", node.log());
        node.restart().await;
        if index < 2 {
            doors.lock().unwrap()[index] = node.told("base_url");
        }
    }
    *enough.lock().unwrap() = true;
    let talks: usize = people.join_all().await.into_iter().sum();
    assert!(8 < talks, "{talks}");
    // Each turn was finished by the worker that began it.
    assert_eq!(services.db.psql("SELECT count(*) FROM model_attempts"), talks.to_string());
    services.assert_books_balance(&nodes[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_outlasts_the_drain_goes_to_another_worker_at_once() {
    let services = Services::start().await;
    let api = services.node("api", "").await;
    // The turn is still under way when the other node has started.
    let slower = SLOW.replace("delay_ms = 100", "delay_ms = 1000");
    let impatient = format!("[server]\ndrain_timeout_s = 1\n{slower}");
    let mut first = services.node_with("worker", impatient).await;
    let mut visitor = Visitor::arrive(&api).await;
    let text = (0..40).map(|number| format!("word{number}")).collect::<Vec<_>>().join(" ");
    visitor.say("m1", &text).await;
    visitor.read_until("delta").await;
    let _second = services.node("worker", "").await;
    let status = first.stop().await;
    assert!(status.success(), "{status}\n{}", first.log());
    // The lease would have run on for half a minute.
    let stopped = Instant::now();
    let owner = "SELECT epoch, attempts, lease_until IS NOT NULL FROM conversations";
    // At work on it, or done already.
    while !["2|1|t", "2|0|f"].contains(&services.db.psql(owner).as_str()) {
        assert!(stopped.elapsed() < Duration::from_secs(15), "{}", services.db.psql(owner));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(visitor.reply().await["text"], text.as_str());
    assert_eq!(api.charged_turns().await.len(), 1);
    services.assert_books_balance(&api);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_api_is_finished_before_its_node_ends() {
    let services = Services::start().await;
    let mut api = services.node("api", "").await;
    assert!(!descendants(api.pid(), "qudao-plugin-host").is_empty());
    let text = "one two three four five six seven eight nine ten eleven twelve";
    let mut stream = api.stream_completion("slow", text).await.bytes_stream();
    let mut body = stream.next().await.unwrap().unwrap().to_vec();
    let reader = async {
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.unwrap());
        }
        String::from_utf8(body).unwrap()
    };
    let (status, body) = tokio::join!(api.stop(), reader);
    assert!(status.success(), "{status}\n{}", api.log());
    assert!(body.trim_end().ends_with("data: [DONE]"), "{body}");
    let events = body.lines().filter_map(|line| line.strip_prefix("data: {"));
    let said: String = events
        .map(|event| serde_json::from_str::<Value>(&format!("{{{event}")).unwrap())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(said, text);
    api.restart().await;
    services.assert_books_balance(&api);
}
