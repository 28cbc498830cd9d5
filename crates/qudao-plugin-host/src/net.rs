//! HTTP exchanges and timers that the host makes for its plugins, on the thread that asked: a call
//! that comes in on a thread with sockets of its own never leaves it.
//!
//! An exchange is one task. It reads no further than the plugin asks, so that a slow reader slows the
//! provider down, and ends with the plugin's request at the latest.

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error as _,
    ffi::c_void,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use qudao_egress::{PublicUrl, Rules, SystemLookup};
use qudao_plugin_api::abi::{
    QD_E_BROKEN, QD_E_CANCELLED, QD_E_INVALID, QD_E_TIMEOUT, QD_E_UNREACHABLE, QD_HTTP_PUBLIC,
    QD_NET_BODY, QD_NET_END, QD_NET_ERROR, QD_NET_HEAD, QD_NET_TIMER, QD_OK, QdBytes, QdHeader,
    QdHttp, QdNet, QdNetEvent, SIZE_OF_HTTP, SIZE_OF_NET_EVENT,
};
use reqwest::{
    Client, Method, Request, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    runtime::{Builder, Handle, Runtime, RuntimeFlavor},
    sync::Notify,
    task::AbortHandle,
};

use crate::engine::Gate;

/// Servers close idle connections after a minute or more; we close them before.
const POOL_IDLE: Duration = Duration::from_secs(45);
/// More headers than any request has.
const HEADERS: u32 = 256;

