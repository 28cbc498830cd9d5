//! The flavour for plugins that wait on the network: one future per request, on a tokio runtime of
//! the instance's or, without one, on the host's threads. A cancelled request's future is dropped.

use std::{
    collections::HashMap,
    ffi::c_void,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use self::{
    sink::{NO_NET, Signals},
    task::Task,
};
use super::{
    Completion, Host, OwnedRequest, PluginError, Table,
    boundary::{catch, create, destroy, fail, finish, read_request},
};
use crate::abi::{
    QD_ABI_MINOR, QD_E_PANIC, QD_OK, QdBytes, QdError, QdHostApi, QdNetEvent, QdPluginApi,
    QdRequest, SIZE_OF_PLUGIN_API,
};

mod net;
mod sink;
mod task;

pub use self::{
    net::{Answer, Elapsed, Net, NetError, Outgoing},
    sink::{AsyncSink, Piece},
};

/// How long `destroy` waits for tasks to stop.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A model behind asynchronous I/O.
pub trait AsyncModelPlugin: Send + Sync + Sized + 'static {
    /// Read from the instance's configuration.
    type Config: DeserializeOwned;

    /// Threads of the instance's runtime. With none the plugin has no runtime: its futures are polled
    /// by the host's threads and wait for nothing but the sink and its [`Net`]. A call costs no change
    /// of threads then. Needs a host of ABI 1.1.
    #[must_use]
    fn worker_threads(_config: &Self::Config) -> usize {
        1
    }

    /// Starts the instance, inside its runtime if it has one.
    ///
    /// # Errors
    /// Why it cannot start.
    fn create(host: Host, config: Self::Config) -> Result<Self, PluginError>;

    /// Answers one request into `sink`. Write it as an `async fn`.
    ///
    /// # Errors
    /// Becomes the ERROR event of the request. Errors of `sink` are passed on with `?`.
    fn run(
        &self,
        request: OwnedRequest,
        sink: &AsyncSink,
    ) -> impl Future<Output = Result<Completion, PluginError>> + Send;
}

type Flights = Mutex<HashMap<u64, Arc<Signals>>>;

struct Inner<P> {
    host: Host,
    plugin: P,
    flights: Flights,
}

fn lock(flights: &Flights) -> MutexGuard<'_, HashMap<u64, Arc<Signals>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Instance<P> {
    // Dropped first: its tasks use `inner` and, through it, the host. None where the host's threads
    // do the work.
    runtime: Option<Runtime>,
    inner: Arc<Inner<P>>,
}

impl<P> Drop for Instance<P> {
    fn drop(&mut self) {
        // Not under the lock: without a runtime they end right here.
        let flights: Vec<_> = lock(&self.inner.flights).values().cloned().collect();
        for signals in flights {
            signals.cancel.notify_one();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(SHUTDOWN);
        }
    }
}

/// Ends the request whatever happens to its task, a panic included.
struct Ending<P: AsyncModelPlugin> {
    inner: Arc<Inner<P>>,
    id: u64,
    outcome: Option<Result<Completion, PluginError>>,
}

impl<P: AsyncModelPlugin> Ending<P> {
    fn end(mut self, outcome: Result<Completion, PluginError>) {
        self.outcome = Some(outcome);
    }
}

impl<P: AsyncModelPlugin> Drop for Ending<P> {
    fn drop(&mut self) {
        lock(&self.inner.flights).remove(&self.id);
        let outcome = self
            .outcome
            .take()
            .unwrap_or_else(|| Err(PluginError::internal("the plugin panicked or was stopped")));
        finish(&self.inner.host, self.id, &outcome);
    }
}

impl<P: AsyncModelPlugin> Instance<P> {
    fn create(host: Host, config: P::Config) -> Result<Self, PluginError> {
        let runtime = match P::worker_threads(&config) {
            0 if host.has_net() => None,
            0 => return Err(PluginError::internal(NO_NET)),
            threads => Some(
                Builder::new_multi_thread()
                    .worker_threads(threads)
                    .thread_name("plugin-async")
                    .enable_all()
                    .build()
                    .map_err(|e| PluginError::internal(format!("starting the runtime: {e}")))?,
            ),
        };
        let plugin = {
            let _context = runtime.as_ref().map(Runtime::enter);
            P::create(host, config)?
        };
        let inner = Arc::new(Inner { host, plugin, flights: Mutex::default() });
        Ok(Self { runtime, inner })
    }

