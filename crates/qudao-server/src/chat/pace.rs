//! How fast one visitor may write. A person does not notice it; a script that burns a tenant's
//! credits through an open chat page does.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use crate::{code::Code, error::ApiError, settings::Limits};

/// After so many messages, visitors who have rested are forgotten.
const TIDY_EVERY: u32 = 4096;

/// The allowances of all visitors that this node serves.
pub(crate) struct VisitorPace {
    limiter: Option<DefaultKeyedRateLimiter<Arc<str>>>,
    taken: AtomicU32,
}

impl VisitorPace {
    pub(crate) fn new(limits: &Limits) -> Self {
        let limiter = NonZeroU32::new(limits.visitor_messages_per_minute).map(|rate| {
            let burst = NonZeroU32::new(limits.visitor_burst).unwrap_or(NonZeroU32::MIN);
            RateLimiter::keyed(Quota::per_minute(rate).allow_burst(burst))
        });
        Self { limiter, taken: AtomicU32::new(0) }
    }

    /// Takes one message from the visitor's allowance.
    ///
    /// # Errors
    /// `rate_limited` if nothing is left.
    pub(crate) fn take(&self, peer: &Arc<str>) -> Result<(), ApiError> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if self.taken.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY_EVERY) {
            limiter.retain_recent();
        }
        limiter.check_key(peer).map_err(|refused| {
            let wait = refused.wait_time_from(limiter.clock().now());
            ApiError::new(Code::RateLimited, "too many messages in a short time").retry_after(wait)
        })
    }
}
