//! A created plugin instance and the callbacks it is given; the same in the child and in-process.

use std::{
    collections::VecDeque,
    ffi::c_void,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ptr,
    sync::{
        Arc, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use qudao_plugin_api::abi::{
    QD_ABI_MINOR, QD_E_AGAIN, QD_E_CANCELLED, QD_E_INTERNAL, QD_E_INVALID, QD_EV_END, QD_EV_ERROR,
    QD_EV_TOKEN, QD_EVENT_BYTES_MAX, QdBytes, QdError, QdEvent, QdHostApi, QdHttp, QdPluginApi,
    QdRequest, SIZE_OF_EVENT, SIZE_OF_HOST_API, SIZE_OF_REQUEST,
};

use crate::{
    credit::Credit,
    net::{Clients, Net},
};

/// An event whose pointers and kind were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) token_id: u32,
    pub(crate) logprob: f32,
    pub(crate) code: i32,
    pub(crate) data: &'a [u8],
    pub(crate) extra: &'a [u8],
}

impl Incoming<'_> {
    pub(crate) const fn is_last(&self) -> bool {
        self.kind == QD_EV_END || self.kind == QD_EV_ERROR
    }

    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if !(QD_EV_TOKEN..=QD_EV_ERROR).contains(&self.kind) {
            return Some("an event of unknown kind");
        }
        if QD_EVENT_BYTES_MAX < self.data.len() + self.extra.len() {
            return Some("an event that is too large");
        }
        std::str::from_utf8(self.data).is_err().then_some("an event that is not UTF-8")
    }
}

/// Where the events of an instance go.
pub(crate) trait Outlet: Send + Sync + 'static {
    fn log(&self, level: u32, target: &[u8], message: &str);
    /// The return value is that of the ABI's `emit`.
    fn events(&self, id: u64, events: &[Incoming<'_>]) -> i32;
    /// Ends a request that broke the rules, if it is still open.
    fn violation(&self, id: u64, reason: &str);
    fn wait_credit(&self, id: u64, timeout: Duration) -> i32;
    /// Whether a request is under way.
    fn is_open(&self, id: u64) -> bool;
    /// Ends a request whose plugin returned, if it is still open.
    fn returned(&self, id: u64, code: i32, message: &str);
}

/// A request on its way through an engine.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) kind: u32,
    pub(crate) deadline_ns: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) trace: String,
    pub(crate) cancel: AtomicU32,
    pub(crate) credit: Credit,
}

/// What the plugin's callbacks are given. The outlet owns the engine, so this may not own it.
struct Context {
    outlet: Weak<dyn Outlet>,
    net: Arc<Net>,
}

/// A created instance of a plugin.
pub(crate) struct Engine {
    api: QdPluginApi,
    instance: *mut c_void,
    // Both are what the plugin holds pointers to until `destroy` has returned; freed after that
    // and never if it was not called.
    context: *mut Context,
    host: *mut QdHostApi,
    gate: Arc<Gate>,
    net: Arc<Net>,
    destroyed: AtomicBool,
    pool: Arc<Pool>,
}

/// Counts who is inside of the plugin, so that `destroy` comes when nobody is and nobody enters
/// afterwards.
#[derive(Default)]
pub(crate) struct Gate(AtomicUsize);

/// One visit to the plugin.
pub(crate) struct Visit<'a>(&'a AtomicUsize);

impl Gate {
    const SHUT: usize = 1 << (usize::BITS - 1);

