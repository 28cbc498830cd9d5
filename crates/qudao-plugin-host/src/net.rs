//! HTTP exchanges and timers that the host makes for its plugins. Where a thread of this process has
//! said so ([`exchange_here`]) it makes those that it asks for by itself, and a call that came in on it
//! never leaves it; the others are made by the runtime in which the host was started.
//!
//! An exchange is one task. It reads no further than the plugin asks, so that a slow reader slows the
//! provider down, and ends when the host has heard the request's end or given it up.

use std::{
    cell::RefCell,
    error::Error,
    ffi::c_void,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use qudao_egress::PublicUrl;
use qudao_plugin_api::abi::{
    QD_E_BROKEN, QD_E_CANCELLED, QD_E_INTERNAL, QD_E_INVALID, QD_E_STALLED, QD_E_TIMEOUT,
    QD_E_UNREACHABLE, QD_NET_BODY, QD_NET_END, QD_NET_ERROR, QD_NET_HEAD, QD_NET_TIMER, QD_OK,
    QdBytes, QdHeader, QdHttp, QdNet, QdNetEvent, SIZE_OF_NET_EVENT,
};
use rustc_hash::FxHashMap;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::engine::Gate;

mod asked;
mod clients;
mod connect;

use asked::{Asked, read_exchange};

pub(crate) use clients::Clients;
use clients::HERE;
pub use clients::{exchange_at_home, exchange_here};

/// The exchanges and timers of one instance.
pub(crate) struct Net {
    clients: Arc<Clients>,
    gate: Arc<Gate>,
    plugin: OnceLock<Plugin>,
    /// Of the requests that have any.
    lines: Mutex<FxHashMap<u64, Line>>,
}

/// Where events go.
#[derive(Clone, Copy)]
struct Plugin {
    net: QdNet,
    instance: *mut c_void,
}

// SAFETY: the ABI has every function of the table callable from any thread.
unsafe impl Send for Plugin {}
// SAFETY: as above, and at the same time.
unsafe impl Sync for Plugin {}

#[derive(Default)]
struct Line {
    exchange: Option<Arc<Work>>,
    timer: Option<Arc<Work>>,
}

/// What a task does for a request.
#[derive(Default)]
struct Work {
    /// The next part of the body.
    wanted: Notify,
    /// It is not wanted any more: nothing is said of it.
    ended: AtomicBool,
    /// Nothing is said if it breaks off: the process ends.
    silent: AtomicBool,
    task: OnceLock<AbortHandle>,
}

impl Work {
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Its task; which may be unwanted already.
    fn runs_as(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        if self.ended.load(Ordering::SeqCst) {
            self.end();
        }
    }
}

impl Line {
    fn end(self) {
        for work in self.exchange.into_iter().chain(self.timer) {
            work.end();
        }
    }
}

impl Net {
    pub(crate) fn new(clients: Arc<Clients>, gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(Self { clients, gate, plugin: OnceLock::new(), lines: Mutex::default() })
    }

    /// From now on events have somewhere to go.
    pub(crate) fn connect(&self, net: Option<QdNet>, instance: *mut c_void) {
        if let Some(net) = net {
            let _ = self.plugin.set(Plugin { net, instance });
        }
    }

    fn lines(&self) -> MutexGuard<'_, FxHashMap<u64, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is over: whatever it has under way ends.
    pub(crate) fn end(&self, id: u64) {
        let line = self.lines().remove(&id);
        if let Some(line) = line {
            line.end();
        }
    }

    /// No request goes on.
    pub(crate) fn end_all(&self) {
        let lines = std::mem::take(&mut *self.lines());
        lines.into_values().for_each(Line::end);
    }

    /// Begins an exchange, if the request `is_open`: a value of the ABI.
    ///
    /// # Safety
    /// `exchange` and what it points to are readable for the call.
    pub(crate) unsafe fn http(
        self: &Arc<Self>,
        id: u64,
        exchange: *const QdHttp,
        is_open: impl FnOnce() -> bool,
    ) -> i32 {
        // SAFETY: the caller's promise.
        let read = unsafe { read_exchange(exchange) };
        let (Some(asked), Some(_)) = (read, self.plugin.get()) else { return QD_E_INVALID };
        let Asked { number, public, .. } = asked;
        if public
            && PublicUrl::parse(&asked.request.uri().to_string(), &self.clients.rules).is_err()
        {
            return QD_E_INVALID;
        }
        let Ok(handle) = self.clients.handle() else { return QD_E_INTERNAL };
        let Some(work) = self.place(id, is_open, |line| &mut line.exchange) else {
            return QD_E_CANCELLED;
        };
        let last = QdNetEvent { code: QD_E_BROKEN, ..event(QD_NET_ERROR, number, BROKEN_OFF) };
        let guard = Guard::new(self, id, &work, last);
        let task = handle.spawn(async move {
            guard.net.exchange(id, asked, &guard.work.wanted).await;
            guard.was_told();
        });
        work.runs_as(task.abort_handle());
        QD_OK
    }

    /// Something new for a request, in the place of what was there before. It can be ended from now on.
    fn place(
        &self,
        id: u64,
        is_open: impl FnOnce() -> bool,
        at: impl FnOnce(&mut Line) -> &mut Option<Arc<Work>>,
    ) -> Option<Arc<Work>> {
        let work = Arc::new(Work::default());
        let mut lines = self.lines();
        // Under the lock: its end would find nothing to end.
        if self.gate.is_shut() || !is_open() {
            return None;
        }
        let before = at(lines.entry(id).or_default()).replace(Arc::clone(&work));
        drop(lines);
        if let Some(before) = before {
            before.end();
        }
        Some(work)
    }

    /// The next part of the answer is wanted.
    pub(crate) fn http_read(&self, id: u64) {
        let exchange = self.lines().get(&id).and_then(|line| line.exchange.clone());
        if let Some(work) = exchange {
            work.wanted.notify_one();
        }
    }

    pub(crate) fn http_stop(&self, id: u64) {
        let exchange = self.lines().get_mut(&id).and_then(|line| line.exchange.take());
        if let Some(work) = exchange {
            work.end();
        }
    }

    /// Says so when the time is over, if the request `is_open`.
    pub(crate) fn timer(self: &Arc<Self>, id: u64, ms: u64, is_open: impl FnOnce() -> bool) {
        let Ok(handle) = self.clients.handle() else { return };
        let Some(work) = self.place(id, is_open, |line| &mut line.timer) else { return };
        // One that comes too early asks again: elsewhere, unless this was elsewhere already.
        work.silent.store(HERE.with_borrow(Option::is_none), Ordering::SeqCst);
        let guard = Guard::new(self, id, &work, event(QD_NET_TIMER, 0, &[]));
        let task = handle.spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            guard.net.say(id, &guard.last.0);
            guard.was_told();
        });
        work.runs_as(task.abort_handle());
    }

    /// Tells the plugin, unless its instance is gone.
    fn say(&self, id: u64, event: &QdNetEvent) {
        let (Some(plugin), Some(_visit)) = (self.plugin.get(), self.gate.enter()) else { return };
        // SAFETY: the instance came from `create` and is not destroyed during a visit; the event
        // outlives the call.
        unsafe { (plugin.net)(plugin.instance, id, event) };
    }

    async fn exchange(&self, id: u64, asked: Asked, wanted: &Notify) {
        let Asked { number, connect_ms, public, limits, request } = asked;
        let begun = Instant::now();
        let stalled = || {
            let event = event(QD_NET_ERROR, number, b"nothing came in time");
            self.say(id, &QdNetEvent { code: QD_E_STALLED, ..event });
        };
        let failed = |(code, message): (i32, String)| {
            let event = event(QD_NET_ERROR, number, message.as_bytes());
            self.say(id, &QdNetEvent { code, ..event });
        };
        let client = match self.clients.client(public, connect_ms) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "exchanges of plugins cannot be made");
                let event = event(QD_NET_ERROR, number, b"the host has no HTTP client");
                return self.say(id, &QdNetEvent { code: QD_E_INTERNAL, ..event });
            }
        };
        let until = limits.until(begun, begun, limits.head);
        let response = match timeout_at(until, client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failed(unsent(&error)),
            Err(_) => return stalled(),
        };
        self.say_head(id, number, &response);
        let mut body = response.into_body();
        loop {
            wanted.notified().await;
            let now = Instant::now();
            let until = limits.until(begun, now, limits.idle);
            // A sender who never pauses is not waited for either.
            if until <= now {
                return stalled();
            }
            match timeout_at(until, next_part(&mut body)).await {
                Ok(Some(Ok(bytes))) => self.say(id, &event(QD_NET_BODY, number, &bytes)),
                Ok(None) => return self.say(id, &event(QD_NET_END, number, &[])),
                Ok(Some(Err(error))) => return failed(broken(&error)),
                Err(_) => return stalled(),
            }
        }
    }

    fn say_head(&self, id: u64, number: u32, response: &Response<Incoming>) {
        let header = |(name, value): (&HeaderName, &HeaderValue)| QdHeader {
            name: QdBytes::new(name.as_str().as_bytes()),
            value: QdBytes::new(value.as_bytes()),
        };
        let headers: Vec<_> = response.headers().iter().map(header).collect();
        let event = QdNetEvent {
            status: response.status().as_u16(),
            headers: headers.as_ptr(),
            header_count: u32::try_from(headers.len()).unwrap_or(0),
            ..event(QD_NET_HEAD, number, &[])
        };
        self.say(id, &event);
    }
}

