//! One start of an instance: the calls under way in it and the link to its plugin.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use qudao_plugin_api::{
    abi::{
        QD_E_AGAIN, QD_E_CANCELLED, QD_E_INVALID, QD_E_OVERLOADED, QD_EF_REASONING, QD_EV_DATA,
        QD_EV_END, QD_EV_PROGRESS, QD_EV_TOKEN, QD_EV_USAGE,
    },
    wire::{ErrorDetail, ErrorKind, FinishReason, Usage},
};
use rustc_hash::FxHashMap;

use crate::{
    engine::{Engine, Incoming, Outlet, Ticket, ending},
    event::{CallError, Event},
    flight::Flight,
    process::ChildLink,
    said::log_line,
    terms::Terms,
};

pub(crate) enum Link {
    Local(Arc<Engine>),
    Child(ChildLink),
}

#[derive(Default)]
struct Table {
    // Their ids are counted by the host: nobody can choose them so that they meet.
    flights: FxHashMap<u64, Arc<Flight>>,
    /// Takes nothing new.
    closed: bool,
}

/// One start of an instance.
pub(crate) struct Generation {
    pub(crate) instance: String,
    pub(crate) number: u64,
    pub(crate) variant: String,
    /// Names of the protections that its process runs under.
    pub(crate) sandbox: Vec<String>,
    pub(crate) terms: Arc<Terms>,
    /// Its child has ended; changed under the lock of the instance's current generation.
    pub(crate) gone: AtomicBool,
    pub(crate) retired: AtomicBool,
    pub(crate) degraded: AtomicBool,
    table: Mutex<Table>,
    link: OnceLock<Link>,
    violations: Arc<AtomicU64>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.instance, self.number)
    }
}

impl Generation {
    pub(crate) fn new(
        instance: &str,
        number: u64,
        variant: &str,
        sandbox: Vec<String>,
        terms: Arc<Terms>,
        violations: Arc<AtomicU64>,
    ) -> Self {
        Self {
            instance: instance.to_owned(),
            number,
            variant: variant.to_owned(),
            sandbox,
            terms,
            gone: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            degraded: AtomicBool::new(false),
            table: Mutex::default(),
            link: OnceLock::new(),
            violations,
        }
    }

    pub(crate) fn connect(&self, link: Link) {
        let _ = self.link.set(link);
    }

    pub(crate) fn child(&self) -> Option<&ChildLink> {
        match self.link.get() {
            Some(Link::Child(link)) => Some(link),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.lock().flights.len()
    }

    pub(crate) fn flights(&self) -> Vec<Arc<Flight>> {
        self.lock().flights.values().cloned().collect()
    }

    /// Every call under way, oldest first; none is left, and none is taken afterwards.
    pub(crate) fn take_all(&self) -> Vec<Arc<Flight>> {
        let mut table = self.lock();
        table.closed = true;
        let mut all: Vec<_> = std::mem::take(&mut table.flights).into_iter().collect();
        drop(table);
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, flight)| flight).collect()
    }

    pub(crate) fn holds(&self, id: u64) -> bool {
        self.lock().flights.contains_key(&id)
    }

    pub(crate) fn forget(&self, id: u64) {
        self.lock().flights.remove(&id);
        if let Some(Link::Local(engine)) = self.link.get() {
            engine.forget(id);
        }
    }

    /// Starts a call; false when the generation takes nothing new.
    pub(crate) fn submit(self: &Arc<Self>, flight: &Arc<Flight>) -> bool {
        let ticket = flight.ticket();
        flight.progress().home = Arc::downgrade(self);
        let mut table = self.lock();
        if table.closed {
            return false;
        }
        table.flights.insert(ticket.id, Arc::clone(flight));
        drop(table);
        match self.link.get() {
            Some(Link::Local(engine)) => engine.start(ticket),
            Some(Link::Child(link)) => link.run(&ticket),
            None => flight.fail(CallError::Crashed { signal: None, delivered: false }),
        }
        true
    }

    /// Takes nothing new from now on, and tells the plugin.
    pub(crate) fn close(&self, deadline_ns: u64) {
        self.lock().closed = true;
        match self.link.get() {
            Some(Link::Local(engine)) => engine.drain(deadline_ns),
            Some(Link::Child(link)) => link.drain(deadline_ns),
            None => {}
        }
    }

    /// Ends the plugin. In this process that may take as long as its `destroy` does.
    pub(crate) fn end(&self) {
        self.retired.store(true, Ordering::Relaxed);
        for flight in self.flights() {
            flight.cancel();
        }
        let ended = match self.link.get() {
            Some(Link::Local(engine)) => engine.destroy(self.terms.limits.cancel_grace),
            Some(Link::Child(link)) => {
                link.hang_up();
                true
            }
            None => true,
        };
        if !ended {
            tracing::warn!(generation = ?self, "a request does not end: never destroyed");
        }
        for flight in self.take_all() {
            flight.fail(CallError::Cancelled);
        }
    }

    pub(crate) fn cancel(&self, id: u64) {
        match self.link.get() {
            Some(Link::Local(engine)) => engine.cancel(id),
            Some(Link::Child(link)) => link.cancel(id),
            None => {}
        }
    }

    pub(crate) fn grant(&self, ticket: &Ticket, n: u32) {
        let starved = ticket.credit.give(n);
        match (self.link.get(), starved) {
            (Some(Link::Local(engine)), Some(left)) => engine.resume(ticket.id, left),
            (Some(Link::Child(link)), _) => link.grant(ticket.id, n),
            _ => {}
        }
    }

    /// Ends the child, whatever it does.
    pub(crate) fn kill(&self) {
        if let Some(link) = self.child() {
            link.kill();
        }
    }

    fn find(&self, id: u64) -> Option<Arc<Flight>> {
        self.lock().flights.get(&id).cloned()
    }

    fn one(&self, id: u64, flight: &Flight, event: &Incoming<'_>) -> Result<(), &'static str> {
        if event.is_last() {
            self.lock().flights.remove(&id);
            flight.ticket().credit.close();
            flight.leave();
            let event = last_event(flight, event)?;
            flight.close(event);
            return Ok(());
        }
        if let Some(translated) = translate(event)? {
            if let Event::Usage(usage) = translated {
                flight.progress().usage = usage;
            }
            flight.send(translated);
        }
        Ok(())
    }
}

