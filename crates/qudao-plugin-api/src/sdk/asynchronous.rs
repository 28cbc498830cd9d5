//! The flavour for plugins that wait on the network: one tokio runtime per instance, one task
//! per request. A cancelled request's future is dropped.

use std::{
    collections::HashMap,
    ffi::c_void,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};

use super::{
    Completion, Host, LogLevel, OwnedRequest, PluginError,
    boundary::{catch, create, destroy, emit_error, fail, finish, parts, read_request},
};
use crate::{
    abi::{
        QD_ABI_MINOR, QD_E_AGAIN, QD_E_PANIC, QD_EF_REASONING, QD_EV_DATA, QD_EV_PROGRESS,
        QD_EV_TOKEN, QD_EV_USAGE, QD_OK, QdBytes, QdError, QdEvent, QdHostApi, QdPluginApi,
        QdRequest, SIZE_OF_PLUGIN_API,
    },
    wire::Usage,
};

/// Events of one batch: a part of the window, so that a reader who is a little behind does not
/// hold up the whole.
const BATCH_EVENTS_MAX: usize = 64;
/// How long `destroy` waits for tasks to stop.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A model behind asynchronous I/O.
pub trait AsyncModelPlugin: Send + Sync + Sized + 'static {
    /// Read from the instance's configuration.
    type Config: DeserializeOwned;

    /// Threads of the instance's runtime.
    #[must_use]
    fn worker_threads(_config: &Self::Config) -> usize {
        1
    }

    /// Starts the instance, inside its runtime.
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

#[derive(Debug, Default)]
struct Signals {
    credit: Notify,
    cancel: Notify,
}

/// One piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text of the answer.
    Text(&'a str),
    /// Text of the model's reasoning.
    Reasoning(&'a str),
    /// A delta, as JSON.
    Json(&'a str),
}

impl<'a> Piece<'a> {
    /// Cut to what one event may hold.
    fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (text, json, flags) = match *self {
            Self::Text(text) => (text, None, 0),
            Self::Reasoning(text) => (text, None, QD_EF_REASONING),
            Self::Json(json) => ("", Some(json), 0),
        };
        let token = move |text| Part { kind: QD_EV_TOKEN, flags, text };
        let data = |text| Part { kind: QD_EV_DATA, flags: 0, text };
        parts(text).map(token).chain(json.map(data))
    }
}

/// What becomes one event. Unlike an event it holds no pointers and may live across a wait.
struct Part<'a> {
    kind: u16,
    flags: u16,
    text: &'a str,
}

impl Part<'_> {
    const fn event(&self) -> QdEvent {
        QdEvent { flags: self.flags, ..QdEvent::new(self.kind, self.text.as_bytes()) }
    }
}

/// Where an asynchronous plugin writes its answer. Waits for credit when the reader is slow.
#[derive(Debug)]
pub struct AsyncSink {
    host: Host,
    id: u64,
    signals: Arc<Signals>,
    trace: String,
}

