//! The headers by which clients pace themselves, after draft-ietf-httpapi-ratelimit-headers-11: every
//! allowance that a request touched, with what it holds and where it stands.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use qudao_storage::Standing;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// The standings that a request got, for the middleware that writes the response.
#[derive(Debug, Clone)]
pub(crate) struct Standings(pub(crate) Vec<Standing>);

/// Tells the caller where the allowances stand.
pub(crate) fn tell(headers: &mut HeaderMap, standings: &[Standing]) {
    let list = |one: &dyn Fn(&Standing) -> String| {
        let items: Vec<_> = standings.iter().map(one).collect();
        HeaderValue::try_from(items.join(", ")).ok()
    };
    let policy = |s: &Standing| format!("\"{}\";q={};w={}", s.kind, s.limit, seconds(s.window));
    let state = |s: &Standing| format!("\"{}\";r={};t={}", s.kind, s.remaining, seconds(s.reset));
    if standings.is_empty() {
        return;
    }
    if let (Some(policy), Some(state)) = (list(&policy), list(&state)) {
        headers.insert(POLICY, policy);
        headers.insert(STATE, state);
    }
}

/// Whole seconds, rounded up: who comes that late is not too early.
fn seconds(time: Duration) -> u128 {
    time.as_millis().div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(kind: &'static str, remaining: u32, reset: Duration) -> Standing {
        Standing { kind, limit: 30, remaining, reset, window: Duration::from_secs(60) }
    }

    #[test]
    fn every_allowance_is_told_with_what_it_holds_and_where_it_stands() {
        let mut headers = HeaderMap::new();
        let standings = [
            standing("visitor", 3, Duration::from_millis(54_001)),
            standing("chat_address", 30, Duration::ZERO),
        ];
        tell(&mut headers, &standings);
        let policy = r#""visitor";q=30;w=60, "chat_address";q=30;w=60"#;
        assert_eq!(headers.get("ratelimit-policy").unwrap(), policy);
        let state = r#""visitor";r=3;t=55, "chat_address";r=30;t=0"#;
        assert_eq!(headers.get("ratelimit").unwrap(), state);
    }

    #[test]
    fn nothing_is_told_where_nothing_is_limited() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, &[]);
        assert!(headers.is_empty());
    }
}
