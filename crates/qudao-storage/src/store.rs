//! Connections and transactions.
//!
//! In sqlx 0.9.0 a `begin()` whose future is dropped half way returns its connection to the pool
//! with a transaction open; the next statement on that connection is acknowledged and then lost.
//! So nothing here uses the pool directly: every transaction opens with a `ROLLBACK` in the same
//! round trip as its `BEGIN`, and a connection that comes back is rolled back once more.

use std::{
    ops::DerefMut as _,
    time::{Duration, Instant},
};

use metrics::Histogram;
use qudao_domain::TenantId;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    Result, StorageError, depths,
    servers::Servers,
    statements::{Bounds, Statements},
};

/// Connections for single statements: the steps of turns and group commits. More at one time would
/// only queue up at the disk.
const STATEMENT_CONNECTIONS: u32 = 8;

/// What a thread that serves HTTP has for itself, to settle: one is used while another waits for the disk.
const OWN_CONNECTIONS: u32 = 2;

/// Connections for the claims of turns and of deliveries: each has a loop, which claims one batch
/// after the other.
const CLAIM_CONNECTIONS: u32 = 2;

/// What is added to the server's own limit of a statement before it is given up from this side.
const MARGIN: Duration = Duration::from_secs(1);

/// Where the database is and how much of it to use.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `postgres://…`; unix sockets as `postgres:///name?host=/path`. Several servers, parted by
    /// commas, are a primary and its standbys: the one that accepts writes is used.
    pub url: String,
    /// The most connections for transactions. Ten more are for single statements and claims, and two for
    /// each thread that asked for some ([`connect_here`](crate::connect_here)).
    pub max_connections: u32,
    /// How long to wait for a free connection before [`StorageError::Timeout`].
    pub acquire_timeout: Duration,
    /// How long a statement may run. Reports use [`Store::check`], which allows itself more.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a row that another transaction holds.
    pub lock_timeout: Duration,
}

impl StoreSettings {
    /// The settings for this URL, with the usual bounds.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
        }
    }
}

/// The database. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// For statements that are a transaction each.
    statements: Statements,
    /// The same, for those who can claim and nothing else.
    claims: Statements,
    /// Kept, since every transaction records in it.
    begins: Histogram,
}

/// A unit of work that sees the rows of one tenant only.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx {
    tenant_id: TenantId,
    inner: Transaction<'static, Postgres>,
}

