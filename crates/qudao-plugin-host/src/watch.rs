//! The watchdogs: one thread looks at every call under way.

use std::time::{Duration, Instant};

use crate::{
    event::{CallError, TimeoutKind},
    flight::Flight,
    generation::Generation,
};

/// Between two looks, in a host with calls under way.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The times of an instance, settings over manifest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) load: Duration,
    pub(crate) first_token: Duration,
    pub(crate) inter_token: Duration,
    pub(crate) total: Duration,
    pub(crate) cancel_grace: Duration,
    pub(crate) drain: Duration,
}

/// Times out what takes too long and ends what ignores a cancellation. True if the
/// generation's child was ended for it.
pub(crate) fn look(generation: &Generation, limits: &Limits, now: Instant) -> bool {
    if let Some(link) = generation.child() {
        link.flush();
    }
    let mut stuck = false;
    for flight in generation.flights() {
        let cancelled_at = flight.progress().cancelled_at;
        match cancelled_at {
            Some(at) if at + limits.cancel_grace <= now => {
                stuck = true;
                flight.fail(CallError::Cancelled);
                if generation.child().is_none() {
                    generation.forget(flight.ticket().id);
                    generation.degraded.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Some(_) => {}
            None => {
                if let Some(which) = overdue(&flight, limits, now) {
                    flight.fail(CallError::Timeout { which });
                    flight.cancel();
                }
            }
        }
    }
    if stuck {
        generation.kill();
    }
    stuck
}

fn overdue(flight: &Flight, limits: &Limits, now: Instant) -> Option<TimeoutKind> {
    if flight.deadline <= now {
        return Some(TimeoutKind::Total);
    }
    let (started, last_event) = {
        let progress = flight.progress();
        (progress.started, progress.last_event)
    };
    match last_event {
        None if started + limits.first_token <= now => Some(TimeoutKind::FirstToken),
        // A plugin without credit waits for the reader and is not to blame.
        Some(last) if last + limits.inter_token <= now && flight.ticket().credit.left() != 0 => {
            Some(TimeoutKind::BetweenTokens)
        }
        _ => None,
    }
}