impl AsyncSink {
    /// Writes a line about this request to the host's log, which puts the id of its trace to it.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.host.log_about(&self.trace, level, message);
    }

    /// Streams text of the answer.
    ///
    /// # Errors
    /// When the caller is gone: return it with `?`.
    pub async fn token(&self, text: &str) -> Result<(), PluginError> {
        self.text(text, 0).await
    }

    /// Streams text of the model's reasoning.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn reasoning(&self, text: &str) -> Result<(), PluginError> {
        self.text(text, QD_EF_REASONING).await
    }

    async fn text(&self, text: &str, flags: u16) -> Result<(), PluginError> {
        for part in parts(text) {
            self.send(QD_EV_TOKEN, flags, part.as_bytes()).await?;
        }
        Ok(())
    }

    /// Streams a JSON delta.
    ///
    /// # Errors
    /// As [`AsyncSink::token`], or when `value` does not serialise.
    pub async fn data<T: Serialize + Sync>(&self, value: &T) -> Result<(), PluginError> {
        let json = serde_json::to_vec(value).map_err(|e| PluginError::internal(e.to_string()))?;
        self.send(QD_EV_DATA, 0, &json).await
    }

    /// Reports usage early; the usage of the [`Completion`] comes last and wins.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn usage(&self, usage: Usage) -> Result<(), PluginError> {
        let json = serde_json::to_vec(&usage).map_err(|e| PluginError::internal(e.to_string()))?;
        self.send(QD_EV_USAGE, 0, &json).await
    }

    /// A line for the operator.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn progress(&self, note: &str) -> Result<(), PluginError> {
        self.send(QD_EV_PROGRESS, 0, note.as_bytes()).await
    }

    /// Streams several pieces with as few crossings of the boundary as the reader's credit
    /// allows: what one network read brought costs one.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PluginError> {
        let parts: Vec<_> = pieces.iter().flat_map(Piece::parts).collect();
        let mut rest = parts.as_slice();
        while !rest.is_empty() {
            match self.emit_some(rest) {
                Ok(0) => self.signals.credit.notified().await,
                Ok(taken) => rest = &rest[taken..],
                Err(code) => return Err(emit_error(code)),
            }
        }
        Ok(())
    }

    /// How many of `parts` were taken; 0 when there is no credit.
    fn emit_some(&self, parts: &[Part<'_>]) -> Result<usize, i32> {
        let parts = parts.iter().take(BATCH_EVENTS_MAX);
        let events: Vec<_> = parts.map(Part::event).collect();
        let mut count = events.len();
        while 0 < count {
            match self.host.emit(self.id, &events[..count]) {
                QD_E_AGAIN => count /= 2,
                code if code < 0 => return Err(code),
                _ => break,
            }
        }
        Ok(count)
    }

    async fn send(&self, kind: u16, flags: u16, data: &[u8]) -> Result<(), PluginError> {
        loop {
            // The event holds pointers and is not `Send`: it may not live across the wait.
            let code = self.host.emit(self.id, &[QdEvent { flags, ..QdEvent::new(kind, data) }]);
            match code {
                QD_E_AGAIN => self.signals.credit.notified().await,
                code if code < 0 => return Err(emit_error(code)),
                _ => return Ok(()),
            }
        }
    }
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
    // Dropped first: its tasks use `inner` and, through it, the host.
    runtime: Option<Runtime>,
    inner: Arc<Inner<P>>,
}

impl<P> Drop for Instance<P> {
    fn drop(&mut self) {
        for signals in lock(&self.inner.flights).values() {
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
        let runtime = Builder::new_multi_thread()
            .worker_threads(P::worker_threads(&config).max(1))
            .thread_name("plugin-async")
            .enable_all()
            .build()
            .map_err(|e| PluginError::internal(format!("starting the runtime: {e}")))?;
        let plugin = {
            let _context = runtime.enter();
            P::create(host, config)?
        };
        let inner = Arc::new(Inner { host, plugin, flights: Mutex::default() });
        Ok(Self { runtime: Some(runtime), inner })
    }

    fn submit(&self, request: OwnedRequest) {
        let Some(runtime) = &self.runtime else { return };
        let (id, inner) = (request.id, Arc::clone(&self.inner));
        let signals = Arc::new(Signals::default());
        lock(&inner.flights).insert(id, Arc::clone(&signals));
        let ending = Ending { inner, id, outcome: None };
        runtime.handle().spawn(async move {
            let trace = request.trace.clone();
            let sink = AsyncSink { host: ending.inner.host, id, signals, trace };
            let outcome = tokio::select! {
                biased;
                () = sink.signals.cancel.notified() => Err(PluginError::cancelled()),
                outcome = ending.inner.plugin.run(request, &sink) => outcome,
            };
            ending.end(outcome);
        });
    }
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
    let signals = lock(&instance.inner.flights).get(&id).cloned();
    let _ = catch(|| signals.map(|signals| signals.cancel.notify_one()));
}

unsafe extern "C" fn resume_entry<P: AsyncModelPlugin>(instance: *mut c_void, id: u64, _: u32) {
    // SAFETY: what `create` made.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    let signals = lock(&instance.inner.flights).get(&id).cloned();
    let _ = catch(|| signals.map(|signals| signals.credit.notify_one()));
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
