//! A circuit breaker: a model that fails too often is left alone for a while, then tried with a few
//! calls, and serves again when those succeed. Time is a value: what has passed since any moment that
//! stays the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is asked.
    Closed,
    /// It is tried with a few calls.
    HalfOpen,
    /// It is left alone.
    Open,
}

impl Health {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Closed, Self::HalfOpen, Self::Open];

    /// As it stands in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// When a model is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Calls older than this do not count.
    pub window: Duration,
    /// Fewer calls within the window say nothing.
    pub min_calls: u32,
    /// Opens when at least so many of a hundred calls fail.
    pub failure_percent: u32,
    /// How long it stays open.
    pub cooldown: Duration,
    /// How many calls try the model at a time when that is over, and how many have to succeed.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            min_calls: 10,
            failure_percent: 50,
            cooldown: Duration::from_secs(15),
            probes: 2,
        }
    }
}

/// Parts of the window that are forgotten one after the other.
const SLOTS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which part of time it counts.
    number: u128,
    calls: u32,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Duration },
    HalfOpen { under_way: u32, succeeded: u32 },
}

/// The breaker of one model.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    slots: [Slot; SLOTS],
    state: State,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Call,
    /// Yes, and what comes of it decides.
    Probe,
    /// Not before so much time has passed; zero while probes are under way.
    Wait(Duration),
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, slots: [Slot::default(); SLOTS], state: State::Closed }
    }

    /// How the model does at this moment.
    pub fn health(&self, now: Duration) -> Health {
        match self.state {
            State::Closed => Health::Closed,
            State::Open { until } if now < until => Health::Open,
            State::Open { .. } | State::HalfOpen { .. } => Health::HalfOpen,
        }
    }

    /// Calls and failures within the window.
    pub fn counts(&self, now: Duration) -> (u32, u32) {
        let oldest = self.number(now).saturating_sub(SLOTS as u128 - 1);
        let within = self.slots.iter().filter(|slot| oldest <= slot.number);
        within
            .fold((0, 0), |(calls, failures), slot| (calls + slot.calls, failures + slot.failures))
    }

    /// When it will be tried again, if it is open.
    pub fn open_until(&self) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    /// Whether a call may be made now. A [`Admission::Probe`] has to be followed by
    /// [`Self::record`] or [`Self::give_up`].
    pub fn admit(&mut self, now: Duration) -> Admission {
        match &mut self.state {
            State::Closed => Admission::Call,
            State::Open { until } if now < *until => Admission::Wait(*until - now),
            State::Open { .. } => {
                self.state = State::HalfOpen { under_way: 1, succeeded: 0 };
                Admission::Probe
            }
            State::HalfOpen { under_way, .. } if *under_way < self.settings.probes.max(1) => {
                *under_way += 1;
                Admission::Probe
            }
            State::HalfOpen { .. } => Admission::Wait(Duration::ZERO),
        }
    }

    /// What came of a call. Returns the new state where that changed it.
    pub fn record(&mut self, now: Duration, ok: bool, probe: bool) -> Option<Health> {
        self.count(now, ok);
        match &mut self.state {
            State::Closed => self.is_bad(now).then(|| self.open(now)),
            State::HalfOpen { under_way, succeeded } if probe => {
                *under_way = under_way.saturating_sub(1);
                if !ok {
                    return Some(self.open(now));
                }
                *succeeded += 1;
                (self.settings.probes.max(1) <= *succeeded).then(|| self.close())
            }
            // A call from before says nothing that is not known.
            State::HalfOpen { .. } | State::Open { .. } => None,
        }
    }

    /// A probe came to no verdict.
    pub fn give_up(&mut self) {
        if let State::HalfOpen { under_way, .. } = &mut self.state {
            *under_way = under_way.saturating_sub(1);
        }
    }

    /// Another node found that the model fails.
    pub fn open_for(&mut self, now: Duration, rest: Duration) {
        // It may not have been tried here before it is tried at all.
        self.state = State::Open { until: now + rest.min(self.settings.cooldown) };
    }

    /// The model serves again, as another node found. Forgets what was.
    pub fn close(&mut self) -> Health {
        self.state = State::Closed;
        self.slots = [Slot::default(); SLOTS];
        Health::Closed
    }

    fn open(&mut self, now: Duration) -> Health {
        self.state = State::Open { until: now + self.settings.cooldown };
        Health::Open
    }

    fn is_bad(&self, now: Duration) -> bool {
        let (calls, failures) = self.counts(now);
        self.settings.min_calls.max(1) <= calls
            && u64::from(self.settings.failure_percent) * u64::from(calls)
                <= u64::from(failures) * 100
            && 0 < failures
    }

    fn number(&self, now: Duration) -> u128 {
        let length = (self.settings.window.as_nanos() / SLOTS as u128).max(1);
        // From one on: a slot that was never used is older than all.
        now.as_nanos() / length + SLOTS as u128
    }

    fn count(&mut self, now: Duration, ok: bool) {
        let number = self.number(now);
        let place = usize::try_from(number % SLOTS as u128).unwrap_or_default();
        let slot = &mut self.slots[place];
        if slot.number != number {
            *slot = Slot { number, calls: 0, failures: 0 };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(!ok));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed(breaker: &mut Breaker, from: u64, calls: u64) {
        for call in 0..calls {
            breaker.record(at(from) + Duration::from_millis(call), false, false);
        }
    }

    #[test]
    fn it_opens_at_its_rate_and_not_before_enough_calls() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        failed(&mut breaker, 1, 9);
        assert_eq!(breaker.health(at(1)), Health::Closed);
        assert_eq!(breaker.record(at(2), false, false), Some(Health::Open));
        assert_eq!(breaker.health(at(2)), Health::Open);
        assert_eq!(breaker.admit(at(3)), Admission::Wait(at(14)));
    }

    #[test]
    fn good_calls_keep_it_closed_and_old_failures_are_forgotten() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for second in 0..200 {
            breaker.record(at(second), second % 3 != 0, false);
            assert_eq!(breaker.health(at(second)), Health::Closed);
        }
        let mut breaker = Breaker::new(BreakerSettings::default());
        failed(&mut breaker, 0, 9);
        assert_eq!(breaker.counts(at(0)), (9, 9));
        assert_eq!(breaker.counts(at(31)), (0, 0));
        assert_eq!(breaker.record(at(31), false, false), None);
    }

    #[test]
    fn it_tries_with_few_calls_and_closes_when_they_succeed() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        failed(&mut breaker, 0, 10);
        assert_eq!(breaker.health(at(16)), Health::HalfOpen);
        assert_eq!(breaker.admit(at(16)), Admission::Probe);
        assert_eq!(breaker.admit(at(16)), Admission::Probe);
        assert_eq!(breaker.admit(at(16)), Admission::Wait(Duration::ZERO));
        assert_eq!(breaker.record(at(17), true, true), None);
        assert_eq!(breaker.admit(at(17)), Admission::Probe);
        assert_eq!(breaker.record(at(17), true, true), Some(Health::Closed));
        assert_eq!(breaker.admit(at(17)), Admission::Call);
        // What failed before does not count again.
        assert_eq!(breaker.record(at(17), false, false), None);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_without_verdict_frees_its_place() {
        let mut breaker = Breaker::new(BreakerSettings { probes: 1, ..BreakerSettings::default() });
        failed(&mut breaker, 0, 10);
        assert_eq!(breaker.admit(at(16)), Admission::Probe);
        breaker.give_up();
        assert_eq!(breaker.admit(at(17)), Admission::Probe);
        assert_eq!(breaker.record(at(17), false, true), Some(Health::Open));
        assert_eq!(breaker.admit(at(18)), Admission::Wait(at(14)));
    }

    #[test]
    fn what_another_node_found_counts_here_and_never_longer_than_the_cooldown() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        breaker.open_for(at(0), at(5));
        assert_eq!(breaker.admit(at(1)), Admission::Wait(at(4)));
        breaker.open_for(at(0), at(5_000));
        assert_eq!(breaker.admit(at(1)), Admission::Wait(at(14)));
        breaker.close();
        assert_eq!(breaker.admit(at(1)), Admission::Call);
    }

    proptest! {
        /// Whatever happens: an open one lets nothing pass before its time, a half-open one no more
        /// calls at a time than it may, and it is never stuck.
        #[test]
        fn it_keeps_its_promises(steps in prop::collection::vec((0_u64..4_000, any::<bool>(), any::<bool>()), 1..200)) {
            let settings = BreakerSettings::default();
            let mut breaker = Breaker::new(settings);
            let (mut now, mut probes, mut calls) = (Duration::ZERO, 0_u32, 0_u32);
            for (later, ok, ends) in steps {
                now += Duration::from_millis(later);
                let until = breaker.open_until();
                match breaker.admit(now) {
                    Admission::Call => calls += 1,
                    Admission::Probe => {
                        prop_assert!(until.is_none_or(|until| until <= now));
                        if until.is_some() { probes = 0; }
                        probes += 1;
                        prop_assert!(probes <= settings.probes);
                    }
                    Admission::Wait(rest) => prop_assert!(rest <= settings.cooldown),
                }
                if ends && 0 < calls {
                    calls -= 1;
                    breaker.record(now, ok, false);
                } else if ends && 0 < probes {
                    probes -= 1;
                    breaker.record(now, ok, true);
                }
            }
            while 0 < probes { probes -= 1; breaker.give_up(); }
            let later = now + settings.cooldown + settings.window;
            prop_assert!(!matches!(breaker.admit(later), Admission::Wait(_)));
        }
    }
}
