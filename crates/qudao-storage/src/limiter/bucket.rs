//! A bucket's arithmetic, in whole microseconds of debt.

use std::{num::NonZeroU32, time::Duration};

/// Some 35 years. Added to the time of day it is still exact in the doubles that Redis counts in.
const LONGEST: u64 = 1 << 50;

/// How fast a bucket refills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    period: Duration,
    burst: NonZeroU32,
}

impl Rate {
    /// `count` per second over time and `burst` at once. `None` for a count of 0, which is no
    /// limit; a burst of 0 counts as 1.
    pub fn per_second(count: u32, burst: u32) -> Option<Self> {
        Self::new(count, Duration::from_secs(1), burst)
    }

    /// As [`Self::per_second`], with the count per minute.
    pub fn per_minute(count: u32, burst: u32) -> Option<Self> {
        Self::new(count, Duration::from_secs(60), burst)
    }

    /// As [`Self::per_second`], with the count per hour.
    pub fn per_hour(count: u32, burst: u32) -> Option<Self> {
        Self::new(count, Duration::from_secs(3600), burst)
    }

    fn new(count: u32, period: Duration, burst: u32) -> Option<Self> {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        NonZeroU32::new(count).map(|count| Self { count, period, burst })
    }

    /// The most that can be taken at once.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    fn period_micros(&self) -> u64 {
        // A minute and the number of nodes: within 2³² × 60 seconds.
        u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX)
    }

    /// The time in which `units` flow back, in microseconds.
    pub(super) fn span(&self, units: u32) -> u64 {
        let period = self.period_micros();
        u64::from(units).saturating_mul(period).div_ceil(u64::from(self.count.get())).min(LONGEST)
    }

    fn units(&self, span: u64) -> u32 {
        let count = u128::from(span) * u128::from(self.count.get());
        let units = count / u128::from(self.period_micros().max(1));
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.span(self.burst.get())
    }

    /// The part of the rate that one of `nodes` may give out without asking the others.
    pub(super) fn part(&self, nodes: u32) -> Self {
        let nodes = nodes.max(1);
        let burst = NonZeroU32::new(self.burst.get() / nodes).unwrap_or(NonZeroU32::MIN);
        Self { period: self.period * nodes, burst, ..*self }
    }
}

/// What one charge asks of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// What is limited, such as `key` or `address`. Part of the bucket's name, and what a refusal
    /// is explained by.
    pub kind: &'static str,
    /// Whose allowance it is, among those of its kind and owner.
    pub id: String,
    /// How large it is.
    pub rate: Rate,
    /// How much is taken.
    pub cost: u32,
}

impl Bucket {
    /// A charge of one.
    pub fn one(kind: &'static str, id: impl Into<String>, rate: Rate) -> Self {
        Self { kind, id: id.into(), rate, cost: 1 }
    }

    /// Where the bucket stands with so much debt, in microseconds.
    pub(super) fn standing(&self, rate: Rate, debt: u64) -> Standing {
        Standing {
            kind: self.kind,
            limit: rate.burst(),
            remaining: rate.units(rate.capacity().saturating_sub(debt)).min(rate.burst()),
            reset: Duration::from_micros(debt),
            window: Duration::from_micros(rate.capacity()),
        }
    }
}

/// Where a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is limited.
    pub kind: &'static str,
    /// What can be taken at once after a rest.
    pub limit: u32,
    /// How much of it is left.
    pub remaining: u32,
    /// When all of it will be there again, if nothing is taken meanwhile.
    pub reset: Duration,
    /// How long it takes to refill when it is empty.
    pub window: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_rate_of_zero_is_no_limit_and_a_burst_of_zero_is_one() {
        assert_eq!(Rate::per_second(0, 10), None);
        assert_eq!(Rate::per_second(1, 0).unwrap().burst(), 1);
    }

    #[test]
    fn a_bucket_is_as_large_as_the_time_in_which_it_fills() {
        let rate = Rate::per_minute(60, 30).unwrap();
        assert_eq!(rate.capacity(), 30 * SECOND);
        let standing = Bucket::one("key", "a", rate).standing(rate, 2 * SECOND);
        assert_eq!((standing.limit, standing.remaining), (30, 28));
        assert_eq!(standing.reset, Duration::from_secs(2));
        assert_eq!(standing.window, Duration::from_secs(30));
    }

    #[test]
    fn the_largest_rate_is_exact_in_the_doubles_of_redis() {
        let slow = Rate::per_minute(1, u32::MAX).unwrap();
        let now = 4_000_000_000 * SECOND;
        assert!(slow.capacity() + now < 1 << 53);
        let fast = Rate::per_second(u32::MAX, u32::MAX).unwrap();
        assert_eq!(fast.capacity(), SECOND);
        assert_eq!(fast.span(1), 1);
    }

    #[test]
    fn the_parts_of_all_nodes_together_are_the_whole() {
        let rate = Rate::per_second(90, 30).unwrap();
        let part = rate.part(3);
        assert_eq!(part.burst(), 10);
        assert_eq!(part.span(30), rate.span(90));
        assert_eq!(Rate::per_second(1, 1).unwrap().part(8).burst(), 1);
    }
}