/// What comes next of a body; trailers are no part of it.
async fn next_part(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await?.map(http_body::Frame::into_data) {
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            Ok(Err(_trailers)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

const BROKEN_OFF: &[u8] = b"the exchange was broken off";

/// Tells the plugin when a task ends without having done so: the thread that runs it may end before
/// it, or even before it began.
struct Guard {
    net: Arc<Net>,
    id: u64,
    work: Arc<Work>,
    last: Last,
    told: bool,
}

/// What it is told. Points to what is static.
struct Last(QdNetEvent);

// SAFETY: the pointers of such an event are null or lead to static bytes.
unsafe impl Send for Last {}

impl Guard {
    fn new(net: &Arc<Net>, id: u64, work: &Arc<Work>, last: QdNetEvent) -> Self {
        Self { net: Arc::clone(net), id, work: Arc::clone(work), last: Last(last), told: false }
    }

    fn was_told(mut self) {
        self.told = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let said = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if !(self.told || said(&self.work.ended) || said(&self.work.silent)) {
            // What the plugin asks for next must not go the same way.
            let _ = HERE.try_with(RefCell::take);
            self.net.say(self.id, &self.last.0);
        }
    }
}

const fn event(kind: u16, number: u32, data: &[u8]) -> QdNetEvent {
    QdNetEvent {
        struct_size: SIZE_OF_NET_EVENT,
        kind,
        status: 0,
        number,
        code: QD_OK,
        headers: std::ptr::null(),
        header_count: 0,
        reserved: 0,
        data: QdBytes::new(data),
    }
}

/// Why a request was not answered, as a code and in words.
fn unsent(error: &legacy::Error) -> (i32, String) {
    match error.is_connect() {
        true if is_timeout(error) => (QD_E_TIMEOUT, causes(error)),
        true => (QD_E_UNREACHABLE, causes(error)),
        false => broken(error),
    }
}

/// Why what had begun did not come to its end.
fn broken(error: &(dyn Error + 'static)) -> (i32, String) {
    (if is_timeout(error) { QD_E_STALLED } else { QD_E_BROKEN }, causes(error))
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    chain(error).any(|error| error.downcast_ref().is_some_and(late))
}

/// An error and what led to it, without the address: it may name an internal host. (The names in a
/// certificate that is another's are told: without them nobody could mend it.)
fn causes(error: &(dyn Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests;
