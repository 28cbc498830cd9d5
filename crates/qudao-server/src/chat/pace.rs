//! How fast people may write to a web channel. A person does not notice it; a script that burns a
//! tenant's credits through an open chat page does.
//!
//! Two allowances hold at the same time. A visitor's keeps one browser in check. It alone would
//! stop no script, because a visitor's token is made by the client and a new token is a new
//! burst. So each address has one too, in each channel: larger, as many people may share one.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use actix_web::HttpRequest;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use qudao_domain::ChannelId;

use super::door::Visit;
use crate::{code::Code, error::ApiError, settings::Limits};

/// After so many messages, those who have rested are forgotten.
const TIDY_EVERY: u32 = 4096;

/// The allowances of all who write to web channels through this node.
pub(crate) struct VisitorPace {
    visitors: Option<DefaultKeyedRateLimiter<Arc<str>>>,
    addresses: Option<DefaultKeyedRateLimiter<(ChannelId, IpAddr)>>,
    taken: AtomicU32,
}

impl VisitorPace {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            visitors: limiter(limits.visitor_messages_per_minute, limits.visitor_burst),
            addresses: limiter(limits.address_messages_per_minute, limits.address_burst),
            taken: AtomicU32::new(0),
        }
    }

    /// Takes one message from the visitor's allowance and from that of the visitor's address. What
    /// the first refuses is not taken from the second, which others may share.
    ///
    /// # Errors
    /// `rate_limited` if nothing is left of either.
    pub(crate) fn take(&self, visit: &Visit) -> Result<(), ApiError> {
        if self.taken.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY_EVERY) {
            self.visitors.iter().for_each(RateLimiter::retain_recent);
            self.addresses.iter().for_each(RateLimiter::retain_recent);
        }
        check(self.visitors.as_ref(), &visit.peer, "too many messages in a short time")?;
        check(
            self.addresses.as_ref(),
            &(visit.door.channel_id, visit.address),
            "too many messages in a short time from this address",
        )
    }
}

/// `None` for a rate of 0, which is no limit.
fn limiter<K: Hash + Eq + Clone>(
    per_minute: u32,
    burst: u32,
) -> Option<DefaultKeyedRateLimiter<K>> {
    let rate = NonZeroU32::new(per_minute)?;
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Some(RateLimiter::keyed(Quota::per_minute(rate).allow_burst(burst)))
}

fn check<K: Hash + Eq + Clone>(
    limiter: Option<&DefaultKeyedRateLimiter<K>>,
    key: &K,
    refusal: &'static str,
) -> Result<(), ApiError> {
    let Some(limiter) = limiter else { return Ok(()) };
    limiter.check_key(key).map_err(|refused| {
        let wait = refused.wait_time_from(limiter.clock().now());
        ApiError::new(Code::RateLimited, refusal).retry_after(wait)
    })
}

/// Where a request comes from. A proxy on this machine is believed about the client that it
/// serves; what any other peer says of itself is not.
pub(crate) fn client_address(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.ip());
    if !peer.to_canonical().is_loopback() {
        return site(peer);
    }
    // A proxy appends; what stands before its own entry is what the client claimed.
    let forwarded = request.headers().get_all("x-forwarded-for").last();
    let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    site(last.and_then(parse_address).unwrap_or(peer))
}

/// An address, with a port or without.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

/// One connection to the Internet gets 2⁶⁴ addresses of IPv6; they count as one.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
