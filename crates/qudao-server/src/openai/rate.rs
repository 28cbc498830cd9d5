//! The headers by which OpenAI's clients pace themselves.

use std::time::Duration;

use actix_web::HttpResponseBuilder;
use qudao_core::CallRate;

/// Tells the caller where its key stands.
pub(crate) fn tell(response: &mut HttpResponseBuilder, rate: CallRate) {
    response
        .insert_header(("x-ratelimit-limit-requests", rate.limit.to_string()))
        .insert_header(("x-ratelimit-remaining-requests", rate.remaining.to_string()))
        .insert_header(("x-ratelimit-reset-requests", span(rate.reset)));
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
