//! HTTP exchanges and timers that the host makes for its plugins. Where a thread of this process has
//! said so ([`exchange_here`]) it makes those that it asks for by itself, and a call that came in on it
//! never leaves it; the others are made by the runtime in which the host was started.
//!
//! An exchange is one task. It reads no further than the plugin asks, so that a slow reader slows the
//! provider down, and ends when the host has heard the request's end or given it up.

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error as _,
    ffi::c_void,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qudao_egress::PublicUrl;
use qudao_plugin_api::abi::{
    QD_E_BROKEN, QD_E_CANCELLED, QD_E_INTERNAL, QD_E_INVALID, QD_E_STALLED, QD_E_TIMEOUT,
    QD_E_UNREACHABLE, QD_HTTP_PUBLIC, QD_NET_BODY, QD_NET_END, QD_NET_ERROR, QD_NET_HEAD,
    QD_NET_TIMER, QD_OK, QdBytes, QdHeader, QdHttp, QdNet, QdNetEvent, SIZE_OF_HTTP,
    SIZE_OF_NET_EVENT,
};
use reqwest::{
    Method, Request, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::engine::Gate;

mod clients;

pub(crate) use clients::Clients;
use clients::HERE;
pub use clients::{exchange_at_home, exchange_here};

/// More headers than any request has.
const HEADERS: u32 = 256;

/// The exchanges and timers of one instance.
pub(crate) struct Net {
    clients: Arc<Clients>,
    gate: Arc<Gate>,
    plugin: OnceLock<Plugin>,
    /// Of the requests that have any.
    lines: Mutex<HashMap<u64, Line>>,
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

    fn lines(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
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
        if public && PublicUrl::parse(asked.request.url().as_str(), &self.clients.rules).is_err() {
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
        let failed = |error: reqwest::Error| {
            let (code, message) = failure(error);
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
        let mut response = match timeout_at(until, client.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failed(error),
            Err(_) => return stalled(),
        };
        self.say_head(id, number, &response);
        loop {
            wanted.notified().await;
            let now = Instant::now();
            let until = limits.until(begun, now, limits.idle);
            // A sender who never pauses is not waited for either.
            if until <= now {
                return stalled();
            }
            match timeout_at(until, response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.say(id, &event(QD_NET_BODY, number, &bytes)),
                Ok(Ok(None)) => return self.say(id, &event(QD_NET_END, number, &[])),
                Ok(Err(error)) => return failed(error),
                Err(_) => return stalled(),
            }
        }
    }

    fn say_head(&self, id: u64, number: u32, response: &Response) {
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

/// An exchange that a plugin asks for.
struct Asked {
    number: u32,
    connect_ms: u32,
    public: bool,
    limits: Limits,
    request: Request,
}

/// How long it may take; what may take as long as it does has no end in sight.
struct Limits {
    head: Duration,
    idle: Duration,
    total: Duration,
}

impl Limits {
    fn until(&self, begun: Instant, now: Instant, limit: Duration) -> Instant {
        (now + limit).min(begun + self.total)
    }
}

/// Longer than anybody waits.
const NO_END: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn limit(ms: u32) -> Duration {
    if ms == 0 { NO_END } else { Duration::from_millis(u64::from(ms)) }
}

/// # Safety
/// As [`Net::http`].
unsafe fn read_exchange(exchange: *const QdHttp) -> Option<Asked> {
    // SAFETY: the caller's promise; the first field is always there.
    if exchange.is_null() || unsafe { exchange.cast::<u32>().read() } < SIZE_OF_HTTP {
        return None;
    }
    // SAFETY: it is as large as it says.
    let exchange = unsafe { &*exchange };
    if HEADERS < exchange.header_count {
        return None;
    }
    // SAFETY: the caller's promise.
    let (method, url, body) =
        unsafe { (exchange.method.as_slice(), exchange.url.as_slice(), exchange.body.as_slice()) };
    let method = Method::from_bytes(method).ok()?;
    let url = read_url(std::str::from_utf8(url).ok()?)?;
    let mut request = Request::new(method, url);
    // SAFETY: the caller's promise.
    *request.headers_mut() = unsafe { read_headers(exchange) }?;
    if !body.is_empty() {
        *request.body_mut() = Some(body.to_vec().into());
    }
    let public = exchange.flags & QD_HTTP_PUBLIC != 0;
    let limits = Limits {
        head: limit(exchange.head_ms),
        idle: limit(exchange.idle_ms),
        total: limit(exchange.total_ms),
    };
    let QdHttp { number, connect_ms, .. } = *exchange;
    Some(Asked { number, connect_ms, public, limits, request })
}

/// Mostly it is that of the exchange before.
fn read_url(text: &str) -> Option<Url> {
    thread_local! {
        static LAST: RefCell<Option<Url>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|last| last.as_str() != text) {
            *last = Some(Url::parse(text).ok()?);
        }
        last.clone()
    })
}

/// # Safety
/// As [`Net::http`].
unsafe fn read_headers(exchange: &QdHttp) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if exchange.header_count == 0 {
        return Some(headers);
    }
    if exchange.headers.is_null() {
        return None;
    }
    let count = usize::try_from(exchange.header_count).ok()?;
    // SAFETY: the caller's promise.
    for header in unsafe { std::slice::from_raw_parts(exchange.headers, count) } {
        // SAFETY: the caller's promise.
        let (name, value) = unsafe { (header.name.as_slice(), header.value.as_slice()) };
        let mut value = HeaderValue::from_bytes(value).ok()?;
        // Most of them are keys.
        value.set_sensitive(true);
        headers.append(HeaderName::from_bytes(name).ok()?, value);
    }
    Some(headers)
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

/// What went wrong, without the address: it may name an internal host.
fn failure(error: reqwest::Error) -> (i32, String) {
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    let code = match (error.is_builder(), error.is_connect(), error.is_timeout()) {
        (true, ..) => QD_E_INVALID,
        (_, true, true) => QD_E_TIMEOUT,
        (_, true, false) => QD_E_UNREACHABLE,
        (_, false, true) => QD_E_STALLED,
        _ => QD_E_BROKEN,
    };
    (code, message)
}

#[cfg(test)]
mod tests;
