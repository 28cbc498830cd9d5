//! Where exchanges are made, and with which connections.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy,
    client::legacy::connect::dns::GaiResolver,
    rt::{TokioExecutor, TokioTimer},
};
use qudao_egress::{Guard, Rules, SystemLookup};
use rustls::ClientConfig;
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

use super::connect::{Connector, Names, trust};

/// Makes exchanges with the connections that it keeps. It follows nothing, knows no proxy and repeats
/// what a server did not begin to read.
pub(super) type Client = legacy::Client<Connector, Full<Bytes>>;

/// Servers close idle connections after a minute or more; we close them before.
const POOL_IDLE: Duration = Duration::from_secs(45);
thread_local! {
    /// The runtime of this thread, where it is to make the exchanges that it asks for.
    pub(super) static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Has this thread make the exchanges of plugins in this process that it asks for by itself, in the
/// current runtime: its own, of one thread. Without that the runtime makes them in which the host was
/// started, and each call waits for two changes of threads.
///
/// # Panics
/// Outside of a runtime.
pub fn exchange_here() {
    HERE.set(Some(Handle::current()));
}

/// Does `work`, a call of a plugin, as if this thread had not said so: for calls that may outlive the
/// thread.
pub fn exchange_at_home<T>(work: impl FnOnce() -> T) -> T {
    struct Back(Option<Handle>);
    impl Drop for Back {
        fn drop(&mut self) {
            HERE.set(self.0.take());
        }
    }
    let _back = Back(HERE.take());
    work()
}

/// Where the exchanges of a process are made: its runtime and its connections.
pub(crate) struct Clients {
    /// For those who ask from a thread without sockets.
    pub(super) home: Home,
    pub(super) rules: Rules,
    /// One for all, as its bound is.
    lookup: Arc<SystemLookup>,
    trust: OnceLock<ClientConfig>,
    pools: Mutex<HashMap<Pool, Client>>,
}

pub(super) enum Home {
    Lent(Handle),
    /// Made when it is first needed.
    Own(OnceLock<Runtime>),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Pool {
    /// Of a runtime of one thread: its connections are served there, and a request of another
    /// thread's would have to change over. None for the others together.
    thread: Option<ThreadId>,
    public: bool,
    connect_ms: u32,
}

impl Clients {
    /// In the current runtime, if there is one; what is open to everybody is decided by `rules`.
    pub(crate) fn new(rules: Rules) -> Self {
        let home = Handle::try_current().map_or_else(|_| Home::Own(OnceLock::new()), Home::Lent);
        let (lookup, trust, pools) = (Arc::default(), OnceLock::new(), Mutex::default());
        Self { home, rules, lookup, trust, pools }
    }

    /// Where a task of this thread's is to run.
    pub(super) fn handle(&self) -> Result<Handle, std::io::Error> {
        if let Some(here) = HERE.with_borrow(Clone::clone) {
            return Ok(here);
        }
        match &self.home {
            Home::Lent(handle) => Ok(handle.clone()),
            Home::Own(own) => {
                if let Some(runtime) = own.get() {
                    return Ok(runtime.handle().clone());
                }
                let made = Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("plugin-net")
                    .enable_all()
                    .build()?;
                Ok(own.get_or_init(|| made).handle().clone())
            }
        }
    }

    /// The client whose connections are served by the thread that asks for it.
    ///
    /// # Errors
    /// When the system's certificates cannot be used.
    pub(super) fn client(&self, public: bool, connect_ms: u32) -> Result<Client, rustls::Error> {
        let alone = Handle::try_current()
            .is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::CurrentThread);
        let thread = alone.then(|| thread::current().id());
        // In whole seconds, or whoever reckons it anew each time would have a pool for each.
        let connect_ms = connect_ms.div_ceil(1000).saturating_mul(1000);
        let key = Pool { thread, public, connect_ms };
        let pools = || self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = pools().get(&key) {
            return Ok(client.clone());
        }
        // Not under the lock: it reads the system's certificates.
        let trust = match self.trust.get() {
            Some(trust) => trust.clone(),
            None => trust().map(|read| self.trust.get_or_init(|| read).clone())?,
        };
        let names = if public {
            Names::Guarded(Guard::new(&self.rules, Arc::<SystemLookup>::clone(&self.lookup)))
        } else {
            Names::System(GaiResolver::new())
        };
        let limit = Duration::from_millis(u64::from(connect_ms));
        let only_secured = public && self.rules.https_only();
        let connector = Connector::new(names, trust, limit, only_secured);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(connector);
        Ok(pools().entry(key).or_insert(client).clone())
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}
