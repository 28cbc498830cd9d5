//! Connections for single statements, each of which is a transaction of its own: none is ever begun
//! here, so that none can be left open.
//!
//! sqlx's pool asks a connection for a sign of life whenever it comes back, in a task of its own, and
//! lends the one that has rested the longest. For statements that take a fraction of a millisecond
//! both cost as much as what they are for. Here a connection comes back only if its statement was
//! done or refused, and the one that came back last, whose server process is awake and has everything
//! at hand, is lent first.
//!
//! An answer is heard by the runtime in which its connection was opened. A thread with a runtime of its
//! own that said so ([`connect_here`]) has a few connections for what a call on it waits for, and is not
//! woken by another.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use deadpool::{
    Status,
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
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::context::TokioContext;

use crate::{Result, StorageError, servers::Servers};

/// The few functions that are called on these connections take the same plans whatever the arguments;
/// to make them anew each time is a third of what a settlement costs.
const GENERIC_PLANS: [(&str, &str); 1] = [("plan_cache_mode", "force_generic_plan")];
/// A connection is closed at this age: a server process keeps what it has once read.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// One that nobody needed for so long is closed too: on some ways a silent connection is dropped
/// without a word.
const IDLE: Duration = Duration::from_secs(3 * 60);
/// For a connection that is free: nobody waits for one of a thread's own.
const AT_ONCE: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
/// The longest wait before a server that does not listen is asked again.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

thread_local! {
    /// The runtime of this thread, where its own connections are to be served.
    static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Has settlements that are made on this thread use connections of its own, as long as some are free, which
/// the current runtime serves: this thread's, of one thread.
///
/// # Panics
/// Outside of a runtime.
pub fn connect_here() {
    HERE.set(Some(Handle::current()));
}

/// Some connections with one role. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Statements(Arc<Inner>);

struct Inner {
    /// For everybody, in the runtime in which this was made.
    shared: Pool<Opener>,
    /// Those of threads.
    own: Mutex<HashMap<ThreadId, Pool<Opener>>>,
    closed: AtomicBool,
    kind: Kind,
    bounds: Bounds,
}

/// How large a set of connections is, and how long one waits for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The most connections for everybody.
    pub(crate) connections: u32,
    /// The most that a thread has for itself.
    pub(crate) own: u32,
    /// How long one waits for a connection, be it free, found dead or opened.
    pub(crate) acquire: Duration,
    /// How long a statement may take, seen from here.
    pub(crate) statement: Duration,
}

