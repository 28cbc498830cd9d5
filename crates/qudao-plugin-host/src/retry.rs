//! Calls that a crash took away before they had an answer. They are made again one at a time:
//! if the plugin crashes once more, the one on trial is the likely culprit, and the others
//! have not been near it.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::{
    event::{CallError, TimeoutKind},
    flight::Flight,
    generation::Generation,
};

/// How often a call is made again. Blame ends a culprit sooner; this bounds the rest.
const RETRIES_MAX: u32 = 2;

/// The calls of one instance that are to be made again.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    waiting: VecDeque<Arc<Flight>>,
    trial: Option<Arc<Flight>>,
}

impl Retries {
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether `flight` is to blame for the crash that ended `lost`: it was alone there, or it
    /// is the one that was made again. Of many new calls none is singled out.
    pub(crate) fn blames(&self, flight: &Arc<Flight>, lost: &[Arc<Flight>]) -> bool {
        lost.len() == 1 || self.trial.as_ref().is_some_and(|trial| Arc::ptr_eq(trial, flight))
    }

    /// Takes a call of a dead generation, to be made again or to fail.
    pub(crate) fn take(&mut self, flight: Arc<Flight>, poison: bool, signal: Option<i32>) {
        let (delivered, attempts, over) = {
            let progress = flight.progress();
            let over = progress.closed || progress.cancelled_at.is_some();
            (progress.delivered, progress.attempts, over)
        };
        if delivered || poison || over || RETRIES_MAX <= attempts {
            flight.fail(CallError::Crashed { signal, delivered });
        } else {
            flight.renew();
            self.waiting.push_back(flight);
        }
    }

    /// The crash is dealt with: nothing is on trial, and what proved to be poison waits no more.
    pub(crate) fn settle(&mut self, is_poison: impl Fn(&Flight) -> bool) {
        self.trial = None;
        for flight in self.waiting.iter().filter(|flight| is_poison(flight)) {
            flight.fail(CallError::Poison);
        }
        self.waiting.retain(|flight| !flight.progress().closed);
    }

    /// Ends what waited too long or is not wanted any more, and makes the next call again if
    /// the one before has ended or brought something.
    pub(crate) fn tend(&mut self, current: Option<&Arc<Generation>>, now: Instant) {
        self.waiting.retain(|flight| {
            let cancelled = flight.progress().cancelled_at.is_some();
            if cancelled {
                flight.fail(CallError::Cancelled);
            } else if flight.deadline <= now {
                flight.fail(CallError::Timeout { which: TimeoutKind::Total });
            }
            !flight.progress().closed
        });
        let Some(generation) = current else { return };
        while !self.trial.as_ref().is_some_and(|flight| under_way(flight)) {
            self.trial = None;
            let Some(flight) = self.waiting.pop_front() else { return };
            flight.progress().started = now;
            if !generation.submit(&flight) {
                // It is being replaced; its successor gets the call.
                return self.waiting.push_front(flight);
            }
            self.trial = Some(flight);
        }
    }

    /// No generation will come.
    pub(crate) fn fail_all(&mut self, error: &CallError) {
        for flight in self.waiting.drain(..) {
            flight.fail(error.clone());
        }
    }
}

/// Whether a call occupies its plugin and nothing is known of how that will go. One that the
/// caller has left counts until the plugin has let go of it.
fn under_way(flight: &Flight) -> bool {
    let (delivered, home) = {
        let progress = flight.progress();
        (progress.delivered, progress.home.upgrade())
    };
    !delivered && home.is_some_and(|home| home.holds(flight.ticket().id))
}
