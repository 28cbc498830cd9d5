//! The loops against a real database: from an accepted message to a delivered one.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use qudao_billing::Rates;
use qudao_core::{Channel, Core, CoreParts, CoreSettings, DeliverError};
use qudao_domain::{Micros, NodeId, SystemClock, state::ChannelKind, text::ExternalId};
use qudao_plugin_api::{Completion, Host, ModelPlugin, PluginError, Request, Sink, wire::Usage};
use qudao_plugin_host::{HostSettings, InstanceSettings, PluginHost};
use qudao_storage::{Bus, Inbound, MessageBody, OutboxClaim, OutboxKind};
use qudao_testkit::{TestDb, TestTenant};
use qudao_worker::{Worker, WorkerSettings};
use tokio_util::task::TaskTracker;

/// Says what it heard last, after a moment.
struct Parrot;

impl ModelPlugin for Parrot {
    type Config = u64;

    fn create(_: Host, _: u64) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        let text = request.chat()?.last_user_text();
        if text.contains("forever") {
            while !sink.is_cancelled() {
                std::thread::sleep(Duration::from_millis(10));
            }
            return Err(PluginError::cancelled());
        }
        sink.token(&text)?;
        Ok(Completion::stop(Usage { input_tokens: 1, output_tokens: 1 }))
    }
}

/// What came out, and how often the other side says no before it takes a message.
#[derive(Default)]
struct Outside {
    got: Mutex<Vec<(String, i64, String)>>,
    refusals: Mutex<u32>,
    /// Never takes anything, and says so.
    closed: bool,
}

#[async_trait]
impl Channel for Outside {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Web
    }

    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError> {
        if self.closed {
            return Err(DeliverError::refused("gone"));
        }
        let mut refusals = self.refusals.lock().unwrap();
        if 0 < *refusals {
            *refusals -= 1;
            return Err(DeliverError::retry("later"));
        }
        assert_eq!(message.kind, OutboxKind::Reply);
        let said = (message.peer.clone(), message.out_seq, message.body.text.clone());
        self.got.lock().unwrap().push(said);
        Ok(())
    }
}

struct Stage {
    core: Arc<Core>,
    tenant: TestTenant,
    _state: tempfile::TempDir,
    db: TestDb,
}

impl Stage {
    async fn new() -> Self {
        let db = TestDb::new().await;
        let rates = Rates {
            input_per_mtok: Micros::ZERO,
            output_per_mtok: Micros::ZERO,
            per_call: Micros::new(1_000),
        };
        let tenant = TestTenant::builder().rates(rates).create(&db.store()).await;
        let state = tempfile::tempdir().unwrap();
        let settings =
            HostSettings { state_dir: state.path().to_owned(), ..HostSettings::default() };
        let plugins = PluginHost::start(settings).await;
        let mut instance = InstanceSettings::new("fake", "parrot", "fake");
        instance.config = 0.into();
        plugins.register_static::<Parrot>(instance);
        let parts = CoreParts {
            vault: qudao_core::Vault::unlock(db.store(), qudao_testkit::master_keys())
                .await
                .unwrap(),
            store: db.store(),
            // Nobody listens there: the loops find their work without hints from outside.
            bus: Bus::connect("redis://127.0.0.1:1").unwrap(),
            plugins,
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node: NodeId::new(),
        };
        Self { core: Core::new(parts, CoreSettings::default()), tenant, _state: state, db }
    }

    async fn say(&self, peer: &str, id: &str, text: &str) {
        let inbound = Inbound {
            channel_id: self.tenant.channel_id,
            external_id: ExternalId::parse(&format!("{peer}/{id}")).unwrap(),
            peer: ExternalId::parse(peer).unwrap(),
            body: MessageBody::text(text.to_owned()),
        };
        self.core.accept(self.tenant.id, inbound).await.unwrap();
    }

