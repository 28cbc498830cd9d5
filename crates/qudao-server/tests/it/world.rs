//! A node without its process: server, worker, core, database and Redis.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qudao_billing::Rates;
use qudao_core::{Core, CoreParts, CoreSettings, settings::RateSettings};
use qudao_domain::{Micros, NodeId, SystemClock, key::SecretHash};
use qudao_plugin_host::{HostSettings, PluginHost};
use qudao_server::{MetricsRender, ServerHandle, ServerSettings};
use qudao_storage::Bus;
use qudao_testkit::{TestDb, TestRedis, TestTenant};
use qudao_worker::{Worker, WorkerSettings};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::{
    http::{self, Answer, Stream},
    model::{self, Script},
};

pub(crate) const OPERATOR: &str = "qo_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const JSON: &str = "content-type: application/json\r\n";
/// So long that a busy machine's Redis is not taken for one that is away: a node would count alone.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);

/// A thousandth of a unit per token written; reading is free.
const PER_TOKEN: Rates = Rates {
    input_per_mtok: Micros::ZERO,
    output_per_mtok: Micros::new(1_000_000_000),
    per_call: Micros::ZERO,
};

/// A thousandth of a unit per token, read or written.
pub(crate) fn per_token_each_way() -> Rates {
    Rates { input_per_mtok: PER_TOKEN.output_per_mtok, ..PER_TOKEN }
}

/// What a world is made of; the defaults suit most tests.
pub(crate) struct Plan {
    pub(crate) model: Option<Arc<Script>>,
    pub(crate) core: CoreSettings,
    pub(crate) server: ServerSettings,
    /// Whether messages are answered.
    pub(crate) worker: bool,
    /// Whether hints travel.
    pub(crate) redis: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let bind = "127.0.0.1:0".parse().unwrap();
        Self {
            model: None,
            core: CoreSettings::default(),
            server: ServerSettings::new(bind, SecretHash::of(OPERATOR)),
            worker: true,
            redis: true,
        }
    }
}

