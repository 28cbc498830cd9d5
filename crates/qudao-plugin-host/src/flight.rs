//! A call as the host sees it, from `call` to its last event.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Instant,
};

use qudao_plugin_api::wire::Usage;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    engine::Ticket,
    event::{CallError, Event},
    generation::Generation,
    slot::Slot,
};

#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) usage: Usage,
    pub(crate) delivered: bool,
    /// The caller has its last event, or is gone.
    pub(crate) closed: bool,
    pub(crate) attempts: u32,
    pub(crate) started: Instant,
    pub(crate) last_event: Option<Instant>,
    pub(crate) cancelled_at: Option<Instant>,
    /// The plugin is asked again to stop, since the first time it was starting.
    pub(crate) home: Weak<Generation>,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Replaced when the call is tried again: credit and flag start anew.
    ticket: Mutex<Arc<Ticket>>,
    pub(crate) window: u32,
    pub(crate) deadline: Instant,
    progress: Mutex<Progress>,
    events: UnboundedSender<Event>,
    slot: Mutex<Option<Slot>>,
}

impl Flight {
    pub(crate) fn new(
        ticket: Ticket,
        window: u32,
        deadline: Instant,
        events: UnboundedSender<Event>,
        slot: Slot,
    ) -> Self {
        let progress = Progress {
            usage: Usage::default(),
            delivered: false,
            closed: false,
            attempts: 0,
            started: Instant::now(),
            last_event: None,
            cancelled_at: None,
            home: Weak::new(),
        };
        Self {
            ticket: Mutex::new(Arc::new(ticket)),
            window,
            deadline,
            progress: Mutex::new(progress),
            events,
            slot: Mutex::new(Some(slot)),
        }
    }

    pub(crate) fn ticket(&self) -> Arc<Ticket> {
        Arc::clone(&self.ticket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes an event on; false when nobody listens any more.
    pub(crate) fn send(&self, event: Event) -> bool {
        let mut progress = self.progress();
        if progress.closed {
            return false;
        }
        if matches!(event, Event::Token { .. } | Event::Data(_)) {
            progress.delivered = true;
        }
        progress.last_event = Some(Instant::now());
        self.events.send(event).is_ok()
    }

    /// Sends the last event, if none was sent before.
    pub(crate) fn close(&self, event: Event) {
        let mut progress = self.progress();
        if !progress.closed {
            progress.closed = true;
            let _ = self.events.send(event);
        }
    }

    /// Gives the place to the next call, before the caller of this one hears of its end.
    pub(crate) fn leave(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn fail(&self, error: CallError) {
        self.close(Event::Error(error));
    }

    /// Asks the plugin to stop.
    pub(crate) fn cancel(&self) {
        let home = {
            let mut progress = self.progress();
            progress.cancelled_at.get_or_insert_with(Instant::now);
            progress.home.upgrade()
        };
        let ticket = self.ticket();
        ticket.cancel.store(1, Ordering::Relaxed);
        ticket.credit.close();
        match home {
            Some(home) => home.cancel(ticket.id),
            None => self.fail(CallError::Cancelled),
        }
    }

    /// The caller is gone.
    pub(crate) fn abandon(&self) {
        self.progress().closed = true;
        self.cancel();
    }

    /// The caller has read `n` events.
    pub(crate) fn grant(&self, n: u32) {
        let home = self.progress().home.upgrade();
        if let Some(home) = home {
            home.grant(&self.ticket(), n);
        }
    }

    /// Makes the call as if it had not been tried; only while nothing was delivered.
    pub(crate) fn renew(&self) {
        let mut ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        *ticket = Arc::new(Ticket {
            id: ticket.id,
            kind: ticket.kind,
            deadline_ns: ticket.deadline_ns,
            payload: ticket.payload.clone(),
            trace: ticket.trace.clone(),
            cancel: std::sync::atomic::AtomicU32::new(0),
            credit: crate::credit::Credit::new(self.window),
        });
        let mut progress = self.progress();
        progress.attempts += 1;
        progress.last_event = None;
        progress.started = Instant::now();
    }
}
