//! The headers by which OpenAI's clients pace themselves.

use std::time::Duration;

use actix_web::{
    HttpResponseBuilder,
    http::header::{HeaderName, HeaderValue},
};
use qudao_core::rates::{ADDRESS, KEY, KEY_TOKENS, TENANT, TENANT_TOKENS};
use qudao_storage::Standing;

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Tells the caller where it stands: of several allowances the one of which least is left.
pub(crate) fn tell(response: &mut HttpResponseBuilder, standings: &[Standing]) {
    for (kinds, names) in
        [(&[KEY, TENANT, ADDRESS][..], REQUESTS), (&[KEY_TOKENS, TENANT_TOKENS][..], TOKENS)]
    {
        let of_kind = standings.iter().filter(|standing| kinds.contains(&standing.kind));
        let Some(least) = of_kind.min_by_key(|standing| standing.remaining) else { continue };
        let [limit, remaining, reset] = names;
        response
            .insert_header((limit, HeaderValue::from(least.limit)))
            .insert_header((remaining, HeaderValue::from(least.remaining)))
            .insert_header((reset, span(least.reset)));
    }
}

/// A time span as OpenAI writes it: `120ms`, `1.5s`, `6m0s`.
fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{}ms", time.as_millis());
    }
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    if minutes != 0 {
        return format!("{minutes}m{seconds}s");
    }
    match time.subsec_millis() {
        0 => format!("{seconds}s"),
        millis => format!("{seconds}.{millis:03}").trim_end_matches('0').to_owned() + "s",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_openai_writes_them() {
        let cases = [(0, "0ms"), (120, "120ms"), (1_000, "1s"), (1_500, "1.5s"), (1_020, "1.02s")];
        for (millis, text) in cases.into_iter().chain([(60_000, "1m0s"), (3_661_000, "61m1s")]) {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
