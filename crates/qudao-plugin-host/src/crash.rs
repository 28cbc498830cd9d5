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
/// Fingerprints remembered; the memory starts anew beyond that.
const FINGERPRINTS_MAX: usize = 10_000;

/// What to do after a crash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    RestartAfter(Duration),
    Quarantine,
}

/// The crashes of one instance.
#[derive(Debug, Default)]
pub(crate) struct CrashHistory {
    recent: VecDeque<Instant>,
    fingerprints: HashMap<u64, u32>,
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

    /// Remembers a request that was under way; whether it is poison now.
    pub(crate) fn blame(&mut self, fingerprint: u64) -> bool {
        if FINGERPRINTS_MAX <= self.fingerprints.len() {
            self.fingerprints.clear();
        }
        let crashes = self.fingerprints.entry(fingerprint).or_default();
        *crashes += 1;
        POISON_CRASHES <= *crashes
    }

    /// Whether a request crashed the plugin too often. `fingerprint` is taken only if any did.
    pub(crate) fn is_poison(&self, fingerprint: impl FnOnce() -> u64) -> bool {
        !self.fingerprints.is_empty()
            && self
                .fingerprints
                .get(&fingerprint())
                .is_some_and(|crashes| POISON_CRASHES <= *crashes)
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
        let mut history = CrashHistory::default();
        assert!(!history.blame(7) && !history.is_poison(|| 7));
        assert!(history.blame(7) && history.is_poison(|| 7) && !history.is_poison(|| 8));
        history.forgive();
        assert!(history.is_poison(|| 7));
    }
}