    pub(crate) fn enter(&self) -> Option<Visit<'_>> {
        let visit = (self.0.fetch_add(1, Ordering::Acquire), Visit(&self.0));
        (visit.0 & Self::SHUT == 0).then_some(visit.1)
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::SHUT != 0
    }

    /// Lets nobody in any more; false if somebody is still inside after `patience`.
    fn shut(&self, patience: Duration) -> bool {
        self.0.fetch_or(Self::SHUT, Ordering::AcqRel);
        let until = Instant::now() + patience;
        while self.0.load(Ordering::Acquire) != Self::SHUT {
            if until <= Instant::now() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

// SAFETY: the ABI has every function of the table callable from any thread.
unsafe impl Send for Engine {}
// SAFETY: as above, and at the same time.
unsafe impl Sync for Engine {}

impl Engine {
    /// Creates the instance; may take minutes.
    pub(crate) fn create(
        api: QdPluginApi,
        config: &[u8],
        outlet: Weak<dyn Outlet>,
        threads: usize,
        clients: Arc<Clients>,
    ) -> Result<Self, String> {
        let Some(create) = api.create else { return Err("the plugin has no create".to_owned()) };
        // A plugin whose `create` failed may have left threads behind: they keep these.
        let gate = Arc::new(Gate::default());
        let net = Net::new(clients, Arc::clone(&gate));
        let context = Box::into_raw(Box::new(Context { outlet, net: Arc::clone(&net) }));
        let host = Box::into_raw(Box::new(QdHostApi {
            struct_size: SIZE_OF_HOST_API,
            abi_minor: u32::from(QD_ABI_MINOR),
            ctx: context.cast(),
            log: Some(log_entry),
            emit: Some(emit_entry),
            wait_credit: Some(wait_credit_entry),
            http: Some(http_entry),
            http_read: Some(http_read_entry),
            http_stop: Some(http_stop_entry),
            timer: Some(timer_entry),
        }));
        let (mut instance, mut error) = (ptr::null_mut(), QdError::empty());
        // SAFETY: every argument lives through the call, and the table until `destroy`.
        let code = unsafe { create(host, QdBytes::new(config), &raw mut instance, &raw mut error) };
        if code < 0 {
            return Err(format!("create failed ({code}): {}", error.message()));
        }
        let pool = Arc::new(Pool { threads, ..Pool::default() });
        net.connect(api.net, instance);
        let destroyed = AtomicBool::new(false);
        Ok(Self { api, instance, context, host, gate, net, destroyed, pool })
    }

    /// Starts a request; what comes of it comes through the outlet.
    pub(crate) fn start(self: &Arc<Self>, ticket: Arc<Ticket>) {
        if self.api.submit.is_some() {
            let (code, message) = self.enter(&ticket);
            if code < 0 {
                self.returned(ticket.id, code, &message);
            }
            return;
        }
        let engine = Arc::clone(self);
        self.pool.push(Box::new(move || {
            let (code, message) = engine.enter(&ticket);
            engine.returned(ticket.id, code, &message);
        }));
    }

    fn returned(&self, id: u64, code: i32, message: &str) {
        // SAFETY: the context lives as long as this.
        if let Some(outlet) = unsafe { (*self.context).outlet.upgrade() } {
            outlet.returned(id, code, message);
        }
        // After it: from then on nothing is begun for it.
        self.net.end(id);
    }

    fn enter(&self, ticket: &Ticket) -> (i32, String) {
        let Some(_visit) = self.gate.enter() else {
            return (QD_E_CANCELLED, "the instance is gone".to_owned());
        };
        let request = QdRequest {
            struct_size: SIZE_OF_REQUEST,
            kind: ticket.kind,
            id: ticket.id,
            deadline_ns: ticket.deadline_ns,
            payload: QdBytes::new(&ticket.payload),
            cancel: &raw const ticket.cancel,
            trace: QdBytes::new(ticket.trace.as_bytes()),
        };
        let mut error = QdError::empty();
        let Some(function) = self.api.run.or(self.api.submit) else {
            return (QD_E_INTERNAL, "the plugin serves nothing".to_owned());
        };
        // SAFETY: the instance came from `create`; the request and its flag outlive `run`, and
        // after `submit` the ticket is kept until the last event.
        let code = unsafe { function(self.instance, &raw const request, &raw mut error) };
        (code, error.message())
    }

    /// Ends what is done for a request that was given up.
    pub(crate) fn forget(&self, id: u64) {
        self.net.end(id);
    }

    pub(crate) fn cancel(&self, id: u64) {
        if let (Some(cancel), Some(_visit)) = (self.api.cancel, self.gate.enter()) {
            // SAFETY: the instance came from `create` and is not destroyed during a visit;
            // unknown ids are allowed.
            unsafe { cancel(self.instance, id) };
        }
    }

    pub(crate) fn resume(&self, id: u64, credit: u32) {
        if let (Some(resume), Some(_visit)) = (self.api.resume, self.gate.enter()) {
            // SAFETY: as in `cancel`.
            unsafe { resume(self.instance, id, credit) };
        }
    }

    /// Tells the plugin to finish what is under way. On a thread of its own: a plugin may wait
    /// in there.
    pub(crate) fn drain(self: &Arc<Self>, deadline_ns: u64) {
        let Some(drain) = self.api.drain else { return };
        let engine = Arc::clone(self);
        let spawned =
            std::thread::Builder::new().name("plugin-drain".to_owned()).spawn(move || {
                let Some(_visit) = engine.gate.enter() else { return };
                // SAFETY: as in `cancel`.
                unsafe { drain(engine.instance, deadline_ns) };
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the plugin is not told that it is drained");
        }
    }

    /// Destroys the instance, at most once; false if a request is still inside of the plugin
    /// after `patience`: then it stays.
    pub(crate) fn destroy(&self, patience: Duration) -> bool {
        self.pool.stop();
        let is_empty = self.gate.shut(patience);
        self.net.end_all();
        if !is_empty {
            return false;
        }
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return true;
        }
        if let Some(destroy) = self.api.destroy {
            // SAFETY: nobody is inside, and the shut gate lets nobody in.
            unsafe { destroy(self.instance) };
        }
        // Threads of the plugin's may have begun another until then.
        self.net.end_all();
        true
    }
}

impl Drop for Engine {
    /// Does not destroy: the last owner may be one of the plugin's own threads.
    fn drop(&mut self) {
        self.pool.stop();
        if self.destroyed.load(Ordering::Acquire) {
            // SAFETY: made by `Box::into_raw`; after `destroy` the plugin uses neither.
            unsafe {
                drop(Box::from_raw(self.context));
                drop(Box::from_raw(self.host));
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    stopped: bool,
}

/// Threads for `run`, made as needed and kept.
#[derive(Default)]
struct Pool {
    queue: Mutex<Queue>,
    news: Condvar,
    threads: usize,
}

impl Pool {
    fn push(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.push_back(job);
        if queue.idle < queue.jobs.len() && queue.threads < self.threads.max(1) {
            let pool = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name("plugin-run".to_owned())
                .spawn(move || pool.work());
            queue.threads += usize::from(spawned.is_ok());
        }
        drop(queue);
        self.news.notify_one();
    }

    fn work(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            } else if queue.stopped {
                return;
            } else {
                queue.idle += 1;
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }

    fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.news.notify_all();
    }
}

unsafe extern "C" fn log_entry(ctx: *mut c_void, level: u32, target: QdBytes, message: QdBytes) {
    // SAFETY: the context lives until `destroy` has returned; bytes are borrowed for the call.
    let (context, target, message) =
        unsafe { (&*ctx.cast::<Context>(), target.as_slice(), message.as_slice()) };
    if let Some(outlet) = context.outlet.upgrade() {
        outlet.log(level, target, &String::from_utf8_lossy(message));
    }
}

unsafe extern "C" fn emit_entry(ctx: *mut c_void, id: u64, events: *const QdEvent, n: u32) -> i32 {
    // SAFETY: the context lives until `destroy` has returned.
    let context = unsafe { &*ctx.cast::<Context>() };
    let Some(outlet) = context.outlet.upgrade() else { return QD_E_CANCELLED };
    if events.is_null() || n == 0 || 4096 < n {
        outlet.violation(id, "an emit without events");
        return QD_E_INVALID;
    }
    let first;
    let many;
    // The stride is the plugin's own struct size, which may be larger than ours.
    // SAFETY: the plugin passes `n` events of the size that the first one names.
    let checked: &[Incoming<'_>] = unsafe {
        let stride = (*events).struct_size;
        if !(SIZE_OF_EVENT..=4096).contains(&stride) || !stride.is_multiple_of(8) {
            outlet.violation(id, "an event with a wrong struct_size");
            return QD_E_INVALID;
        }
        if n == 1 {
            first = [read_event(events)];
            &first
        } else {
            let base = events.cast::<u8>();
            many = (0..n as usize)
                .map(|at| read_event(base.add(at * stride as usize).cast()))
                .collect::<Vec<_>>();
            &many
        }
    };
    if let Some(fault) = checked.iter().find_map(Incoming::fault) {
        outlet.violation(id, fault);
        return QD_E_INVALID;
    }
    let left = outlet.events(id, checked);
    if left != QD_E_AGAIN && checked.iter().any(Incoming::is_last) {
        context.net.end(id);
    }
    left
}

/// # Safety
/// `event` and what it points to are readable for `'a`.
unsafe fn read_event<'a>(event: *const QdEvent) -> Incoming<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        let event = &*event;
        Incoming {
            kind: event.kind,
            flags: event.flags,
            token_id: event.token_id,
            logprob: event.logprob,
            code: event.code,
            data: event.data.as_slice(),
            extra: event.extra.as_slice(),
        }
    }
}

unsafe extern "C" fn wait_credit_entry(ctx: *mut c_void, id: u64, timeout_ms: u32) -> i32 {
    // SAFETY: the context lives until `destroy` has returned.
    let context = unsafe { &*ctx.cast::<Context>() };
    let Some(outlet) = context.outlet.upgrade() else { return QD_E_CANCELLED };
    outlet.wait_credit(id, Duration::from_millis(u64::from(timeout_ms)))
}

unsafe extern "C" fn http_entry(ctx: *mut c_void, id: u64, exchange: *const QdHttp) -> i32 {
    // SAFETY: the context lives until `destroy` has returned.
    let context = unsafe { &*ctx.cast::<Context>() };
    let is_open = || context.outlet.upgrade().is_some_and(|outlet| outlet.is_open(id));
    // SAFETY: the plugin lends it for the call.
    unsafe { context.net.http(id, exchange, is_open) }
}

unsafe extern "C" fn http_read_entry(ctx: *mut c_void, id: u64) {
    // SAFETY: the context lives until `destroy` has returned.
    unsafe { &*ctx.cast::<Context>() }.net.http_read(id);
}

unsafe extern "C" fn http_stop_entry(ctx: *mut c_void, id: u64) {
    // SAFETY: the context lives until `destroy` has returned.
    unsafe { &*ctx.cast::<Context>() }.net.http_stop(id);
}

unsafe extern "C" fn timer_entry(ctx: *mut c_void, id: u64, ms: u64) {
    // SAFETY: the context lives until `destroy` has returned.
    let context = unsafe { &*ctx.cast::<Context>() };
    let is_open = || context.outlet.upgrade().is_some_and(|outlet| outlet.is_open(id));
    context.net.timer(id, ms, is_open);
}

/// What a request that ends without END is told.
pub(crate) fn ending(code: i32, message: &str) -> String {
    if code == 0 {
        return "it returned without an end".to_owned();
    }
    if message.is_empty() { format!("it returned {code}") } else { message.to_owned() }
}

impl Ticket {
    /// The same for requests of the same words.
    pub(crate) fn fingerprint(&self) -> u64 {
        fingerprint(&self.payload)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) != 0
    }
}

/// See [`Ticket::fingerprint`].
pub(crate) fn fingerprint(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}