pub(crate) struct World {
    pub(crate) server: ServerHandle,
    pub(crate) core: Arc<Core>,
    pub(crate) db: TestDb,
    redis: Option<TestRedis>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Plan { worker: false, ..Plan::default() }).await
    }

    pub(crate) async fn with_model(model: &Arc<Script>) -> Self {
        Self::with(Plan { model: Some(Arc::clone(model)), ..Plan::default() }).await
    }

    pub(crate) async fn with(mut plan: Plan) -> Self {
        let db = TestDb::new().await;
        let redis = if plan.redis { Some(TestRedis::new().await) } else { None };
        if plan.redis {
            plan.core.rates.limiter.patience = REDIS_PATIENCE;
        }
        // Nobody listens at port 1.
        let bus = redis.as_ref().map_or("redis://127.0.0.1:1", TestRedis::url);
        let plugins = PluginHost::start(HostSettings::default()).await;
        if let Some(script) = plan.model {
            model::register(&plugins, script).await;
        }
        let parts = CoreParts {
            vault: qudao_core::Vault::unlock(db.store(), qudao_testkit::master_keys())
                .await
                .unwrap(),
            store: db.store(),
            bus: Bus::connect(bus).unwrap(),
            plugins,
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node: NodeId::new(),
        };
        let core = Core::new(parts, plan.core);
        if plan.worker {
            let channels = qudao_channels::all(&core);
            drop(Worker::start(Arc::clone(&core), channels, WorkerSettings::default()));
        }
        let metrics: MetricsRender = Arc::new(String::new);
        let server = qudao_server::run(plan.server, Arc::clone(&core), metrics).await.unwrap();
        Self { server, core, db, redis }
    }

    /// Another node over the same database, with a model of its own.
    pub(crate) async fn another_node(&self, model: &Arc<Script>) -> (ServerHandle, Arc<Core>) {
        let plugins = PluginHost::start(HostSettings::default()).await;
        model::register(&plugins, Arc::clone(model)).await;
        let parts = CoreParts {
            vault: qudao_core::Vault::unlock(self.db.store(), qudao_testkit::master_keys())
                .await
                .unwrap(),
            store: self.db.store(),
            bus: Bus::connect("redis://127.0.0.1:1").unwrap(),
            plugins,
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node: NodeId::new(),
        };
        let core = Core::new(parts, CoreSettings::default());
        let settings =
            ServerSettings::new("127.0.0.1:0".parse().unwrap(), SecretHash::of(OPERATOR));
        let metrics: MetricsRender = Arc::new(String::new);
        (qudao_server::run(settings, Arc::clone(&core), metrics).await.unwrap(), core)
    }

    /// Another node over the same database and Redis, with the same limits.
    pub(crate) async fn same_redis_node(
        &self,
        model: &Arc<Script>,
        mut rates: RateSettings,
    ) -> (ServerHandle, Arc<Core>) {
        let plugins = PluginHost::start(HostSettings::default()).await;
        model::register(&plugins, Arc::clone(model)).await;
        let parts = CoreParts {
            vault: qudao_core::Vault::unlock(self.db.store(), qudao_testkit::master_keys())
                .await
                .unwrap(),
            store: self.db.store(),
            bus: Bus::connect(self.redis.as_ref().unwrap().url()).unwrap(),
            plugins,
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node: NodeId::new(),
        };
        rates.limiter.patience = REDIS_PATIENCE;
        let core = Core::new(parts, CoreSettings { rates, ..CoreSettings::default() });
        let bind = "127.0.0.1:0".parse().unwrap();
        let settings = ServerSettings::new(bind, SecretHash::of(OPERATOR));
        let metrics: MetricsRender = Arc::new(String::new);
        (qudao_server::run(settings, Arc::clone(&core), metrics).await.unwrap(), core)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addrs()[0]
    }

    pub(crate) async fn tenant(&self, credits: i64) -> TestTenant {
        let builder = TestTenant::builder().credits(Micros::new(credits)).models(&["fake"]);
        builder.rates(PER_TOKEN).create(&self.db.store()).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        http::send(self.addr(), method, path, headers, body).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.send("POST", path, &format!("{}{JSON}", bearer(key)), &body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.send("GET", path, &bearer(key), "").await
    }

    /// A request whose answer is read while it comes.
    pub(crate) async fn stream(&self, method: &str, path: &str, key: &str, body: &str) -> Stream {
        let connection = TcpStream::connect(self.addr()).await.unwrap();
        Stream::open(connection, method, path, &format!("{}{JSON}", bearer(key)), body).await
    }

    /// A chat completion for the tenant.
    pub(crate) async fn complete(&self, tenant: &TestTenant, more: &Value) -> Answer {
        let key = tenant.api_key.reveal();
        self.post("/v1/chat/completions", &key, &completion(more)).await
    }

    /// The rows of a query once they are what a test waits for.
    pub(crate) async fn eventually(&self, sql: &str, wanted: &str) {
        let begun = std::time::Instant::now();
        loop {
            let found = self.db.psql(sql);
            if found == wanted {
                return;
            }
            assert!(begun.elapsed() < http::PATIENCE, "{sql}: {found}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

/// A request for a completion, with more members.
pub(crate) fn completion(more: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let mut body = json!({ "model": "fake", "messages": messages, "max_tokens": 50 });
    let members = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

/// A token as a browser makes it up.
pub(crate) fn visitor() -> String {
    format!("vt_{}", qudao_domain::key::random_secret())
}

/// Status and code, in either shape of error.
pub(crate) fn refusal(answer: &Answer) -> (u16, String) {
    let code = answer.body.get("code").or_else(|| answer.body.pointer("/error/code"));
    (answer.status, code.and_then(Value::as_str).unwrap_or("none").to_owned())
}