/// A unit of work of the platform itself: no tenant's rows, only the functions that the platform
/// may call.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct PlatformTx {
    inner: Transaction<'static, Postgres>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`], or [`StorageError::Unavailable`] if nobody answers.
    pub async fn connect(settings: StoreSettings) -> Result<Self> {
        let StoreSettings { url, max_connections, acquire_timeout, .. } = &settings;
        let servers = Servers::parse(url, |options| tuned(options, &settings))?;
        let options = servers.primary().await?;
        let several = servers.several();
        let at_use = servers.clone();
        let mut pools = PgPoolOptions::new()
            .acquire_timeout(*acquire_timeout)
            // A dead connection is found by its first statement at the same price.
            .test_before_acquire(false);
        if several {
            pools = pools.before_acquire(move |connection, meta| {
                let servers = at_use.clone();
                Box::pin(async move { servers.leads_there(connection, meta.age).await })
            });
        }
        let watched = several.then(|| servers.clone());
        let single = |role, connections: u32, own: u32| {
            let bounds = Bounds {
                connections: connections.min(*max_connections),
                own,
                acquire: *acquire_timeout,
                statement: settings.statement_timeout + MARGIN,
            };
            Statements::new(&options, role, bounds, watched.clone())
        };
        let claims = single("SET ROLE qudao_claim", CLAIM_CONNECTIONS, 0)?;
        let statements = single("SET ROLE qudao_app", STATEMENT_CONNECTIONS, OWN_CONNECTIONS)?;
        let pool = born_as("SET ROLE qudao_app", pools, watched)
            .max_connections(*max_connections)
            .after_release(|connection, _| {
                Box::pin(async move { connection.execute("ROLLBACK").await.map(|_| true) })
            })
            .connect_with(options.clone())
            .await?;
        if several {
            // It ends when the pools are closed, and has nothing to finish.
            let single = [statements.clone(), claims.clone()];
            Handle::current().spawn(servers.follow(pool.clone(), single, options));
        }
        let begins = metrics::histogram!("qudao_db_begin_seconds");
        Ok(Self { pool, statements, claims, begins })
    }

    /// Brings the schema up to date and returns the names of the migrations that it applied.
    /// Nodes that start together take turns.
    ///
    /// # Errors
    /// [`StorageError::Forbidden`] if the role may not create roles or does not bypass row-level
    /// security, [`StorageError::Migration`] if a step fails; it is rolled back then.
    pub async fn migrate(url: &str) -> Result<Vec<String>> {
        let options = Servers::parse(url, |options| options)?.primary().await?;
        let mut connection = PgConnection::connect_with(&options).await?;
        let outcome = migrate(&mut connection).await;
        connection.close().await?;
        outcome
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Timeout`].
    pub async fn ping(&self) -> Result<()> {
        let tx = self.begin_platform().await?;
        tx.commit().await
    }

    /// Opens a unit of work that sees the rows of one tenant only.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Timeout`].
    pub async fn begin(&self, tenant_id: TenantId) -> Result<Tx> {
        let tenant = tenant_id.as_uuid();
        let opening = format!("ROLLBACK; BEGIN; SET LOCAL app.tenant_id = '{tenant}'");
        Ok(Tx { tenant_id, inner: self.open(opening).await? })
    }

    /// As [`Self::begin`], for work that changes nothing: the database refuses to.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Timeout`].
    pub async fn begin_reading(&self, tenant_id: TenantId) -> Result<Tx> {
        let tenant = tenant_id.as_uuid();
        let opening = format!("ROLLBACK; BEGIN READ ONLY; SET LOCAL app.tenant_id = '{tenant}'");
        Ok(Tx { tenant_id, inner: self.open(opening).await? })
    }

    /// Opens a unit of work of the platform itself.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Timeout`].
    pub async fn begin_platform(&self) -> Result<PlatformTx> {
        let opening = "ROLLBACK; BEGIN; SET LOCAL ROLE qudao_admin".to_owned();
        Ok(PlatformTx { inner: self.open(opening).await? })
    }

    /// Opens the transaction in which only work can be claimed.
    pub(crate) async fn begin_claim(&self) -> Result<PlatformTx> {
        let opening = "ROLLBACK; BEGIN; SET LOCAL ROLE qudao_claim".to_owned();
        Ok(PlatformTx { inner: self.open(opening).await? })
    }

    /// Opens the transaction in which the depths of the queues are read.
    pub(crate) async fn begin_watch(&self) -> Result<PlatformTx> {
        let patience = depths::PATIENCE.as_millis();
        let opening = format!(
            "ROLLBACK; BEGIN READ ONLY; SET LOCAL ROLE qudao_claim; \
             SET LOCAL statement_timeout = '{patience}ms'"
        );
        Ok(PlatformTx { inner: self.open(opening).await? })
    }

    /// Connections of the pool for transactions: open, idle, and the most there may be.
    pub(crate) fn work_load(&self) -> (u32, u32, u32) {
        load(&self.pool)
    }

    /// The same of the pools for single statements.
    pub(crate) fn settle_load(&self) -> (u32, u32, u32) {
        let (statements, claims) = (self.statements.load(), self.claims.load());
        (statements.0 + claims.0, statements.1 + claims.1, statements.2 + claims.2)
    }

    /// Closes connections for single statements that have rested for too long.
    pub(crate) fn close_idle(&self) {
        self.statements.close_idle();
        self.claims.close_idle();
    }

    /// Opens the transaction in which the invariants are checked: one snapshot of everything,
    /// read-only, and an error rather than a partial view if row-level security would apply.
    pub(crate) async fn begin_check(&self) -> Result<PlatformTx> {
        let opening = "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                       SET LOCAL ROLE NONE; SET LOCAL row_security = off; \
                       SET LOCAL statement_timeout = '60s'; \
                       SET LOCAL enable_seqscan = on"
            .to_owned();
        Ok(PlatformTx { inner: self.open(opening).await? })
    }

    /// All openings are made of constants and UUIDs; nothing in them comes from outside.
    ///
    /// After a restart of the server every idle connection is dead. Each is found out here, once,
    /// and replaced: no work was done on it yet.
    async fn open(&self, opening: String) -> Result<Transaction<'static, Postgres>> {
        let began = Instant::now();
        // In its own place: nine kilobytes that whatever opens one would carry along otherwise, also
        // where it mostly opens none.
        let opened = Box::pin(self.open_now(opening)).await;
        self.begins.record(began.elapsed());
        opened
    }

    async fn open_now(&self, opening: String) -> Result<Transaction<'static, Postgres>> {
        for _ in 0..self.pool.size() {
            match self.pool.begin_with(AssertSqlSafe(opening.clone())).await.map_err(Into::into) {
                Err(StorageError::Unavailable(_)) => {}
                outcome => return outcome,
            }
        }
        Ok(self.pool.begin_with(AssertSqlSafe(opening)).await?)
    }

    /// The one row of a statement as [`Self::rows_of_one_statement`] runs it.
    pub(crate) async fn one_statement<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<PgRow> {
        let rows = self.rows_of_one_statement(statement).await?;
        Ok(rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)?)
    }

    /// The same for what a call waits for on this thread.
    pub(crate) async fn one_statement_here<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<PgRow> {
        let rows = self.statements.rows_here(statement).await?;
        Ok(rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)?)
    }

    /// Runs a statement that is a whole transaction and safe to repeat. It is made anew for each
    /// try.
    pub(crate) async fn rows_of_one_statement<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        self.statements.rows(statement).await
    }

    /// The same of a statement that claims work: what a lost answer claimed comes free when its
    /// lease ends.
    pub(crate) async fn rows_of_one_claim<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        self.claims.rows(statement).await
    }

    /// Waits until all connections are closed. Work that has not begun yet fails.
    pub async fn close(&self) {
        self.claims.close().await;
        self.statements.close().await;
        self.pool.close().await;
    }
}

