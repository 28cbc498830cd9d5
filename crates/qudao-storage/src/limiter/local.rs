//! The buckets of one process, for as long as Redis is away. The same steps as in `take.lua`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::{Bucket, Owner, ahead::Charged};

/// More buckets than this are not remembered, so that strangers cannot fill the memory.
const MOST: usize = 100_000;
/// Fewer are not worth a look at which of them are empty.
const FEW: usize = 1024;

/// The debts of all buckets.
pub(super) struct Local {
    since: Instant,
    kept: Mutex<Kept>,
}

struct Kept {
    /// When each bucket is empty of debt, in microseconds since the start.
    free_at: HashMap<String, u64>,
    /// At this size those that are empty of debt are forgotten.
    tidy_at: usize,
}

/// A charge and a capacity, in microseconds, for the bucket of this name.
pub(super) struct Charge {
    pub(super) name: String,
    pub(super) charge: i64,
    pub(super) capacity: u64,
}

/// What became of the charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// How many calls were charged.
    pub(super) calls: u32,
    /// The bucket to wait for and how long, in microseconds; nothing was charged then.
    pub(super) refused: Option<(usize, u64)>,
    /// The debt of each bucket afterwards.
    pub(super) debts: Vec<u64>,
}

impl Outcome {
    /// What was charged for calls that are still to come.
    pub(super) fn ahead(&self, owner: Owner, buckets: &[Bucket]) -> Option<(u32, Charged)> {
        let both = self.debts.iter().zip(buckets);
        let debts = || both.map(|(debt, bucket)| (*debt, bucket.rate.span(1))).collect();
        let charged = || Charged { owner, buckets: buckets.to_vec(), debts: debts() };
        (1 < self.calls).then(|| (self.calls, charged()))
    }

    /// As if one call had been charged.
    pub(super) fn of_one(mut self, buckets: &[Bucket]) -> Self {
        let others = u64::from(self.calls.saturating_sub(1));
        for (debt, bucket) in self.debts.iter_mut().zip(buckets) {
            *debt = debt.saturating_sub(others * bucket.rate.span(1));
        }
        Self { calls: self.calls.min(1), ..self }
    }
}

impl Local {
    pub(super) fn new() -> Self {
        let kept = Kept { free_at: HashMap::new(), tidy_at: FEW };
        Self { since: Instant::now(), kept: Mutex::new(kept) }
    }

    pub(super) fn take(&self, charges: &[Charge]) -> Outcome {
        let now = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take(charges, now)
    }
}

impl Kept {
    fn take(&mut self, charges: &[Charge], now: u64) -> Outcome {
        let mut refused: Option<(usize, u64)> = None;
        let mut debts = Vec::with_capacity(charges.len());
        for (at, Charge { name, charge, capacity }) in charges.iter().enumerate() {
            let free_at = self.free_at.get(name).copied().unwrap_or(now);
            let debt = free_at.saturating_sub(now).min(*capacity);
            let after = debt.saturating_add_signed(*charge);
            let wait = after.saturating_sub(*capacity);
            if 0 < *charge && refused.map_or(0, |(_, longest)| longest) < wait {
                refused = Some((at, wait));
            }
            debts.push(debt);
        }
        if refused.is_none() {
            for (debt, Charge { name, charge, .. }) in debts.iter_mut().zip(charges) {
                *debt = debt.saturating_add_signed(*charge);
                if *debt == 0 {
                    self.free_at.remove(name);
                } else {
                    self.free_at.insert(name.clone(), now + *debt);
                }
            }
            self.tidy(now);
        }
        Outcome { calls: u32::from(refused.is_none()), refused, debts }
    }

    /// Each bucket is looked at once for each time that their number doubles.
    fn tidy(&mut self, now: u64) {
        if self.free_at.len() < self.tidy_at {
            return;
        }
        self.free_at.retain(|_, free_at| now < *free_at);
        if MOST <= self.free_at.len() {
            // Those who owe least lose least by being forgotten.
            let mut times: Vec<u64> = self.free_at.values().copied().collect();
            let half = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(half);
            let median = *median;
            self.free_at.retain(|_, free_at| median < *free_at);
        }
        self.tidy_at = (2 * self.free_at.len()).clamp(FEW, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(name: &str, charge: i64) -> Charge {
        Charge { name: name.to_owned(), charge, capacity: 30 }
    }

    fn kept() -> Kept {
        Kept { free_at: HashMap::new(), tidy_at: FEW }
    }

    #[test]
    fn nothing_is_charged_unless_every_bucket_allows_it() {
        let mut kept = kept();
        assert_eq!(kept.take(&[charge("a", 30)], 0).refused, None);
        let both = kept.take(&[charge("b", 10), charge("a", 10)], 5);
        assert_eq!(both, Outcome { calls: 0, refused: Some((1, 5)), debts: vec![0, 25] });
        assert_eq!(kept.take(&[charge("b", 0)], 5).debts, [0]);
        assert_eq!(kept.take(&[charge("b", 10), charge("a", 10)], 10).refused, None);
    }

    #[test]
    fn what_is_given_back_never_makes_a_bucket_more_than_full() {
        let mut kept = kept();
        kept.take(&[charge("a", 20)], 0);
        assert_eq!(kept.take(&[charge("a", -50)], 0).debts, [0]);
        assert!(kept.free_at.is_empty());
        assert_eq!(kept.take(&[charge("a", 30)], 0).refused, None);
        assert_eq!(kept.take(&[charge("a", 1)], 0).refused, Some((0, 1)));
    }

    #[test]
    fn the_bucket_that_takes_longest_is_the_one_to_wait_for() {
        let mut kept = kept();
        kept.take(&[charge("a", 25), charge("b", 30)], 0);
        let refused = kept.take(&[charge("a", 10), charge("b", 10)], 0).refused;
        assert_eq!(refused, Some((1, 10)));
    }

    #[test]
    fn a_crowd_of_strangers_does_not_fill_the_memory() {
        let mut kept = kept();
        for n in 0..3 * MOST {
            kept.take(&[Charge { name: n.to_string(), charge: 10, capacity: u64::MAX / 4 }], 0);
        }
        assert!(kept.free_at.len() <= MOST, "{}", kept.free_at.len());
        // After a rest nobody is remembered.
        kept.tidy_at = 0;
        kept.take(&[charge("a", 1)], 1_000);
        assert_eq!(kept.free_at.len(), 1);
    }
}
