//! Sends requests: the host's connections, our patience, our retries.
//!
//! The transport of `async-openai` would retry without an end in sight, lose `Retry-After`, and
//! read a stream into an unbounded queue, which is why nothing of it is used. The host makes the
//! exchanges: in the platform's process on the thread that serves the caller.

use std::time::{Duration, Instant};

use qudao_plugin_api::{Answer, Net, NetError, Outgoing};

use crate::{
    failure::{self, Failure},
    settings::Timeouts,
};

/// The wait before the first further attempt, doubled for each one after.
const BACKOFF: Duration = Duration::from_millis(250);
/// No single wait is longer, unless the provider asked for it.
const BACKOFF_CAP: Duration = Duration::from_secs(8);
/// Of a refusal's body; the rest is not read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// The header that names the place in a trace: <https://www.w3.org/TR/trace-context/>.
const TRACE: &str = "traceparent";

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When all is over.
    pub deadline: Instant,
    /// Until the head of a reply; `None` where the head only comes with the whole answer.
    pub first_byte: Option<Duration>,
    /// Between two parts of it.
    pub idle: Duration,
}

/// Where requests go, with which headers, and how stubbornly.
#[derive(Clone)]
pub struct Transport {
    url: String,
    /// With the key.
    headers: Vec<(String, Vec<u8>)>,
    connect: Duration,
    public: bool,
    max_retries: u32,
}

impl Transport {
    /// A transport to one address. With `public`, it connects to what is open to everybody and
    /// nothing else.
    #[must_use]
    pub fn new(
        url: String,
        headers: Vec<(String, Vec<u8>)>,
        timeouts: &Timeouts,
        max_retries: u32,
        public: bool,
    ) -> Self {
        Self { url, headers, connect: timeouts.connect(), public, max_retries }
    }

    /// Sends until a reply begins with success, the failure is not a passing one, the attempts
    /// are used up, or the next wait would end after the deadline. `trace` is a W3C `traceparent`, or
    /// empty.
    ///
    /// # Errors
    /// The last attempt's failure.
    pub async fn send<'a>(
        &self,
        net: &'a Net,
        trace: &str,
        body: &[u8],
        patience: Patience,
    ) -> Result<Answer<'a>, Failure> {
        let mut attempt = 0;
        loop {
            let failure = match self.attempt(net, trace, body, patience).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = failure.retry_after.unwrap_or_else(|| backoff(attempt));
            let too_late =
                Instant::now().checked_add(wait).is_none_or(|at| at >= patience.deadline);
            if !failure.passing || attempt >= self.max_retries || too_late {
                return Err(failure);
            }
            attempt += 1;
            net.sleep(wait).await;
        }
    }

    async fn attempt<'a>(
        &self,
        net: &'a Net,
        trace: &str,
        body: &[u8],
        patience: Patience,
    ) -> Result<Answer<'a>, Failure> {
        let begun = Instant::now();
        let until = patience
            .first_byte
            .map_or(patience.deadline, |limit| patience.deadline.min(begun + limit));
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        // The operator's own would win.
        let is_own = self.headers.iter().any(|(name, _)| name == TRACE);
        let trace = (!trace.is_empty() && !is_own).then_some((TRACE, trace.as_bytes()));
        let headers: Vec<_> = own.chain(trace).collect();
        let request = Outgoing {
            method: "POST",
            url: &self.url,
            headers: &headers,
            body,
            connect: self.connect,
            head: Some(until.saturating_duration_since(begun)),
            idle: Some(patience.idle),
            total: Some(patience.deadline.saturating_duration_since(begun)),
            public: self.public,
        };
        let answer = net.send(&request).await.map_err(|error| match error {
            NetError::Stalled(_) => Failure::timeout("no reply began", begun.elapsed()),
            other => other.into(),
        })?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(refusal(net, answer, until).await)
    }
}

async fn refusal(net: &Net, mut answer: Answer<'_>, until: Instant) -> Failure {
    let retry_after = retry_after(&answer);
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BYTES {
        match net.within(until, answer.chunk()).await {
            Ok(Ok(Some(bytes))) => body.extend_from_slice(&bytes),
            // The status alone says enough.
            _ => break,
        }
    }
    body.truncate(MAX_ERROR_BYTES);
    if (300..400).contains(&answer.status) {
        return Failure::bad_request(&format!(
            "the provider answered {}: it redirects, check `base_url`",
            answer.status
        ))
        .in_own_words();
    }
    failure::from_reply(answer.status, &body, retry_after)
}

/// When to come back: milliseconds as OpenAI says it, else seconds or a date as HTTP does.
fn retry_after(answer: &Answer<'_>) -> Option<Duration> {
    let text = |name: &str| std::str::from_utf8(answer.header(name)?).ok().map(str::trim);
    wait(text("retry-after-ms"), text("retry-after"))
}

fn wait(ms: Option<&str>, when: Option<&str>) -> Option<Duration> {
    if let Some(ms) = ms.and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1_000.0).ok();
    }
    let value = when?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = httpdate::parse_http_date(value).ok()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a date in a header is compared with the wall clock"
    )]
    let now = std::time::SystemTime::now();
    Some(at.duration_since(now).unwrap_or_default())
}

/// Full jitter: many nodes that failed together shall not come back together.
fn backoff(attempt: u32) -> Duration {
    let ceiling = BACKOFF.saturating_mul(1 << attempt.min(10)).min(BACKOFF_CAP);
    ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
}

/// Whether a reply is one JSON document although events were asked for.
#[must_use]
pub fn is_whole(answer: &Answer<'_>) -> bool {
    answer.header("content-type").is_some_and(|kind| kind.starts_with(b"application/json"))
}

#[cfg(test)]
mod tests;
