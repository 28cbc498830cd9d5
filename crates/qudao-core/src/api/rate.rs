//! How often one key may call.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::{StateInformationMiddleware, StateSnapshot},
    state::keyed::DefaultKeyedStateStore,
};
use qudao_domain::ApiKeyId;

use super::ApiError;
use crate::settings::ApiSettings;

/// Where a key stands in its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRate {
    /// Calls that it may make at once after a rest.
    pub limit: u32,
    /// How many of them it has left.
    pub remaining: u32,
    /// When it will have all of them again if it makes no call meanwhile.
    pub reset: Duration,
}

type Limiter = RateLimiter<
    ApiKeyId,
    DefaultKeyedStateStore<ApiKeyId>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// The allowances of all keys.
pub(super) struct KeyRates {
    limiter: Limiter,
    quota: Quota,
}

impl KeyRates {
    /// `None` where calls are not limited.
    pub(super) fn new(settings: &ApiSettings) -> Option<Self> {
        let rate = settings.requests_per_second.and_then(NonZeroU32::new)?;
        let burst = NonZeroU32::new(settings.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Some(Self { limiter: RateLimiter::keyed(quota).with_middleware(), quota })
    }

    /// Takes one call from the key's allowance.
    ///
    /// # Errors
    /// [`ApiError::RateLimited`] if nothing is left.
    pub(super) fn take(&self, key: ApiKeyId) -> Result<CallRate, ApiError> {
        let checked = self.limiter.check_key(&key);
        let rate = self.rate(checked.as_ref().ok());
        checked.map(|_| rate).map_err(|refused| {
            let retry_after = refused.wait_time_from(self.limiter.clock().now());
            ApiError::RateLimited { retry_after, rate }
        })
    }

    fn rate(&self, left: Option<&StateSnapshot>) -> CallRate {
        let limit = self.quota.burst_size().get();
        let remaining = left.map_or(0, StateSnapshot::remaining_burst_capacity).min(limit);
        let reset = self.quota.replenish_interval() * (limit - remaining);
        CallRate { limit, remaining, reset }
    }

    /// Forgets keys whose allowance is whole.
    pub(super) fn tidy(&self) {
        self.limiter.retain_recent();
    }
}
