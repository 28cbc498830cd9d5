//! A database of its own, a remote, a platform, and the plans of the nodes between them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use qudao_billing::Rates;
use qudao_domain::Micros;
use qudao_storage::{Scope, Store};
use qudao_testkit::{Script, TestDb, TestReplicas, TestTenant};
use tempfile::TempDir;
use tokio::time;

use crate::{
    node::{Doors, Node},
    plan::{NodePlan, Role},
    platform::Platform,
    record::Record,
    remote::Remote,
    wires::Wires,
};

/// How long claims, deliveries and blocks are good without a renewal.
pub const LEASE: Duration = Duration::from_millis(1500);
/// Nobody listens there: hints are lost, and nothing else.
pub const NO_REDIS: &str = "redis://127.0.0.1:1";
/// A thousandth of a unit per token written, and a hundredth per call.
const RATES: Rates = Rates {
    input_per_mtok: Micros::ZERO,
    output_per_mtok: Micros::new(1_000_000_000),
    per_call: Micros::new(10_000),
};
const REPLY: &str = "a reply of six short words";
/// What one reply costs: six tokens and the call.
pub const REPLY_COST: i64 = 16_000;

/// Everything of a run but its nodes.
pub struct Stage {
    /// What outsiders saw.
    pub record: Record,
    /// The other side of the channel.
    pub remote: Remote,
    /// The other ends of real adapters, in runs that have them.
    pub wires: Option<Wires>,
    /// The senders' side.
    pub platform: Platform,
    /// The nodes that live.
    pub doors: Doors,
    /// What a node of this run is told.
    pub plan: NodePlan,
    /// The database, as the check sees it.
    pub store: Store,
    folder: TempDir,
    // Last: what uses it goes first.
    database: Database,
}

/// Where a run keeps its rows.
#[derive(Debug)]
pub enum Database {
    /// On the server of the tests.
    Shared(TestDb),
    /// On servers of its own.
    Replicas(TestReplicas),
}

impl Stage {
    /// Sets one up on the server of the tests.
    ///
    /// # Errors
    /// If a part cannot be made.
    pub async fn set(rebuffs: bool) -> anyhow::Result<Self> {
        let db = TestDb::new().await;
        // A crash of Postgres must not lose what it has confirmed, whatever the server was told.
        db.psql(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = on', \
             current_database()); END $$",
        );
        let (url, store) = (db.url().to_owned(), db.store());
        Self::over(Database::Shared(db), url, store, rebuffs)
    }

    /// Sets one up on a primary and its standby.
    ///
    /// # Errors
    /// If a part cannot be made.
    pub async fn set_on_replicas() -> anyhow::Result<Self> {
        let replicas = TestReplicas::start().await;
        Store::migrate(replicas.url()).await?;
        let (url, store) = (replicas.url().to_owned(), replicas.store().await);
        Self::over(Database::Replicas(replicas), url, store, false)
    }

    fn over(
        database: Database,
        database_url: String,
        store: Store,
        rebuffs: bool,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("qudao-chaos-").tempdir()?;
        let record = Record::begin(folder.path())?;
        let remote = Remote::open(folder.path(), record.clone(), rebuffs)?;
        let doors = Doors::default();
        let platform = Platform::new(doors.clone(), record.clone())?;
        let plan = NodePlan {
            role: Role::All,
            database_url,
            redis_url: NO_REDIS.to_owned(),
            remote: remote.socket.clone(),
            wires: None,
            models: models(Duration::from_millis(120)),
            rogue: None,
            lease_ms: u64::try_from(LEASE.as_millis())?,
            abort_at: None,
            wait_at: None,
            bugs: Vec::new(),
        };
        Ok(Self { record, remote, wires: None, platform, doors, plan, store, folder, database })
    }

    /// Puts the other ends of real adapters beside the fake remote; `faults` as of [`Wires::open`].
    ///
    /// # Errors
    /// If there is no port.
    pub async fn add_wires(&mut self, seed: u64, faults: u32) -> anyhow::Result<()> {
        let wires = Wires::open(self.record.clone(), seed, faults).await?;
        self.plan.wires = Some(wires.addr);
        self.wires = Some(wires);
        Ok(())
    }

    /// A tenant with this much to spend, whose messages these models answer.
    pub async fn tenant(&self, credits: i64, models: &[&str]) -> TestTenant {
        let tenant = TestTenant::builder().rates(RATES).credits(Micros::new(credits));
        tenant.models(models).create(&self.store).await
    }

    /// Starts a node as the plan says.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn node(&self) -> anyhow::Result<Node> {
        Node::start(&self.plan, &self.doors).await
    }

    /// Starts one of a role.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn node_for(&self, role: Role) -> anyhow::Result<Node> {
        Node::start(&NodePlan { role, ..self.plan.clone() }, &self.doors).await
    }

    /// Whether partners have all that lies in their logs. Theirs is a queue of its own behind the
    /// outbox.
    fn is_posted(&self) -> bool {
        let open = "SELECT count(*) FROM partner_events WHERE state IN ('ready', 'sending')";
        self.plan.wires.is_none() || self.sql(open) == "0"
    }

    /// Where the files of this run are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs SQL as the owner of the schema.
    pub fn sql(&self, sql: &str) -> String {
        match &self.database {
            Database::Shared(db) => db.psql(sql),
            Database::Replicas(replicas) => replicas.psql(sql),
        }
    }

    /// The servers of a run that has its own.
    pub fn replicas(&self) -> Option<&TestReplicas> {
        match &self.database {
            Database::Shared(_) => None,
            Database::Replicas(replicas) => Some(replicas),
        }
    }

    /// Waits until nothing is left to do, and returns how long that took. `None` if something is
    /// left at the deadline.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn drain(&self, deadline: Duration) -> anyhow::Result<Option<Duration>> {
        let began = Instant::now();
        while began.elapsed() < deadline {
            if let Ok(findings) = self.store.check().await {
                let left = findings
                    .iter()
                    .any(|finding| finding.scope == Scope::AfterDrain && 0 < finding.violations);
                if !left && self.is_posted() {
                    return Ok(Some(began.elapsed()));
                }
            }
            time::sleep(Duration::from_millis(100)).await;
        }
        self.store.ping().await.context("the database after the deadline")?;
        Ok(None)
    }
}

/// A model that answers, with this pause before each word, and one that fails.
pub fn models(pause: Duration) -> Vec<(String, Script)> {
    let broken = qudao_plugin_api::wire::ErrorKind::Internal;
    vec![
        ("fake".to_owned(), Script::reply(REPLY).with_delay(pause)),
        ("broken".to_owned(), Script::reply(REPLY).failing_after(0, broken)),
    ]
}
