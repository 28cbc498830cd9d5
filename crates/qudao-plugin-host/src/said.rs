//! What plugins write into the platform's log: no more of it than an operator can read, or one
//! plugin would fill the disk, and hide in its noise what others say.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use qudao_telemetry::{Redacted, Trace};

/// Lines of an instance within [`WINDOW`]; what comes beyond is counted and dropped.
const LINES_MAX: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(5);
/// Of one line; the rest is cut off.
const LINE_BYTES_MAX: usize = 8 << 10;

/// By instance. Their names are the operator's, so there are few.
static METERS: LazyLock<Mutex<HashMap<String, Meter>>> = LazyLock::new(Mutex::default);

/// The lines of an instance in the present window.
struct Meter {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Meter {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, dropped: 0 }
    }

    /// Whether a line is passed on; with the first of a window, how many were not before.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let mut dropped = 0;
        if WINDOW <= now.saturating_duration_since(self.since) {
            dropped = self.dropped;
            *self = Self::new(now);
        }
        if self.lines < LINES_MAX {
            self.lines += 1;
            return (true, dropped);
        }
        self.dropped += 1;
        (false, dropped)
    }
}

/// A line of a plugin. Its target is the `traceparent` of the request that it is about, or a name.
pub(crate) fn log_line(instance: &str, level: u32, target: &[u8], message: &str) {
    let now = Instant::now();
    let mut meters = METERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (passed, dropped) = match meters.get_mut(instance) {
        Some(meter) => meter.take(now),
        None => meters.entry(instance.to_owned()).or_insert(Meter::new(now)).take(now),
    };
    drop(meters);
    if dropped != 0 {
        tracing::warn!(instance, dropped, "the plugin wrote more lines than are kept");
    }
    if !passed {
        return;
    }
    let message = Redacted(cut(message));
    let trace = std::str::from_utf8(target).ok().and_then(Trace::parse);
    let trace_id = trace.map(|trace| tracing::field::display(trace.id()));
    match level {
        1 => tracing::error!(instance, trace_id, "{message}"),
        2 => tracing::warn!(instance, trace_id, "{message}"),
        3 => tracing::info!(instance, trace_id, "{message}"),
        _ => tracing::debug!(instance, trace_id, "{message}"),
    }
}

fn cut(message: &str) -> &str {
    let end = message.floor_char_boundary(LINE_BYTES_MAX);
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_dropped_and_counted_and_the_next_window_begins_anew() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let passed = (0..5_000).filter(|_| meter.take(start).0).count();
        assert_eq!(passed, 1_000);
        assert_eq!(meter.take(start + WINDOW), (true, 4_000));
        assert_eq!(meter.take(start + WINDOW), (true, 0));
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        let long = "语".repeat(10_000);
        assert!(cut(&long).len() <= LINE_BYTES_MAX && cut(&long).ends_with('语'));
        assert_eq!(cut("short"), "short");
    }
}
