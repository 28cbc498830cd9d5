//! Calls that a node pays for before they come.
//!
//! To ask Redis about each call of a caller who comes often takes longer than the rest of what is
//! done for it. Several calls are charged at once instead, and let pass from memory afterwards.
//! Nothing passes that was not charged: what all nodes together allow stays what the limit says.
//! The price: while a node holds calls that nobody makes, another may refuse so many more, at most
//! the part of each bucket that `take.lua` leaves to one question. [`KEPT`] after the question they
//! are given back to each bucket that has not been empty of debt since: what flowed back by itself
//! must not come twice. So do those of a node that ends, of a caller who hung up while Redis was
//! asked, and of an answer that came too late.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Bucket, Owner};

/// Who used up what was charged within this time gets twice as much charged the next time.
const BUSY: Duration = Duration::from_millis(50);
/// After this time the next call is charged alone, and what was not used is given back. Who makes all
/// calls of a question at the pace that they were charged for needs less.
pub(super) const KEPT: Duration = Duration::from_millis(250);
/// A question that is open for so long broke off: no answer of Redis is waited for longer.
const BROKEN_OFF: Duration = Duration::from_secs(10);
/// The most calls that are charged at once.
const MOST: u32 = 64;
/// With so many callers those who are not busy and left nothing are forgotten.
const CALLERS: usize = 4096;

/// The callers of a node, by the names of what they are limited by.
#[derive(Default)]
pub(super) struct Ahead(Mutex<HashMap<String, Caller>>);

struct Caller {
    /// Calls that are charged and were not made yet.
    left: u32,
    /// How many the last question was about.
    asked: u32,
    asked_at: Instant,
    /// Its answer is on the way: others ask for themselves alone meanwhile, or all of them would
    /// charge for the same calls.
    asking: bool,
    charged: Option<Charged>,
}

/// Where several calls were charged at once.
#[derive(Debug)]
pub(super) struct Charged {
    pub(super) owner: Owner,
    pub(super) buckets: Vec<Bucket>,
    /// What each bucket owed when Redis answered, and what a call adds, in microseconds.
    pub(super) debts: Vec<(u64, u64)>,
}

/// What is to be done about a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It was charged before. The debt of each bucket without the calls that are still to come.
    Paid(Vec<u64>),
    /// Redis has to be asked, about so many calls.
    Ask(u32),
}

impl Ahead {
    /// Makes one call.
    pub(super) fn take(&self, name: &str) -> Way {
        let (mut callers, now) = (self.callers(), Instant::now());
        if let Some(caller) = callers.get_mut(name) {
            return caller.take(now);
        }
        if CALLERS <= callers.len() {
            callers
                .retain(|_, caller| 0 < caller.left || now.duration_since(caller.asked_at) < BUSY);
            if CALLERS <= callers.len() {
                return Way::Ask(1);
            }
        }
        callers.insert(name.to_owned(), Caller::new(now));
        Way::Ask(1)
    }

    /// What came of a question about `asked` calls: so many were charged, this one among them. Nothing
    /// if it was refused or not answered.
    pub(super) fn answered(&self, name: &str, asked: u32, charged: Option<(u32, Charged)>) {
        let mut callers = self.callers();
        let Some(caller) = callers.get_mut(name) else { return };
        if asked == caller.asked {
            caller.asking = false;
        }
        let Some((calls, charged)) = charged.filter(|(calls, _)| 1 < *calls) else { return };
        caller.left = calls - 1;
        caller.asked_at = Instant::now();
        caller.charged = Some(charged);
    }

    /// Forgets the callers who did not come for a while, and tells what they left: how many calls,
    /// and of which buckets. Of a bucket that may have been empty of debt since, nothing is left.
    pub(super) fn unused(&self) -> Vec<(u32, Charged)> {
        let now = Instant::now();
        let mut callers = self.callers();
        let gone = callers.extract_if(|_, caller| caller.is_gone(now));
        gone.filter(|(_, caller)| 0 < caller.left)
            .filter_map(|(_, caller)| {
                let since = micros(now.duration_since(caller.asked_at));
                Some((caller.left, caller.charged?.still_owed(since)?))
            })
            .collect()
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<String, Caller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    const fn new(now: Instant) -> Self {
        Self { left: 0, asked: 1, asked_at: now, asking: true, charged: None }
    }

    fn is_gone(&self, now: Instant) -> bool {
        (if self.asking { BROKEN_OFF } else { KEPT }) <= now.duration_since(self.asked_at)
    }

    fn take(&mut self, now: Instant) -> Way {
        let since = now.duration_since(self.asked_at);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Way::Paid(self.debts_after(since));
        }
        if self.is_gone(now) {
            *self = Self::new(now);
            return Way::Ask(1);
        }
        if self.asking {
            return Way::Ask(1);
        }
        self.asked = if since < BUSY { (self.asked * 2).min(MOST) } else { self.asked };
        (self.asked_at, self.asking) = (now, true);
        Way::Ask(self.asked)
    }