    fn submit(&self, request: OwnedRequest) {
        let (id, inner) = (request.id, Arc::clone(&self.inner));
        let signals = Arc::new(Signals::default());
        lock(&inner.flights).insert(id, Arc::clone(&signals));
        let ending = Ending { inner, id, outcome: None };
        let work = async move {
            let trace = request.trace.clone();
            let sink = AsyncSink { host: ending.inner.host, id, signals, trace };
            let outcome = tokio::select! {
                biased;
                () = sink.signals.cancel.notified() => Err(PluginError::cancelled()),
                outcome = ending.inner.plugin.run(request, &sink) => outcome,
            };
            ending.end(outcome);
        };
        match &self.runtime {
            Some(runtime) => drop(runtime.handle().spawn(work)),
            None => Task::start(work),
        }
    }

    fn signals(&self, id: u64) -> Option<Arc<Signals>> {
        lock(&self.inner.flights).get(&id).cloned()
    }
}

/// The table of `P`, for a host in the same process.
#[must_use]
pub fn table<P: AsyncModelPlugin>() -> Table {
    Table(api::<P>())
}

/// The table of functions of `P`.
#[must_use]
pub fn api<P: AsyncModelPlugin>() -> &'static QdPluginApi {
    const {
        &QdPluginApi {
            struct_size: SIZE_OF_PLUGIN_API,
            abi_minor: QD_ABI_MINOR as u32,
            create: Some(create_entry::<P>),
            destroy: Some(destroy::<Instance<P>>),
            run: None,
            submit: Some(submit_entry::<P>),
            cancel: Some(cancel_entry::<P>),
            resume: Some(resume_entry::<P>),
            drain: None,
            net: Some(net_entry::<P>),
        }
    }
}

unsafe extern "C" fn create_entry<P: AsyncModelPlugin>(
    host: *const QdHostApi,
    config: QdBytes,
    instance: *mut *mut c_void,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the host's arguments are passed on as they came.
    unsafe { create(host, config, instance, error, Instance::<P>::create) }
}

unsafe extern "C" fn submit_entry<P: AsyncModelPlugin>(
    instance: *mut c_void,
    request: *const QdRequest,
    error: *mut QdError,
) -> i32 {
    // SAFETY: what `create` made, shared between threads: `P` is `Sync`.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    // SAFETY: the request is valid for the call and copied before it returns.
    match catch(|| instance.submit(unsafe { read_request(request) }.to_owned())) {
        Ok(()) => QD_OK,
        // SAFETY: the host's out parameter.
        Err(message) => unsafe { fail(error, QD_E_PANIC, &message) },
    }
}

unsafe extern "C" fn cancel_entry<P: AsyncModelPlugin>(instance: *mut c_void, id: u64) {
    // SAFETY: what `create` made.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    let _ = catch(|| instance.signals(id).map(|signals| signals.cancel.notify_one()));
}

unsafe extern "C" fn resume_entry<P: AsyncModelPlugin>(instance: *mut c_void, id: u64, _: u32) {
    // SAFETY: what `create` made.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    let _ = catch(|| instance.signals(id).map(|signals| signals.credit.notify_one()));
}

unsafe extern "C" fn net_entry<P: AsyncModelPlugin>(
    instance: *mut c_void,
    id: u64,
    event: *const QdNetEvent,
) {
    // SAFETY: what `create` made.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    // SAFETY: the event is valid for the call.
    let _ = catch(|| instance.signals(id).map(|signals| unsafe { signals.inbox.take(event) }));
}

/// Exports an [`AsyncModelPlugin`] as the plugin of this library.
#[macro_export]
macro_rules! export_async_plugin {
    ($plugin:ty) => {
        $crate::export_symbols!(
            $crate::sdk::asynchronous::api::<$plugin>(),
            $crate::abi::QD_F_ASYNC
        );
    };
}

#[cfg(test)]
mod tests;