thread_local! {
    /// The runtime of this thread, where it is to make the exchanges that it asks for.
    static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
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

/// Where the exchanges of a process are made: its runtime and its connections.
pub(crate) struct Clients {
    /// For those who ask from a thread without sockets.
    home: Home,
    rules: Rules,
    pools: Mutex<HashMap<Pool, Client>>,
}

enum Home {
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
        Self { home, rules, pools: Mutex::default() }
    }

    fn handle(&self) -> Result<Handle, std::io::Error> {
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
    fn client(&self, public: bool, connect_ms: u32) -> reqwest::Result<Client> {
        let alone = Handle::try_current()
            .is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::CurrentThread);
        let thread = alone.then(|| thread::current().id());
        let key = Pool { thread, public, connect_ms };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = pools.get(&key) {
            return Ok(client.clone());
        }
        let builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(60))
            .connect_timeout(Duration::from_millis(u64::from(connect_ms)))
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(usize::MAX)
            .user_agent(concat!("qudao/", env!("CARGO_PKG_VERSION")));
        let client = if public {
            qudao_egress::guard(builder, &self.rules, Arc::new(SystemLookup::default())).build()?
        } else {
            builder.build()?
        };
        pools.insert(key, client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

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
    exchange: Option<(AbortHandle, Arc<Notify>)>,
    timer: Option<AbortHandle>,
}

impl Line {
    fn end(self) {
        for task in self.exchange.map(|(task, _)| task).into_iter().chain(self.timer) {
            task.abort();
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

    /// Begins an exchange: a value of the ABI.
    ///
    /// # Safety
    /// `exchange` and what it points to are readable for the call.
    pub(crate) unsafe fn http(self: &Arc<Self>, id: u64, exchange: *const QdHttp) -> i32 {
        // SAFETY: the caller's promise.
        let read = unsafe { read_exchange(exchange) };
        let (Some(asked), Some(_)) = (read, self.plugin.get()) else { return QD_E_INVALID };
        let Asked { number, public, .. } = asked;
        if public && PublicUrl::parse(asked.request.url().as_str(), &self.clients.rules).is_err() {
            return QD_E_INVALID;
        }
        let Ok(handle) = self.clients.handle() else { return QD_E_CANCELLED };
        let wanted = Arc::new(Notify::new());
        let (net, want) = (Arc::clone(self), Arc::clone(&wanted));
        let task = handle.spawn(async move {
            let ending = Ending { net: &net, id, number, told: false };
            net.exchange(id, asked, &want).await;
            ending.told();
        });
        let mut lines = self.lines();
        let before = lines.entry(id).or_default().exchange.replace((task.abort_handle(), wanted));
        drop(lines);
        if let Some((before, _)) = before {
            before.abort();
        }
        QD_OK
    }

    /// The next part of the answer is wanted.
    pub(crate) fn http_read(&self, id: u64) {
        let lines = self.lines();
        let wanted = lines.get(&id).and_then(|line| line.exchange.as_ref());
        let wanted = wanted.map(|(_, wanted)| Arc::clone(wanted));
        drop(lines);
        if let Some(wanted) = wanted {
            wanted.notify_one();
        }
    }

    pub(crate) fn http_stop(&self, id: u64) {
        let exchange = self.lines().get_mut(&id).and_then(|line| line.exchange.take());
        if let Some((task, _)) = exchange {
            task.abort();
        }
    }

    /// Says so when the time is over.
    pub(crate) fn timer(self: &Arc<Self>, id: u64, ms: u64) {
        let Ok(handle) = self.clients.handle() else { return };
        let net = Arc::clone(self);
        let task = handle.spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            net.say(id, &event(QD_NET_TIMER, 0, &[]));
        });
        let before = self.lines().entry(id).or_default().timer.replace(task.abort_handle());
        if let Some(before) = before {
            before.abort();
        }
    }

    /// Tells the plugin, unless its instance is gone.
    fn say(&self, id: u64, event: &QdNetEvent) {
        let (Some(plugin), Some(_visit)) = (self.plugin.get(), self.gate.enter()) else { return };
        // SAFETY: the instance came from `create` and is not destroyed during a visit; the event
        // outlives the call.
        unsafe { (plugin.net)(plugin.instance, id, event) };
    }

    async fn exchange(&self, id: u64, asked: Asked, wanted: &Notify) {
        let Asked { number, connect_ms, public, request } = asked;
        let failed = |error: reqwest::Error| {
            let (code, message) = failure(error);
            let event = event(QD_NET_ERROR, number, message.as_bytes());
            self.say(id, &QdNetEvent { code, ..event });
        };
        let client = match self.clients.client(public, connect_ms) {
            Ok(client) => client,
            Err(error) => return failed(error),
        };
        let mut response = match client.execute(request).await {
            Ok(response) => response,
            Err(error) => return failed(error),
        };
        self.say_head(id, number, &response);
        loop {
            wanted.notified().await;
            match response.chunk().await {
                Ok(Some(bytes)) => self.say(id, &event(QD_NET_BODY, number, &bytes)),
                Ok(None) => return self.say(id, &event(QD_NET_END, number, &[])),
                Err(error) => return failed(error),
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

/// Tells the plugin that an exchange broke off when nothing else does: the thread that made it may
/// end before it.
struct Ending<'a> {
    net: &'a Net,
    id: u64,
    number: u32,
    told: bool,
}

impl Ending<'_> {
    fn told(mut self) {
        self.told = true;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !self.told {
            let event = event(QD_NET_ERROR, self.number, b"the exchange was broken off");
            self.net.say(self.id, &QdNetEvent { code: QD_E_BROKEN, ..event });
        }
    }
}

/// An exchange that a plugin asks for.
struct Asked {
    number: u32,
    connect_ms: u32,
    public: bool,
    request: Request,
}

/// # Safety
/// As [`Net::http`].
unsafe fn read_exchange(exchange: *const QdHttp) -> Option<Asked> {
    // SAFETY: the caller's promise.
    let exchange = unsafe { exchange.as_ref() }?;
    if exchange.struct_size < SIZE_OF_HTTP || HEADERS < exchange.header_count {
        return None;
    }
    // SAFETY: the caller's promise.
    let (method, url, body) =
        unsafe { (exchange.method.as_slice(), exchange.url.as_slice(), exchange.body.as_slice()) };
    let method = Method::from_bytes(method).ok()?;
    let url = Url::parse(std::str::from_utf8(url).ok()?).ok()?;
    let mut request = Request::new(method, url);
    // SAFETY: the caller's promise.
    *request.headers_mut() = unsafe { read_headers(exchange) }?;
    if !body.is_empty() {
        *request.body_mut() = Some(body.to_vec().into());
    }
    let public = exchange.flags & QD_HTTP_PUBLIC != 0;
    Some(Asked { number: exchange.number, connect_ms: exchange.connect_ms, public, request })
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
        _ => QD_E_BROKEN,
    };
    (code, message)
}

#[cfg(test)]
mod tests;