    fn debts_after(&self, since: Duration) -> Vec<u64> {
        let since = micros(since);
        let owed = |(debt, call): &(u64, u64)| {
            debt.saturating_sub(since).saturating_sub(call * u64::from(self.left))
        };
        self.charged.iter().flat_map(|charged| &charged.debts).map(owed).collect()
    }
}

impl Charged {
    /// The buckets that cannot have been empty of debt within so many microseconds, if any.
    fn still_owed(self, since: u64) -> Option<Self> {
        let both = self.buckets.into_iter().zip(self.debts);
        let (buckets, debts): (Vec<_>, _) = both.filter(|(_, (debt, _))| since < *debt).unzip();
        (!buckets.is_empty()).then_some(Self { owner: self.owner, buckets, debts })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    /// A bucket that a call owes so much in, as Redis answers it.
    fn owing(call: Duration, calls: u32) -> Option<(u32, Charged)> {
        let rate = Rate::per_second(100, 100).unwrap();
        let debts = vec![(micros(call * calls), micros(call))];
        let buckets = vec![Bucket::one("key", "k", rate)];
        Some((calls, Charged { owner: Owner::Platform, buckets, debts }))
    }

    fn charged(calls: u32) -> Option<(u32, Charged)> {
        owing(Duration::from_millis(10), calls)
    }

    fn ask(ahead: &Ahead, calls: u32) {
        assert_eq!(ahead.take("a"), Way::Ask(calls));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_often_is_asked_about_less_often_and_never_passes_uncharged() {
        let ahead = Ahead::default();
        let (mut made, mut paid) = (0, 0);
        while made < 1000 {
            if let Way::Ask(calls) = ahead.take("a") {
                assert_eq!(made, paid, "asked before what was charged is used");
                paid += calls;
                ahead.answered("a", calls, charged(calls));
            }
            made += 1;
            assert!(made <= paid);
        }
        assert!(paid <= 1000 + MOST, "{paid}");
    }

    #[tokio::test(start_paused = true)]
    async fn debts_fall_with_time_and_rise_with_calls() {
        let ahead = Ahead::default();
        ask(&ahead, 1);
        ahead.answered("a", 1, charged(1));
        ask(&ahead, 2);
        ahead.answered("a", 2, charged(2));
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(ahead.take("a"), Way::Paid(vec![17_000]));
        ask(&ahead, 4);
        ahead.answered("a", 4, charged(3));
        assert_eq!(ahead.take("a"), Way::Paid(vec![20_000]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_while_a_question_is_open_asks_for_one() {
        let ahead = Ahead::default();
        ask(&ahead, 1);
        ask(&ahead, 1);
        ahead.answered("a", 1, charged(1));
        ahead.answered("a", 1, charged(1));
        ask(&ahead, 2);
        ask(&ahead, 1);
        // One that was let in meanwhile does not end the open question.
        ahead.answered("a", 1, charged(1));
        ask(&ahead, 1);
        ahead.answered("a", 2, None);
        ask(&ahead, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_seldom_pays_for_one_and_what_was_not_used_is_given_back() {
        let ahead = Ahead::default();
        for _ in 0..5 {
            ask(&ahead, 1);
            ahead.answered("a", 1, charged(1));
            tokio::time::advance(BUSY).await;
        }
        for calls in [1, 2, 4] {
            ask(&ahead, calls);
            ahead.answered("a", calls, owing(KEPT, calls));
            for _ in 1..calls.min(3) {
                assert!(matches!(ahead.take("a"), Way::Paid(_)));
            }
        }
        tokio::time::advance(KEPT / 2).await;
        assert!(ahead.unused().is_empty(), "it may still come");
        tokio::time::advance(KEPT / 2).await;
        let left: Vec<_> = ahead.unused().into_iter().map(|(left, _)| left).collect();
        assert_eq!(left, [1]);
        assert!(ahead.unused().is_empty(), "it is given back once");
        ask(&ahead, 1);
    }

    /// Somebody else may have used it meanwhile.
    #[tokio::test(start_paused = true)]
    async fn what_flowed_back_by_itself_is_not_given_back_as_well() {
        let ahead = Ahead::default();
        for calls in [1, 2] {
            ask(&ahead, calls);
            ahead.answered("a", calls, owing(KEPT / 2, calls));
        }
        tokio::time::advance(KEPT).await;
        assert!(ahead.unused().is_empty());
        ask(&ahead, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_open_question_brings_is_not_lost() {
        let ahead = Ahead::default();
        ask(&ahead, 1);
        ahead.answered("a", 1, charged(1));
        ask(&ahead, 2);
        tokio::time::advance(KEPT).await;
        assert!(ahead.unused().is_empty());
        ahead.answered("a", 2, charged(2));
        assert!(matches!(ahead.take("a"), Way::Paid(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_strangers_is_not_remembered() {
        let ahead = Ahead::default();
        for n in 0..3 * CALLERS {
            assert_eq!(ahead.take(&n.to_string()), Way::Ask(1));
        }
        assert_eq!(ahead.callers().len(), CALLERS);
        tokio::time::advance(BUSY).await;
        ask(&ahead, 1);
        assert_eq!(ahead.callers().len(), 1);
    }
}
