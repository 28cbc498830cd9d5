//! How many things of one owner may be open at the same time, and how many bytes may be held.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The places that owners have taken. Owners without any are not remembered.
pub(crate) struct Places<K>(Arc<Mutex<HashMap<K, usize>>>);

/// One of an owner's places; free again when it is dropped.
pub(crate) struct Place<K: Hash + Eq> {
    taken: Places<K>,
    owner: K,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// `None` if the owner has as many as it may.
    pub(crate) fn take(&self, owner: &K, most: usize) -> Option<Place<K>> {
        let mut taken = self.lock();
        if most <= taken.get(owner).copied().unwrap_or(0) {
            return None;
        }
        *taken.entry(owner.clone()).or_default() += 1;
        Some(Place { taken: self.clone(), owner: owner.clone() })
    }
}

impl<K> Places<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.owner);
            }
        }
    }
}

/// Bytes that may be held at the same time.
pub(crate) struct Budget {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// Bytes that one request holds; free again when it is dropped.
pub(crate) struct Held {
    all: Arc<AtomicUsize>,
    most: usize,
    own: usize,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// Nothing yet.
    pub(crate) fn open(&self) -> Held {
        Held { all: Arc::clone(&self.held), most: self.most, own: 0 }
    }
}

impl Held {
    /// Takes so many bytes more; `false` if they are not there.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.own += bytes;
        before.saturating_add(bytes) <= self.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_gets_as_many_places_as_it_may_have_and_others_are_not_touched() {
        let places = Places::default();
        let first = places.take(&1, 2);
        let _second = places.take(&1, 2);
        assert!(places.take(&1, 2).is_none());
        assert!(places.take(&2, 2).is_some());
        drop(first);
        assert!(places.take(&1, 2).is_some());
    }

    #[test]
    fn who_holds_no_place_is_forgotten() {
        let places = Places::default();
        drop((places.take(&1, 9), places.take(&2, 9)));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn bytes_are_held_up_to_the_budget_and_come_back() {
        let budget = Budget::new(100);
        let mut first = budget.open();
        assert!(first.grow(60) && first.grow(40));
        assert!(!budget.open().grow(1));
        drop(first);
        assert!(budget.open().grow(100));
    }
}
