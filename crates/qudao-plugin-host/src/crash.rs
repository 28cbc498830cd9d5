//! What crashes teach: how long to wait, when to stop trying, which requests to refuse.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// So many crashes within [`WINDOW`] quarantine the plugin.
const CRASHES_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Crashes of one request before it is refused.
const POISON_CRASHES: u32 = 2;
/// A request that has not crashed anything for so long is given another chance.
const FINGERPRINT_TTL: Duration = Duration::from_secs(600);
/// Fingerprints remembered; the memory starts anew beyond that.
const FINGERPRINTS_MAX: usize = 10_000;

/// What to do after a crash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    RestartAfter(Duration),
    Quarantine,
}

/// What one request did.
#[derive(Debug, Clone, Copy)]
struct Blame {
    crashes: u32,
    last: Instant,
}

impl Blame {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < FINGERPRINT_TTL
    }
}

/// The crashes of one instance.
#[derive(Debug, Default)]
pub(crate) struct CrashHistory {
    recent: VecDeque<Instant>,
    fingerprints: HashMap<u64, Blame>,
}

impl CrashHistory {
    pub(crate) fn crashed(&mut self, now: Instant) -> Verdict {
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| WINDOW < now - *first) {
            self.recent.pop_front();
        }
        if CRASHES_MAX <= self.recent.len() {
            return Verdict::Quarantine;
        }
        let exponent = u32::try_from(self.recent.len() - 1).unwrap_or(0) * 2;
        Verdict::RestartAfter((BACKOFF_FIRST * 2u32.pow(exponent)).min(BACKOFF_MAX))
    }

    /// Remembers a request that crashed the plugin; whether it is poison now.
    pub(crate) fn blame(&mut self, fingerprint: u64, now: Instant) -> bool {
        self.fingerprints.retain(|_, blame| blame.is_fresh(now));
        if FINGERPRINTS_MAX <= self.fingerprints.len() {
            self.fingerprints.clear();
        }
        let fresh = Blame { crashes: 0, last: now };
        let blame = self.fingerprints.entry(fingerprint).or_insert(fresh);
        *blame = Blame { crashes: blame.crashes + 1, last: now };
        POISON_CRASHES <= blame.crashes
    }

    /// Whether a request crashed the plugin too often lately. Costs next to nothing while no
    /// request did.
    pub(crate) fn is_poison(
        &self,
        now: impl FnOnce() -> Instant,
        fingerprint: impl FnOnce() -> u64,
    ) -> bool {
        !self.fingerprints.is_empty()
            && self
                .fingerprints
                .get(&fingerprint())
                .is_some_and(|blame| POISON_CRASHES <= blame.crashes && blame.is_fresh(now()))
    }

    pub(crate) fn forgive(&mut self) {
        self.recent.clear();
    }
}

fn file(state_dir: &Path, plugin: &str) -> PathBuf {
    state_dir.join("quarantine").join(plugin)
}

/// The reason a plugin is in quarantine, if it is.
pub(crate) fn find_quarantine(state_dir: &Path, plugin: &str) -> Option<String> {
    fs::read_to_string(file(state_dir, plugin)).ok()
}

pub(crate) fn quarantine(state_dir: &Path, plugin: &str, reason: &str) -> io::Result<()> {
    fs::create_dir_all(state_dir.join("quarantine"))?;
    fs::write(file(state_dir, plugin), reason)
}

pub(crate) fn lift(state_dir: &Path, plugin: &str) -> io::Result<()> {
    match fs::remove_file(file(state_dir, plugin)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_crash_within_a_minute_quarantines_and_spread_ones_do_not() {
        let start = Instant::now();
        let mut history = CrashHistory::default();
        for at in 0..4 {
            let verdict = history.crashed(start + Duration::from_secs(at));
            assert!(matches!(verdict, Verdict::RestartAfter(_)), "{at}");
        }
        assert_eq!(history.crashed(start + Duration::from_secs(4)), Verdict::Quarantine);
        let mut spread = CrashHistory::default();
        for at in 0..20 {
            let verdict = spread.crashed(start + Duration::from_secs(at * 20));
            assert!(matches!(verdict, Verdict::RestartAfter(_)), "{at}");
        }
    }

    #[test]
    fn a_request_is_poison_after_two_crashes_and_stays_so_when_the_rest_is_forgiven() {
        let now = Instant::now();
        let mut history = CrashHistory::default();
        assert!(!history.blame(7, now) && !history.is_poison(|| now, || 7));
        assert!(history.blame(7, now) && history.is_poison(|| now, || 7));
        assert!(!history.is_poison(|| now, || 8));
        history.forgive();
        assert!(history.is_poison(|| now, || 7));
    }

    #[test]
    fn a_request_that_crashed_long_ago_is_taken_again() {
        let start = Instant::now();
        let later = start + Duration::from_secs(601);
        let mut history = CrashHistory::default();
        assert!(!history.blame(7, start) && history.blame(7, start));
        assert!(!history.is_poison(|| later, || 7));
        assert!(!history.blame(7, later), "the old crashes do not count");
        assert!(history.blame(7, later));
    }
}