impl Outlet for Generation {
    fn log(&self, level: u32, target: &[u8], message: &str) {
        log_line(&self.instance, level, target, message);
    }

    fn events(&self, id: u64, events: &[Incoming<'_>]) -> i32 {
        let Some(flight) = self.find(id) else {
            self.violations.fetch_add(1, Ordering::Relaxed);
            return QD_E_CANCELLED;
        };
        let ticket = flight.ticket();
        let counted = events.iter().filter(|event| !event.is_last()).count();
        let mut left = 0;
        if counted != 0 {
            if ticket.is_cancelled() && counted == events.len() {
                return QD_E_CANCELLED;
            }
            left = ticket.credit.take(u32::try_from(counted).unwrap_or(u32::MAX));
            if left == QD_E_AGAIN {
                return left;
            }
        }
        for (at, event) in events.iter().enumerate() {
            if let Err(fault) = self.one(id, &flight, event) {
                self.violation(id, fault);
                flight.fail(CallError::Protocol(fault.to_owned()));
                return QD_E_INVALID;
            }
            if event.is_last() {
                if at + 1 < events.len() {
                    self.violations.fetch_add(1, Ordering::Relaxed);
                }
                return 0;
            }
        }
        left
    }

    fn violation(&self, id: u64, reason: &str) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        if let Some(flight) = self.find(id) {
            flight.fail(CallError::Protocol(reason.to_owned()));
            flight.cancel();
        }
    }

    fn wait_credit(&self, id: u64, timeout: Duration) -> i32 {
        self.find(id).map_or(QD_E_CANCELLED, |flight| flight.ticket().credit.wait(timeout))
    }

    fn is_open(&self, id: u64) -> bool {
        self.holds(id)
    }

    fn returned(&self, id: u64, code: i32, message: &str) {
        let Some(flight) = self.find(id) else { return };
        self.forget(id);
        flight.leave();
        flight.fail(returned_error(&flight, code, message));
    }
}

fn returned_error(flight: &Flight, code: i32, message: &str) -> CallError {
    if flight.ticket().is_cancelled() {
        return CallError::Cancelled;
    }
    match code {
        0 => CallError::Protocol(ending(code, message)),
        QD_E_OVERLOADED => CallError::Overloaded,
        code => CallError::Provider {
            kind: ErrorKind::Internal,
            message: ending(code, message),
            status: None,
            retry_after_ms: None,
        },
    }
}

fn text(event: &Incoming<'_>) -> Result<String, &'static str> {
    String::from_utf8(event.data.to_vec()).map_err(|_| "an event that is not UTF-8")
}

fn translate(event: &Incoming<'_>) -> Result<Option<Event>, &'static str> {
    match event.kind {
        QD_EV_TOKEN if event.data.is_empty() => Ok(None),
        QD_EV_TOKEN => Ok(Some(Event::Token {
            text: text(event)?,
            reasoning: event.flags & QD_EF_REASONING != 0,
            token_id: event.token_id,
            logprob: event.logprob,
        })),
        QD_EV_DATA => serde_json::from_slice(event.data)
            .map(|value| Some(Event::Data(value)))
            .map_err(|_| "a DATA event that is not JSON"),
        QD_EV_USAGE => serde_json::from_slice(event.data)
            .map(|usage| Some(Event::Usage(usage)))
            .map_err(|_| "a USAGE event that is not one"),
        QD_EV_PROGRESS => Ok(Some(Event::Progress(text(event)?))),
        _ => Err("an event of unknown kind"),
    }
}

fn last_event(flight: &Flight, event: &Incoming<'_>) -> Result<Event, &'static str> {
    if event.kind == QD_EV_END {
        let finish_reason =
            FinishReason::find(&text(event)?).ok_or("an END with an unknown reason")?;
        let usage: Usage = if event.extra.is_empty() {
            flight.progress().usage
        } else {
            serde_json::from_slice(event.extra).map_err(|_| "an END with a wrong usage")?
        };
        return Ok(Event::End { finish_reason, usage });
    }
    if event.code == QD_E_OVERLOADED {
        return Ok(Event::Error(CallError::Overloaded));
    }
    let internal = ErrorDetail { kind: ErrorKind::Internal, status: None, retry_after_ms: None };
    let detail: ErrorDetail = serde_json::from_slice(event.extra).unwrap_or(internal);
    Ok(Event::Error(CallError::Provider {
        kind: detail.kind,
        message: text(event)?,
        status: detail.status,
        retry_after_ms: detail.retry_after_ms,
    }))
}
