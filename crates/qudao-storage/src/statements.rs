//! Connections for single statements, each of which is a transaction of its own: none is ever begun
//! here, so that none can be left open.
//!
//! sqlx's pool asks a connection for a sign of life whenever it comes back, in a task of its own, and
//! lends the one that has rested the longest. For statements that take a fraction of a millisecond
//! both cost as much as what they are for. Here a connection comes back only if its statement was
//! done or refused, and the one that came back last, whose server process is awake and has everything
//! at hand, is lent first.

use std::{
    io,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolConfig, PoolError, QueueMode, RecycleError, RecycleResult,
    Timeouts,
};
use sqlx::{
    Connection as _, Executor as _, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgRow, PgSeverity},
    query::Query,
};
use tokio::time::{sleep, timeout};

use crate::{Result, StorageError, servers::Servers};

/// The few functions that are called on these connections take the same plans whatever the arguments;
/// to make them anew each time is a third of what a settlement costs.
const GENERIC_PLANS: [(&str, &str); 1] = [("plan_cache_mode", "force_generic_plan")];
/// A connection is closed at this age: a server process keeps what it has once read.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// One that nobody needed for so long is closed too: on some ways a silent connection is dropped
/// without a word.
const IDLE: Duration = Duration::from_secs(3 * 60);
/// The longest wait before a server that does not listen is asked again.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Some connections with one role. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Statements {
    pool: Pool<Opener>,
    bounds: Bounds,
}

/// How large a set of connections is, and how long one waits for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The most connections.
    pub(crate) connections: u32,
    /// How long one waits for a connection, be it free, found dead or opened.
    pub(crate) acquire: Duration,
    /// How long a statement may take, seen from here.
    pub(crate) statement: Duration,
}

impl Statements {
    /// Opens none yet. A connection begins with the statement `role`. Where several `servers` are
    /// known, only those on the one that accepts writes are used.
    pub(crate) fn new(
        options: &PgConnectOptions,
        role: &'static str,
        bounds: Bounds,
        servers: Option<Servers>,
    ) -> Result<Self> {
        let opener = Opener { role, options: RwLock::new(generic(options)), servers };
        let config = PoolConfig {
            max_size: usize::try_from(bounds.connections).unwrap_or(usize::MAX),
            // One bound for all of it together is set where one waits.
            timeouts: Timeouts::new(),
            queue_mode: QueueMode::Lifo,
        };
        let pool = Pool::builder(opener).config(config).build();
        let pool = pool.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        Ok(Self { pool, bounds })
    }

    /// Connections from now on are opened like this; those that rest are closed.
    pub(crate) fn set_options(&self, options: &PgConnectOptions) {
        let known = &self.pool.manager().options;
        *known.write().unwrap_or_else(PoisonError::into_inner) = generic(options);
        self.pool.retain(|_, _| false);
    }

    /// Closes what has rested for too long.
    pub(crate) fn close_idle(&self) {
        self.pool.retain(|_, metrics| !is_stale(&metrics));
    }

    /// The rows of a statement that is safe to repeat. It is made anew for each try: after a restart
    /// of the server every idle connection is dead, and each is found out here, once.
    pub(crate) async fn rows<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let mut dead = self.pool.status().size;
        loop {
            match self.rows_at_once(statement()).await {
                Err(StorageError::Unavailable(error)) if 0 < dead && !is_timeout(&error) => {
                    dead -= 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Bounds a statement from this side as well: a server that vanished without a word, or waits
    /// for a standby that did, ends nothing by itself. The connection is closed then.
    async fn rows_at_once(
        &self,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let lent = timeout(self.bounds.acquire, self.pool.get()).await;
        let lent = lent.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|error| match error {
            PoolError::Backend(error) => error,
            _ => sqlx::Error::PoolClosed,
        })?;
        // It may have been opened meanwhile.
        if self.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed.into());
        }
        let mut lent = Lent { connection: Some(lent) };
        let Some(connection) = &mut lent.connection else {
            return Err(sqlx::Error::PoolClosed.into());
        };
        let Ok(outcome) =
            timeout(self.bounds.statement, statement.fetch_all(&mut **connection)).await
        else {
            let error = sqlx::Error::Io(io::ErrorKind::TimedOut.into());
            return Err(StorageError::Unavailable(error));
        };
        let heard = outcome.as_ref().err().is_none_or(is_refusal);
        let outcome = outcome.map_err(StorageError::from);
        // A server that takes no statement now, such as a standby, must not be asked again and again.
        if heard && !matches!(outcome, Err(StorageError::Unavailable(_))) {
            lent.give_back();
        }
        outcome
    }

    /// Open, idle, and the most there may be.
    pub(crate) fn load(&self) -> (u32, u32, u32) {
        let status = self.pool.status();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(status.size), number(status.available), number(status.max_size))
    }

    /// Waits until all connections are closed. Statements that have not begun yet fail.
    pub(crate) async fn close(&self) {
        let idle = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        for connection in idle {
            // It is gone either way.
            let _ = connection.close().await;
        }
        while 0 < self.pool.status().size {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn generic(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options(GENERIC_PLANS)
}

/// Whether the server refuses a statement, and goes on listening.
fn is_refusal(error: &sqlx::Error) -> bool {
    let told = error.as_database_error().and_then(|error| error.try_downcast_ref());
    told.is_some_and(|told: &PgDatabaseError| told.severity() == PgSeverity::Error)
}

fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

/// A connection with a statement on its way. Closed if that is given up half way: the next one
/// would read its answer.
struct Lent {
    connection: Option<Object<Opener>>,
}

impl Lent {
    fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

/// Opens the connections of one set.
struct Opener {
    role: &'static str,
    options: RwLock<PgConnectOptions>,
    servers: Option<Servers>,
}

impl Opener {
    /// A connection, or why there is none now and may be one soon.
    ///
    /// # Errors
    /// Why there will be none.
    async fn open(&self) -> sqlx::Result<sqlx::Result<PgConnection>> {
        let options = self.options.read().unwrap_or_else(PoisonError::into_inner).clone();
        match PgConnection::connect_with(&options).await {
            Ok(connection) => Ok(self.prepare(connection).await),
            Err(error) if is_starting(&error) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, mut connection: PgConnection) -> sqlx::Result<PgConnection> {
        if let Some(servers) = &self.servers {
            servers.accepts_writes(&mut connection).await?;
        }
        connection.execute(self.role).await?;
        Ok(connection)
    }
}

impl Manager for Opener {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Asks again while nobody listens, the server is starting or is not the primary, for as long as
    /// one waits for a connection.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        let mut backoff = Duration::from_millis(10);
        loop {
            // In its own place: a connection is mostly lent, and not opened.
            match Box::pin(self.open()).await? {
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "a connection is not to be had yet"),
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if is_stale(metrics) {
            return Err(RecycleError::message("it is old, or has rested for too long"));
        }
        if let Some(servers) = &self.servers
            && !servers.leads_there(connection, metrics.age()).await?
        {
            return Err(RecycleError::message("another server is the primary now"));
        }
        Ok(())
    }
}

fn is_stale(metrics: &Metrics) -> bool {
    LIFETIME <= metrics.age() || IDLE <= metrics.last_used()
}

/// Whether a server may answer in a moment that does not now.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}
