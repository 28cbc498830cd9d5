//! Connections for single statements, each of which is a transaction of its own: none is ever begun
//! here, so that none can be left open.
//!
//! sqlx's pool asks a connection for a sign of life whenever it comes back, in a task of its own, and
//! lends the one that has rested the longest. For statements that take a fraction of a millisecond
//! both cost as much as what they are for. Here a connection comes back only if its statement was
//! heard to its end, and the one that came back last, whose server process is awake and has everything
//! at hand, is lent first.

use std::{
    io,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{
        Manager, Metrics, Object, Pool, PoolConfig, PoolError, QueueMode, RecycleError,
        RecycleResult, Timeouts,
    },
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
/// A connection is replaced at this age: a server process keeps what it has once read.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// The longest wait before a server that does not listen is asked again.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Some connections with one role. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Statements {
    pool: Pool<Opener>,
    /// How long a statement may take, seen from here.
    patience: Duration,
}

/// How large a set of connections is, and how long one waits for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The most connections.
    pub(crate) connections: u32,
    /// For a free one.
    pub(crate) acquire: Duration,
    /// For a statement.
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
        let Bounds { connections, acquire, statement } = bounds;
        let opener = Opener { role, options: RwLock::new(generic(options)), servers };
        let wait = Some(acquire);
        let config = PoolConfig {
            max_size: usize::try_from(connections).unwrap_or(usize::MAX),
            timeouts: Timeouts { wait, create: wait, recycle: wait },
            queue_mode: QueueMode::Lifo,
        };
        let pool = Pool::builder(opener).config(config).runtime(Runtime::Tokio1).build();
        let pool = pool.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        Ok(Self { pool, patience: statement })
    }

    /// Connections from now on are opened like this.
    pub(crate) fn set_options(&self, options: &PgConnectOptions) {
        let known = &self.pool.manager().options;
        *known.write().unwrap_or_else(PoisonError::into_inner) = generic(options);
    }

    /// The rows of a statement that is safe to repeat. It is made anew for each try: after a restart
    /// of the server every idle connection is dead, and each is found out here, once.
    pub(crate) async fn rows<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        for _ in 0..self.pool.status().size {
            match self.rows_at_once(statement()).await {
                Err(StorageError::Unavailable(error)) if !is_timeout(&error) => {}
                outcome => return outcome,
            }
        }
        self.rows_at_once(statement()).await
    }

    /// Bounds a statement from this side as well: a server that vanished without a word, or waits
    /// for a standby that did, ends nothing by itself. The connection is closed then.
    async fn rows_at_once(
        &self,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let lent = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => sqlx::Error::PoolClosed,
            _ => sqlx::Error::PoolTimedOut,
        })?;
        let mut lent = Lent { connection: Some(lent) };
        let Some(connection) = &mut lent.connection else {
            return Err(sqlx::Error::PoolClosed.into());
        };
        let Ok(outcome) = timeout(self.patience, statement.fetch_all(&mut **connection)).await
        else {
            let error = sqlx::Error::Io(io::ErrorKind::TimedOut.into());
            return Err(StorageError::Unavailable(error));
        };
        if outcome.as_ref().err().is_none_or(is_refusal) {
            lent.give_back();
        }
        Ok(outcome?)
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
#[derive(Debug)]
struct Opener {
    role: &'static str,
    options: RwLock<PgConnectOptions>,
    servers: Option<Servers>,
}

impl Opener {
    async fn open(&self) -> sqlx::Result<PgConnection> {
        let options = self.options.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connection = PgConnection::connect_with(&options).await?;
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

    /// Asks again while nobody listens or the server is starting, for as long as one waits for a
    /// connection.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        let mut backoff = Duration::from_millis(10);
        loop {
            match self.open().await {
                Err(error) if is_starting(&error) => {}
                outcome => return outcome,
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
        let age = metrics.age();
        if LIFETIME <= age {
            return Err(RecycleError::message("it has served its time"));
        }
        if let Some(servers) = &self.servers
            && !servers.leads_there(connection, age).await?
        {
            return Err(RecycleError::message("another server is the primary now"));
        }
        Ok(())
    }
}

/// Whether a server may answer in a moment that does not now.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}