    async fn until(&self, sql: &str, expected: &str) {
        for _ in 0..400 {
            if self.db.psql(sql) == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{sql} is {} and not {expected}", self.db.psql(sql));
    }

    async fn assert_drained(&self) {
        for finding in self.db.store().check().await.unwrap() {
            assert_eq!(finding.violations, 0, "{finding:?}");
        }
    }
}

fn quick() -> WorkerSettings {
    let backoff = vec![Duration::from_millis(20); 5];
    WorkerSettings { delivery_backoff: backoff, ..WorkerSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_people_are_answered_in_order_and_delivered_once() {
    let stage = Stage::new().await;
    let outside = Arc::new(Outside { refusals: Mutex::new(3), ..Outside::default() });
    let worker = Worker::start(stage.core.clone(), vec![outside.clone()], quick());
    for round in 0..3 {
        for person in 0..8 {
            stage.say(&format!("p{person}"), &round.to_string(), &format!("{round}")).await;
        }
        stage.until("SELECT count(*) FROM inbox WHERE state = 'accepted'", "0").await;
    }
    stage.until("SELECT count(*) FROM outbox WHERE state <> 'delivered'", "0").await;
    worker.drain(Duration::from_secs(5)).await;
    let got = outside.got.lock().unwrap().clone();
    for person in 0..8 {
        let peer = format!("p{person}");
        let theirs: Vec<_> = got.iter().filter(|said| said.0 == peer).cloned().collect();
        let expected: Vec<_> =
            (0..3).map(|round| (peer.clone(), round + 1, round.to_string())).collect();
        assert_eq!(theirs, expected);
    }
    stage.assert_drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_other_side_refuses_for_good_is_buried() {
    let stage = Stage::new().await;
    let outside = Arc::new(Outside { closed: true, ..Outside::default() });
    let worker = Worker::start(stage.core.clone(), vec![outside], quick());
    stage.say("p", "1", "Hello").await;
    stage.until("SELECT state FROM outbox", "dead").await;
    worker.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_releases_what_does_not_end_in_time() {
    let stage = Stage::new().await;
    let worker = Worker::start(stage.core.clone(), vec![Arc::new(Outside::default())], quick());
    stage.say("p", "1", "talk forever").await;
    stage.until("SELECT count(*) FROM holds WHERE state = 'held'", "1").await;
    let began = std::time::Instant::now();
    worker.drain(Duration::from_millis(200)).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let claims = stage.core.store.claim_conversations(NodeId::new(), 10, Duration::from_secs(30));
    let claims = claims.await.unwrap();
    assert_eq!(claims.len(), 1, "another node may take it at once");
    assert_eq!((claims[0].epoch, claims[0].attempts), (2, 1), "the given back one does not count");
}

/// Whose turns began, in their order.
static BEGUN: Mutex<Vec<char>> = Mutex::new(Vec::new());

/// Takes its time and notes who speaks to it.
struct Slow;

impl ModelPlugin for Slow {
    type Config = u64;

    fn create(_: Host, _: u64) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        let text = request.chat()?.last_user_text();
        BEGUN.lock().unwrap().extend(text.chars().next());
        std::thread::sleep(Duration::from_millis(20));
        sink.token("done")?;
        Ok(Completion::stop(Usage { input_tokens: 1, output_tokens: 1 }))
    }
}

/// Otherwise the quiet one would wait until all that the noisy one has written is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_writes_once_does_not_wait_behind_another_that_floods() {
    const SLOTS: usize = 8;
    // More than are answered while the quiet one writes, however long that takes.
    const FLOOD: usize = 2_000;
    let stage = Stage::new().await;
    let mut instance = InstanceSettings::new("slow", "slow", "slow");
    instance.config = 0.into();
    instance.max_concurrency = 64;
    stage.core.plugins.register_static::<Slow>(instance);
    let rates = Rates {
        input_per_mtok: Micros::ZERO,
        output_per_mtok: Micros::ZERO,
        per_call: Micros::new(1_000),
    };
    let store = stage.db.store();
    let make = async || {
        let builder = TestTenant::builder().models(&["slow"]).rates(rates);
        builder.create(&store).await
    };
    let (noisy, quiet) = (make().await, make().await);
    let say = async |tenant: &TestTenant, peer: &str, text: &str| {
        let inbound = Inbound {
            channel_id: tenant.channel_id,
            external_id: ExternalId::parse(&format!("{peer}/{text}")).unwrap(),
            peer: ExternalId::parse(peer).unwrap(),
            body: MessageBody::text(text.to_owned()),
        };
        stage.core.accept(tenant.id, inbound).await.unwrap();
    };
    let flood = async |n: usize| say(&noisy, &format!("a{n}"), "A").await;
    for n in (0..FLOOD).step_by(4) {
        tokio::join!(flood(n), flood(n + 1), flood(n + 2), flood(n + 3));
    }
    // No place is kept free for the quiet one: the order alone has to do.
    let settings =
        WorkerSettings { turns_in_flight: SLOTS, tenant_turns_in_flight: SLOTS, ..quick() };
    let worker = Worker::start(stage.core.clone(), vec![Arc::new(Outside::default())], settings);
    let mut between = Vec::new();
    for n in 0..10 {
        let before = BEGUN.lock().unwrap().len();
        say(&quiet, "b", &format!("B{n}")).await;
        // Those that began while it was written were ahead of it.
        let ahead = BEGUN.lock().unwrap().len() - before;
        let begun = loop {
            let log = BEGUN.lock().unwrap()[before..].to_vec();
            if let Some(at) = log.iter().position(|who| *who == 'B') {
                break at.saturating_sub(ahead);
            }
            assert!(log.len() < FLOOD, "B's turn does not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        between.push(begun);
        let answered = format!(
            "SELECT count(*) FROM inbox WHERE channel_id = '{}' AND state = 'accepted'",
            quiet.channel_id.as_uuid()
        );
        stage.until(&answered, "0").await;
    }
    let flooded = BEGUN.lock().unwrap().iter().filter(|who| **who == 'A').count();
    assert!(flooded < FLOOD, "the flood was over before the end: {flooded}");
    // What was claimed already may begin first: the slots once over, and a claim under way.
    eprintln!("turns of A before each of B: {between:?}");
    let worst = between.iter().max().unwrap();
    assert!(*worst <= 2 * SLOTS, "turns of A before one of B: {between:?}");
    worker.drain(Duration::from_secs(10)).await;
}
