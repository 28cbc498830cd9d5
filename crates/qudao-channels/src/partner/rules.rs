//! When an event is sent again, and what an answer means.

use std::time::Duration;

use qudao_pcp::{Delivered, kind};
use rand::RngExt as _;

use super::courier::Posted;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
/// Seconds before each attempt.
const SCHEDULE: [u64; 12] = [
    0,
    5,
    30,
    2 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
];
/// How much faster time runs between the attempts in the sandbox.
const SANDBOX_SPEED: f64 = 25.0;
/// The longest that a partner may have us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(HOUR);
/// How often an endpoint may turn us away before the tenant is told.
pub(super) const COMPLAIN_AT: u32 = 3;

/// How long a message is of use.
pub const GOOD_FOR: Duration = Duration::from_secs(24 * HOUR);
/// How long "writes…" is of use.
pub(super) const TYPING_GOOD_FOR: Duration = Duration::from_secs(30);
/// The breaker opens after so many failures in a row, or when they have lasted for so long, and
/// then lets one probe through in so long.
pub const BREAKER: (u32, Duration, Duration) =
    (20, Duration::from_secs(5 * MINUTE), Duration::from_secs(MINUTE));

/// What an attempt means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// The partner has it.
    Done(Delivered),
    /// The endpoint is no more.
    Gone,
    /// This event will never be taken; others may.
    Poison,
    /// Another attempt may help, after this time at least.
    Again {
        /// What the partner asked for.
        after: Option<Duration>,
        /// It turned us away: usually a deployment or a key.
        turned_away: bool,
    },
}

pub(super) fn judge(posted: &Posted) -> Verdict {
    let after = posted.retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    match posted.status {
        200..=299 => Verdict::Done(serde_json::from_slice(&posted.body).unwrap_or_default()),
        410 => Verdict::Gone,
        400 | 413 | 422 => Verdict::Poison,
        401 | 403 | 404 => Verdict::Again { after, turned_away: true },
        _ => Verdict::Again { after, turned_away: false },
    }
}

/// The wait after an attempt, of which this was the `tries`th; `None` after the last.
pub(super) fn wait(tries: u32, after: Option<Duration>, sandbox: bool) -> Option<Duration> {
    let planned = Duration::from_secs(*SCHEDULE.get(usize::try_from(tries).ok()?)?);
    let speed = if sandbox { SANDBOX_SPEED } else { 1.0 };
    let jitter = rand::rng().random_range(0.8..=1.2);
    Some(planned.div_f64(speed).mul_f64(jitter).max(after.unwrap_or_default()))
}

/// How long an event of this kind is of use.
pub(super) fn good_for(of: &str) -> Option<Duration> {
    match of {
        kind::TYPING_STARTED => Some(TYPING_GOOD_FOR),
        kind::MESSAGE_CREATED | kind::MESSAGE_UPDATED => Some(GOOD_FOR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Verdict {
        judge(&Posted { status, body: Vec::new(), retry_after: Some(Duration::from_secs(9999)) })
    }

    #[test]
    fn each_status_means_what_the_protocol_says() {
        let after = Some(RETRY_AFTER_MAX);
        assert_eq!(answered(204), Verdict::Done(Delivered::default()));
        assert_eq!(answered(410), Verdict::Gone);
        for status in [400, 413, 422] {
            assert_eq!(answered(status), Verdict::Poison);
        }
        for status in [401, 403, 404] {
            assert_eq!(answered(status), Verdict::Again { after, turned_away: true });
        }
        for status in [302, 408, 425, 429, 500, 503] {
            assert_eq!(answered(status), Verdict::Again { after, turned_away: false });
        }
    }

    #[test]
    fn there_are_twelve_attempts_each_later_than_the_one_before() {
        let waits: Vec<_> = (1..=12).map(|tries| wait(tries, None, false)).collect();
        assert!(waits[..11].iter().all(Option::is_some) && waits[11].is_none());
        let five = waits[0].unwrap().as_secs_f64();
        assert!((4.0..=6.0).contains(&five));
        let asked = Duration::from_secs(7);
        assert!(wait(1, Some(asked), true).unwrap() >= asked);
    }
}