impl Statements {
    /// Opens none yet. A connection begins with the statement `role`. Where several `servers` are
    /// known, only those on the one that accepts writes are used.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(crate) fn new(
        options: &PgConnectOptions,
        role: &'static str,
        bounds: Bounds,
        servers: Option<Servers>,
    ) -> Result<Self> {
        let options = Arc::new(RwLock::new(generic(options)));
        let kind = Kind { role, options, servers };
        let shared = kind.pool(Handle::current(), bounds.connections, true)?;
        let (own, closed) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { shared, own, closed, kind, bounds })))
    }

    /// Connections from now on are opened like this; those that rest are closed.
    pub(crate) fn set_options(&self, options: &PgConnectOptions) {
        let known = &self.0.kind.options;
        *known.write().unwrap_or_else(PoisonError::into_inner) = generic(options);
        for pool in self.pools() {
            pool.retain(|_, _| false);
        }
    }

    /// Closes what has rested for too long.
    pub(crate) fn close_idle(&self) {
        for pool in self.pools() {
            pool.retain(|_, metrics| !is_stale(&metrics));
        }
    }

    /// The rows of a statement that is safe to repeat. It is made anew for each try: after a restart
    /// of the server every idle connection is dead, and each is found out here, once.
    pub(crate) async fn rows<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        self.rows_by(None, statement).await
    }

    /// The same over a connection of this thread's own, if it has any to spare.
    pub(crate) async fn rows_here<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        self.rows_by(self.own(), statement).await
    }

    async fn rows_by<'q>(
        &self,
        own: Option<Pool<Opener>>,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let mut dead = self.0.shared.status().size;
        dead += own.as_ref().map_or(0, |own| own.status().size);
        loop {
            match self.rows_at_once(own.as_ref(), statement()).await {
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
        own: Option<&Pool<Opener>>,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let lent = timeout(self.0.bounds.acquire, self.lend(own)).await;
        let lent = lent.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|error| match error {
            PoolError::Backend(error) => error,
            _ => sqlx::Error::PoolClosed,
        })?;
        // It may have been opened meanwhile.
        if self.is_closed() {
            return Err(sqlx::Error::PoolClosed.into());
        }
        let mut lent = Lent { connection: Some(lent) };
        let Some(connection) = &mut lent.connection else {
            return Err(sqlx::Error::PoolClosed.into());
        };
        let Ok(outcome) =
            timeout(self.0.bounds.statement, statement.fetch_all(&mut **connection)).await
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

    /// One of `own` connections if one is free or can be opened, else one of everybody's.
    async fn lend(
        &self,
        own: Option<&Pool<Opener>>,
    ) -> std::result::Result<Object<Opener>, PoolError<sqlx::Error>> {
        if let Some(own) = own {
            // What cannot be opened in half the time leaves the other half.
            let lent = timeout(self.0.bounds.acquire / 2, own.timeout_get(&AT_ONCE)).await;
            if let Ok(Ok(lent)) = lent {
                return Ok(lent);
            }
        }
        self.0.shared.get().await
    }

    /// The connections of this thread, if it is to have some.
    fn own(&self) -> Option<Pool<Opener>> {
        let most = self.0.bounds.own;
        HERE.with_borrow(|here| {
            let here = here.as_ref().filter(|_| 0 < most)?;
            let (mut threads, thread) = (self.threads(), thread::current().id());
            if let Some(own) = threads.get(&thread) {
                return Some(own.clone());
            }
            // Under the lock: whoever closes all looks there next.
            let own =
                self.0.kind.pool(here.clone(), most, false).ok().filter(|_| !self.is_closed())?;
            threads.insert(thread, own.clone());
            Some(own)
        })
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    fn threads(&self) -> MutexGuard<'_, HashMap<ThreadId, Pool<Opener>>> {
        self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> Vec<Pool<Opener>> {
        let own: Vec<_> = self.threads().values().cloned().collect();
        own.into_iter().chain([self.0.shared.clone()]).collect()
    }

    /// Of everybody's connections: open, idle, and the most there may be. Who has none of their own waits
    /// for these.
    pub(crate) fn load(&self) -> (u32, u32, u32) {
        let Status { size, available, max_size, .. } = self.0.shared.status();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(size), number(available), number(max_size))
    }

    /// Waits until all connections are closed. Statements that have not begun yet fail.
    pub(crate) async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        for pool in self.pools() {
            let idle = pool.retain(|_, _| false).removed;
            pool.close();
            for connection in idle {
                // It is gone either way.
                let _ = connection.close().await;
            }
            while 0 < pool.status().size {
                sleep(Duration::from_millis(5)).await;
            }
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

/// What all connections have in common.
#[derive(Clone)]
struct Kind {
    role: &'static str,
    options: Arc<RwLock<PgConnectOptions>>,
    servers: Option<Servers>,
}

impl Kind {
    /// A set of `most` connections that this runtime serves. A `patient` one asks again while there is none
    /// to be had.
    fn pool(&self, runtime: Handle, most: u32, patient: bool) -> Result<Pool<Opener>> {
        let config = PoolConfig {
            max_size: usize::try_from(most).unwrap_or(usize::MAX),
            // One bound for all of it together is set where one waits.
            timeouts: Timeouts::new(),
            queue_mode: QueueMode::Lifo,
        };
        let pool =
            Pool::builder(Opener { kind: self.clone(), runtime, patient }).config(config).build();
        Ok(pool.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?)
    }
}

/// Opens the connections of one set.
struct Opener {
    kind: Kind,
    runtime: Handle,
    patient: bool,
}

impl Opener {
    /// A connection, or why there is none now and may be one soon.
    ///
    /// # Errors
    /// Why there will be none.
    async fn open(&self) -> sqlx::Result<sqlx::Result<PgConnection>> {
        let known = &self.kind.options;
        let options = known.read().unwrap_or_else(PoisonError::into_inner).clone();
        // That alone: what is timed stays with the runtime of whoever waits, which this one may not survive.
        let opening = TokioContext::new(PgConnection::connect_with(&options), self.runtime.clone());
        match opening.await {
            Ok(connection) => Ok(self.prepare(connection).await),
            Err(error) if is_starting(&error) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, mut connection: PgConnection) -> sqlx::Result<PgConnection> {
        if let Some(servers) = &self.kind.servers {
            servers.accepts_writes(&mut connection).await?;
        }
        connection.execute(self.kind.role).await?;
        Ok(connection)
    }
}

impl Manager for Opener {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// If it is patient, asks again while nobody listens, the server is starting or is not the primary, for
    /// as long as one waits for a connection.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        let mut backoff = Duration::from_millis(10);
        loop {
            // In its own place: a connection is mostly lent, and not opened.
            match Box::pin(self.open()).await? {
                Ok(connection) => return Ok(connection),
                Err(error) if !self.patient => return Err(error),
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
        if let Some(servers) = &self.kind.servers
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
