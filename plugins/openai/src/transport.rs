//! Sends requests: one connection pool, our patience, our retries.
//!
//! The transport of `async-openai` would retry without an end in sight, lose `Retry-After`, and
//! read a stream into an unbounded queue, which is why nothing of it is used.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use qudao_egress::{Rules, SystemLookup};
use reqwest::{Method, Request, Response, Url, header};
use tokio::time::{Instant, sleep, timeout_at};

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
/// Providers close idle connections after a minute or more; we close them before.
const POOL_IDLE: Duration = Duration::from_secs(45);

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When all is over.
    pub deadline: Instant,
    /// Until the head of a reply; `None` where the head only comes with the whole answer.
    pub first_byte: Option<Duration>,
}

/// A request that may be sent more than once.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// Where to.
    pub url: &'a Url,
    /// With the key.
    pub headers: &'a header::HeaderMap,
    /// The header `traceparent`; none if empty.
    pub trace: &'a str,
    /// JSON.
    pub body: Bytes,
}

impl Outgoing<'_> {
    fn build(&self) -> Request {
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        if !self.trace.is_empty()
            && let Ok(trace) = header::HeaderValue::from_str(self.trace)
        {
            request.headers_mut().insert("traceparent", trace);
        }
        *request.body_mut() = Some(self.body.clone().into());
        request
    }
}

/// A connection pool with a policy.
#[derive(Debug, Clone)]
pub struct Transport {
    http: reqwest::Client,
    max_retries: u32,
    key: Option<Arc<str>>,
}

impl Transport {
    /// Opens no connection yet. With `rules`, it connects to what they allow and nothing else.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(
        timeouts: &Timeouts,
        max_retries: u32,
        key: Option<&str>,
        rules: Option<&Rules>,
    ) -> Result<Self, Failure> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(60))
            .connect_timeout(timeouts.connect())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(usize::MAX)
            .user_agent(concat!("qudao/", env!("CARGO_PKG_VERSION")));
        let http = match rules {
            Some(rules) => {
                qudao_egress::guard(builder, rules, Arc::new(SystemLookup::default())).build()?
            }
            None => builder.build()?,
        };
        Ok(Self { http, max_retries, key: key.map(Arc::from) })
    }

    /// Sends until a reply begins with success, the failure is not a passing one, the attempts
    /// are used up, or the next wait would end after the deadline.
    ///
    /// # Errors
    /// The last attempt's failure.
    pub async fn send(
        &self,
        request: &Outgoing<'_>,
        patience: Patience,
    ) -> Result<Response, Failure> {
        let mut attempt = 0;
        loop {
            let failure = match self.attempt(request, patience).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let wait = failure.retry_after.unwrap_or_else(|| backoff(attempt));
            let too_late =
                Instant::now().checked_add(wait).is_none_or(|at| at >= patience.deadline);
            if !failure.passing || attempt >= self.max_retries || too_late {
                return Err(failure.without(self.key.as_deref()));
            }
            attempt += 1;
            sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        request: &Outgoing<'_>,
        patience: Patience,
    ) -> Result<Response, Failure> {
        let begun = Instant::now();
        let until = patience
            .first_byte
            .map_or(patience.deadline, |limit| patience.deadline.min(begun + limit));
        let sent = timeout_at(until, self.http.execute(request.build())).await;
        let response = sent.map_err(|_| Failure::timeout("no reply began", begun.elapsed()))??;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response, until).await)
    }
}

async fn refusal(mut response: Response, until: Instant) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BYTES {
        match timeout_at(until, response.chunk()).await {
            Ok(Ok(Some(bytes))) => body.extend_from_slice(&bytes),
            // The status alone says enough.
            _ => break,
        }
    }
    body.truncate(MAX_ERROR_BYTES);
    if status.is_redirection() {
        return Failure::bad_request(&format!(
            "the provider answered {}: it redirects, check `base_url`",
            status.as_u16()
        ));
    }
    failure::from_reply(status, &body, retry_after)
}

/// When to come back: milliseconds as OpenAI says it, else seconds or a date as HTTP does.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1_000.0).ok();
    }
    let value = text("retry-after")?;
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
pub fn is_whole(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

#[cfg(test)]
mod tests;
