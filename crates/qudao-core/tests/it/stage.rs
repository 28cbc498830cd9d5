//! A core over a database of its own and a model that follows a script.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use qudao_billing::Rates;
use qudao_core::{Core, CoreSettings, Principal, TurnOutcome};
use qudao_domain::{Micros, NodeId, SystemClock, text::ExternalId};
use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink,
    wire::{ChatRequest, FinishReason, Usage},
};
use qudao_plugin_host::{HostSettings, InstanceSettings, ModelState, PluginHost};
use qudao_storage::{Bus, Claim, Inbound, MessageBody, Scope, Store, TimelineCursor, TimelineItem};
use qudao_testkit::{TenantBuilder, TestDb, TestTenant};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

type Play = dyn Fn(&ChatRequest, &Sink<'_>) -> Result<Completion, PluginError> + Send + Sync;

static SCRIPTS: Mutex<Option<HashMap<u64, Arc<Script>>>> = Mutex::new(None);

/// What a model does, and how often it was asked.
pub(crate) struct Script {
    pub(crate) calls: AtomicUsize,
    ended: AtomicUsize,
    play: Box<Play>,
}

impl Script {
    pub(crate) fn new(
        play: impl Fn(&ChatRequest, &Sink<'_>) -> Result<Completion, PluginError>
        + Send
        + Sync
        + 'static,
    ) -> Arc<Self> {
        let (calls, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { calls, ended, play: Box::new(play) })
    }

    /// Says these pieces, a token each.
    pub(crate) fn says(pieces: &'static [&'static str]) -> Arc<Self> {
        Self::new(move |_, sink| {
            for piece in pieces {
                sink.token(piece)?;
            }
            Ok(done(pieces.len()))
        })
    }

    pub(crate) fn fails() -> Arc<Self> {
        Self::new(|_, _| Err(PluginError::internal("no")))
    }

    /// Says a token every ten milliseconds until it is cancelled.
    pub(crate) fn talks_on() -> Arc<Self> {
        Self::talks_on_and_tells().0
    }

    /// The same, and whether it has said the first one.
    pub(crate) fn talks_on_and_tells() -> (Arc<Self>, Arc<AtomicBool>) {
        let said = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&said);
        let script = Self::new(move |_, sink| {
            while !sink.is_cancelled() {
                sink.token("x")?;
                tells.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(PluginError::cancelled())
        });
        (script, said)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How often it came to its end.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

pub(crate) fn done(output: usize) -> Completion {
    let output_tokens = u32::try_from(output).unwrap();
    Completion {
        usage: Usage { input_tokens: 10, output_tokens },
        finish_reason: FinishReason::Stop,
    }
}

struct Scripted(Arc<Script>);

impl ModelPlugin for Scripted {
    type Config = u64;

    fn create(_: Host, config: u64) -> Result<Self, PluginError> {
        let scripts = SCRIPTS.lock().unwrap();
        let script = scripts.as_ref().and_then(|scripts| scripts.get(&config)).cloned();
        script.map(Self).ok_or_else(|| PluginError::internal("no such script"))
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let end = (self.0.play)(&request.chat()?, sink);
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        end
    }
}

async fn register(host: &PluginHost, model: &str, script: Arc<Script>) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    SCRIPTS.lock().unwrap().get_or_insert_default().insert(id, script);
    let mut settings = InstanceSettings::new(model, "scripted", model);
    settings.config = id.into();
    settings.max_concurrency = 64;
    host.register_static::<Scripted>(settings);
    while !host.model(model).is_some_and(|report| report.state == ModelState::Ready) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Nobody listens there: previews are lost, and nothing else.
const NO_BUS: &str = "redis://127.0.0.1:1";

/// A node.
pub(crate) struct Stage {
    pub(crate) core: Arc<Core>,
    pub(crate) store: Store,
    pub(crate) tenant: TestTenant,
    bus: String,
    _state: TempDir,
    // Last: the node must not outlive its database.
    db: TestDb,
}

/// A thousandth of a unit per token written; reading is free.
pub(crate) const PER_TOKEN: Rates = Rates {
    input_per_mtok: Micros::ZERO,
    output_per_mtok: Micros::new(1_000_000_000),
    per_call: Micros::ZERO,
};

/// One unit per call.
pub(crate) const PER_CALL: Rates =
    Rates { input_per_mtok: Micros::ZERO, output_per_mtok: Micros::ZERO, per_call: Micros::UNIT };

pub(crate) fn tenant() -> TenantBuilder {
    TestTenant::builder().rates(PER_TOKEN)
}

pub(crate) fn units(units: i64) -> Micros {
    Micros::new(units * Micros::UNIT.get())
}

impl Stage {
    pub(crate) async fn new(tenant: TenantBuilder, models: &[(&str, &Arc<Script>)]) -> Self {
        Self::with(tenant, models, CoreSettings::default()).await
    }

    pub(crate) async fn on_bus(
        tenant: TenantBuilder,
        models: &[(&str, &Arc<Script>)],
        bus: &str,
    ) -> Self {
        Self::build(tenant, models, CoreSettings::default(), bus).await
    }

    pub(crate) async fn with(
        tenant: TenantBuilder,
        models: &[(&str, &Arc<Script>)],
        settings: CoreSettings,
    ) -> Self {
        Self::build(tenant, models, settings, NO_BUS).await
    }

    async fn build(
        tenant: TenantBuilder,
        models: &[(&str, &Arc<Script>)],
        settings: CoreSettings,
        bus: &str,
    ) -> Self {
        let db = TestDb::new().await;
        let tenant = tenant.create(&db.store()).await;
        let state = tempfile::tempdir().unwrap();
        let core = node(&db.store(), models, settings, state.path(), bus).await;
        Self { bus: bus.to_owned(), core, store: db.store(), tenant, _state: state, db }
    }

    /// Another node over the same database.
    pub(crate) async fn another_node(&self, models: &[(&str, &Arc<Script>)]) -> Arc<Core> {
        node(&self.store, models, CoreSettings::default(), self._state.path(), &self.bus).await
    }

    pub(crate) async fn say(&self, id: &str, text: &str) -> qudao_core::Accepted {
        let inbound = Inbound {
            channel_id: self.tenant.channel_id,
            external_id: ExternalId::parse(id).unwrap(),
            peer: ExternalId::parse("visitor").unwrap(),
            body: MessageBody::text(text.to_owned()),
        };
        self.core.accept(self.tenant.id, inbound).await.unwrap()
    }

    pub(crate) fn attempts(&self) -> String {
        self.sql("SELECT string_agg(attempts::text, ',') FROM conversations")
    }

    pub(crate) async fn claim(&self) -> Claim {
        let lease = Duration::from_secs(30);
        let claims = self.store.claim_conversations(self.core.node, 10, lease).await.unwrap();
        assert_eq!(claims.len(), 1, "one conversation waits");
        claims[0]
    }

    pub(crate) async fn answer(&self) -> TurnOutcome {
        let claim = self.claim().await;
        self.core.run_turn(claim).await
    }

    /// Makes what waits for a moment ready at once.
    pub(crate) fn skip_backoff(&self) {
        self.db.psql("UPDATE conversations SET ready_at = now() WHERE ready_at IS NOT NULL");
    }

    pub(crate) fn expire_leases(&self) {
        self.db.psql(
            "UPDATE conversations SET ready_at = now(), lease_until = now() \
             WHERE lease_until IS NOT NULL",
        );
    }

    /// How to reach the database as its owner.
    pub(crate) fn url(&self) -> &str {
        self.db.url()
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.db.psql(sql)
    }

    /// Runs SQL on a thread of its own, in a transaction that stays open until [`Self::release`], or
    /// for a minute.
    pub(crate) fn hold(&self, sql: &str) -> std::thread::JoinHandle<String> {
        self.db.psql_beside(&format!(
            "{sql}; DO $$ BEGIN FOR n IN 1..1200 LOOP \
                 EXIT WHEN EXISTS (SELECT FROM pg_class WHERE relname = 'released'); \
                 PERFORM pg_sleep(0.05); \
             END LOOP; END $$"
        ))
    }

    pub(crate) fn release(&self) {
        self.db.psql("CREATE TABLE released ()");
    }

    /// What is left in the wallet, and what of it is set aside.
    pub(crate) async fn wallet(&self) -> (Micros, Micros) {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let wallet = tx.wallet().await.unwrap().unwrap();
        (wallet.posted, wallet.held)
    }

    pub(crate) async fn timeline(&self) -> Vec<TimelineItem> {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let found = tx.find_conversation_of(self.tenant.channel_id, "visitor").await.unwrap();
        tx.timeline(found.unwrap().id, TimelineCursor::default(), 100).await.unwrap()
    }

    pub(crate) async fn texts(&self) -> Vec<String> {
        self.timeline().await.into_iter().map(|item| item.text).collect()
    }

    pub(crate) async fn principal(&self) -> Principal {
        self.core
            .authenticate(&self.tenant.api_key, Ipv4Addr::LOCALHOST.into())
            .await
            .unwrap()
            .expect("the key works")
    }

    /// No invariant that holds at every moment is violated.
    pub(crate) async fn assert_sound(&self) {
        for finding in self.store.check().await.unwrap() {
            let counts = finding.scope == Scope::Always;
            assert!(!counts || finding.violations == 0, "{finding:?}");
        }
    }
}

async fn node(
    store: &Store,
    models: &[(&str, &Arc<Script>)],
    settings: CoreSettings,
    state: &std::path::Path,
    bus: &str,
) -> Arc<Core> {
    let host =
        PluginHost::start(HostSettings { state_dir: state.to_owned(), ..HostSettings::default() })
            .await;
    for (model, script) in models {
        register(&host, model, Arc::clone(script)).await;
    }
    let parts = qudao_core::CoreParts {
        vault: qudao_core::Vault::unlock(store.clone(), qudao_testkit::master_keys())
            .await
            .unwrap(),
        store: store.clone(),
        bus: Bus::connect(bus).unwrap(),
        plugins: host,
        clock: Arc::new(SystemClock),
        tasks: TaskTracker::new(),
        node: NodeId::new(),
    };
    Core::new(parts, settings)
}
