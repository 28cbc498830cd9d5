//! The places of an instance for requests, and whose they are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So long after a payer's last call a part of the places is kept free of the others.
const MEMORY: Duration = Duration::from_secs(10);
/// That part; instances with fewer places than this keep none free.
const PART: usize = 8;

/// The places of one instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<u128, usize>,
    /// Who called last and who before that, when they are not the same.
    last: Option<(u128, Instant)>,
    other: Option<(u128, Instant)>,
}

/// One of an instance's places for requests; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    payer: Option<u128>,
}

impl Slots {
    /// Places that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().all
    }

    /// A place among `max`. While more than one payer calls, none of them gets them all.
    pub(crate) fn take(&self, max: usize, payer: Option<u128>) -> Option<Slot> {
        let mut taken = self.lock();
        let shared = payer.is_some_and(|payer| taken.note(payer, Instant::now()));
        if max <= taken.all {
            return None;
        }
        if let Some(payer) = payer {
            let own = taken.of.entry(payer).or_default();
            if shared && max - max / PART <= *own {
                return None;
            }
            *own += 1;
        }
        taken.all += 1;
        Some(Slot { slots: self.clone(), payer })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Remembers a call. Whether somebody else called lately.
    fn note(&mut self, payer: u128, now: Instant) -> bool {
        if self.last.is_some_and(|(last, _)| last != payer) {
            self.other = self.last;
        }
        self.last = Some((payer, now));
        self.other.is_some_and(|(other, at)| other != payer && now.duration_since(at) < MEMORY)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.all -= 1;
        if let Some(payer) = self.payer
            && let Some(own) = taken.of.get_mut(&payer)
        {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(&payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 16;

    #[test]
    fn one_payer_alone_gets_all_places() {
        let slots = Slots::default();
        let held: Vec<_> = (0..MAX).filter_map(|_| slots.take(MAX, Some(1))).collect();
        assert_eq!((held.len(), slots.taken()), (MAX, MAX));
        assert!(slots.take(MAX, Some(1)).is_none() && slots.take(MAX, None).is_none());
        drop(held);
        assert_eq!(slots.taken(), 0);
        assert!(slots.lock().of.is_empty());
    }

    #[test]
    fn while_others_call_too_nobody_gets_all_places() {
        let slots = Slots::default();
        drop(slots.take(MAX, Some(2)));
        let flood: Vec<_> = (0..3 * MAX).filter_map(|_| slots.take(MAX, Some(1))).collect();
        assert_eq!(flood.len(), MAX - MAX / PART);
        let quiet = slots.take(MAX, Some(2));
        assert!(quiet.is_some());
        assert!(slots.take(MAX, Some(1)).is_none());
        assert!(slots.take(MAX, None).is_some());
    }

    #[test]
    fn who_finds_all_places_taken_finds_one_free_the_next_time() {
        let slots = Slots::default();
        let mut flood: Vec<_> = (0..MAX).filter_map(|_| slots.take(MAX, Some(1))).collect();
        assert!(slots.take(MAX, Some(2)).is_none());
        // The flood goes on: what ends of it does not begin again.
        drop(flood.pop());
        flood.extend(slots.take(MAX, Some(1)));
        assert_eq!(flood.len(), MAX - 1);
        assert!(slots.take(MAX, Some(2)).is_some());
    }

    #[test]
    fn who_has_not_called_for_long_keeps_nothing_free() {
        let mut taken = Taken::default();
        let begun = Instant::now();
        assert!(!taken.note(2, begun));
        assert!(taken.note(1, begun));
        assert!(taken.note(1, begun + MEMORY / 2));
        assert!(!taken.note(1, begun + MEMORY));
    }

    #[test]
    fn few_places_are_not_divided() {
        let slots = Slots::default();
        drop(slots.take(4, Some(2)));
        let held: Vec<_> = (0..4).filter_map(|_| slots.take(4, Some(1))).collect();
        assert_eq!(held.len(), 4);
    }
}