/// Connections that take a role on before they are used, where several servers are known only on
/// the one that accepts writes.
fn born_as(role: &'static str, pools: PgPoolOptions, servers: Option<Servers>) -> PgPoolOptions {
    pools.after_connect(move |connection, _| {
        let servers = servers.clone();
        Box::pin(async move {
            if let Some(servers) = servers {
                servers.accepts_writes(connection).await?;
            }
            connection.execute(role).await.map(|_| ())
        })
    })
}

/// What every connection is told.
fn tuned(options: PgConnectOptions, settings: &StoreSettings) -> PgConnectOptions {
    let millis = |duration: Duration| format!("{}ms", duration.as_millis());
    options.application_name("qudao").options([
        // The healing ROLLBACK warns whenever there is nothing to heal.
        ("client_min_messages", "error".to_owned()),
        ("statement_timeout", millis(settings.statement_timeout)),
        ("lock_timeout", millis(settings.lock_timeout)),
        ("idle_in_transaction_session_timeout", "10s".to_owned()),
        // Every statement here is served by an index. Without this a plan that was made and
        // kept while a table was small reads all of it at every step until the next ANALYZE:
        // five times the cost of a settlement within the first minute. Compiling statements
        // that take microseconds only costs.
        ("enable_seqscan", "off".to_owned()),
        ("jit", "off".to_owned()),
    ])
}

impl Tx {
    /// Whose rows it sees.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }

    /// Makes the work durable.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if the answer was lost: whether the work is durable is
    /// unknown then.
    pub async fn commit(self) -> Result<()> {
        Ok(self.inner.commit().await?)
    }

    /// Undoes the work and lets go of its locks before this returns; a transaction that is only
    /// dropped does so a moment later.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if the connection was lost: the work is undone then, too.
    pub async fn rollback(self) -> Result<()> {
        Ok(self.inner.rollback().await?)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.inner.deref_mut()
    }
}

impl PlatformTx {
    /// Makes the work durable.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if the answer was lost: whether the work is durable is
    /// unknown then.
    pub async fn commit(self) -> Result<()> {
        Ok(self.inner.commit().await?)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.inner.deref_mut()
    }
}

fn load(pool: &PgPool) -> (u32, u32, u32) {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    (pool.size(), idle, pool.options().get_max_connections())
}

async fn migrate(connection: &mut PgConnection) -> Result<Vec<String>> {
    let bypasses: bool = sqlx::query_scalar(
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !bypasses {
        let detail = "migrations need a role that bypasses row-level security \
                      (a superuser, or BYPASSRLS with CREATEROLE)";
        return Err(StorageError::Forbidden { detail: detail.to_owned() });
    }
    // Ends with the connection.
    while !try_lock(connection).await? {
        sleep(Duration::from_millis(50)).await;
    }
    drop_broken_indexes(connection).await?;
    let before = applied(connection).await?;
    let mut migrator: Migrator = sqlx::migrate!("../../migrations");
    migrator.set_locking(false);
    migrator.run(&mut *connection).await.map_err(|error| match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
            match StorageError::from(cause) {
                StorageError::Defect(cause) => {
                    StorageError::Migration(MigrateError::Execute(cause))
                }
                known => known,
            }
        }
        other => StorageError::Migration(other),
    })?;
    let after = applied(connection).await?;
    Ok(after.into_iter().filter(|name| !before.contains(name)).collect())
}

/// Nodes that start together take turns. Who waits must not do so inside a statement: an index that
/// is built concurrently waits for every statement that is older.
async fn try_lock(connection: &mut PgConnection) -> Result<bool> {
    let taken = "SELECT pg_try_advisory_lock(hashtextextended('qudao migrations', 0))";
    Ok(sqlx::query_scalar(taken).fetch_one(connection).await?)
}

/// An index that was being built when its node died is there and useless, and its name is taken.
async fn drop_broken_indexes(connection: &mut PgConnection) -> Result<()> {
    let broken: Vec<String> = sqlx::query_scalar(
        "SELECT i.indexrelid::regclass::text FROM pg_index i \
         JOIN pg_class c ON c.oid = i.indrelid \
         WHERE NOT i.indisvalid AND c.relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut *connection)
    .await?;
    for index in broken {
        tracing::warn!(index, "dropping an index that was never finished");
        // The name comes from the catalogue, quoted where need be.
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    Ok(())
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<String>> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let names = sqlx::query_scalar(
        "SELECT version || ' ' || description FROM _sqlx_migrations WHERE success ORDER BY version",
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok(names)
}
