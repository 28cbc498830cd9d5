//! The one client for addresses that a tenant chose.

use std::{error::Error as _, fmt, future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    EgressError, Lookup, PublicUrl, Refusal, Rules, SystemLookup, metrics, resolve::guard,
};

/// An idle connection costs both sides; the next request is seldom to the same host.
const POOL_IDLE: Duration = Duration::from_secs(20);
const POOL_IDLE_PER_HOST: usize = 4;
/// What the client itself decides. A caller who took these from a tenant would let it speak to
/// another virtual host, or smuggle a second request.
const OWN_HEADERS: &[HeaderName] = &[
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::ACCEPT_ENCODING,
    header::COOKIE,
    header::USER_AGENT,
];

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until a connection stands, the look-up of the name included.
    pub connect: Duration,
    /// Until the last byte of the answer.
    pub total: Duration,
    /// Bytes of an answer's body.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(15),
            body_bytes: 1 << 20,
        }
    }
}

/// Requests addresses that a tenant chose. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Egress {
    http: reqwest::Client,
    rules: Arc<Rules>,
    lookup: Arc<dyn Lookup>,
    limits: Limits,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("rules", &self.rules)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Egress {
    /// A client that looks names up as the operating system does. Opens no connection yet.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(rules: Rules, limits: Limits) -> Result<Self, reqwest::Error> {
        Self::with_lookup(rules, limits, Arc::new(SystemLookup::default()))
    }

    /// A client that asks `lookup` for the addresses of names.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn with_lookup(
        rules: Rules,
        limits: Limits,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .connect_timeout(limits.connect)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
            .user_agent(concat!("qudao-egress/", env!("CARGO_PKG_VERSION")));
        let http = guard(builder, &rules, Arc::clone(&lookup)).build()?;
        Ok(Self { http, rules: Arc::new(rules), lookup, limits })
    }

    /// The same client with other bounds; connections are shared. The time until a connection stands
    /// stays as it was.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        let connect = self.limits.connect;
        Self { limits: Limits { connect, ..limits }, ..self.clone() }
    }

    /// What this client may request, for whoever dials by the same rules and speaks no HTTP.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn lookup(&self) -> &dyn Lookup {
        &*self.lookup
    }

    /// How long a connection may take to stand.
    pub(crate) fn connect_limit(&self) -> Duration {
        self.limits.connect
    }

    /// Reads an address by this client's rules.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn url(&self, text: &str) -> Result<PublicUrl, Refusal> {
        PublicUrl::parse(text, &self.rules)
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// Also for an answer that is no success.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        url: &PublicUrl,
        headers: HeaderMap,
    ) -> Result<T, EgressError> {
        let answer = async {
            let response = self.exchange(Method::GET, url, accepting_json(headers), None).await?;
            read_json(&response)
        };
        counted(answer).await
    }

    /// Sends JSON and reads JSON.
    ///
    /// # Errors
    /// Also for an answer that is no success.
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        url: &PublicUrl,
        headers: HeaderMap,
        body: &B,
    ) -> Result<T, EgressError> {
        let answer = async {
            let body = serde_json::to_vec(body).map_err(unsendable)?;
            let mut headers = accepting_json(headers);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let response = self.exchange(Method::POST, url, headers, Some(body)).await?;
            read_json(&response)
        };
        counted(answer).await
    }

    /// Sends bytes and gives back whatever answer comes, whole.
    ///
    /// # Errors
    /// See [`EgressError`]; a redirect is one, any other status is an answer.
    pub async fn request(
        &self,
        method: Method,
        url: &PublicUrl,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, EgressError> {
        counted(self.exchange(method, url, headers, body)).await
    }

    /// The same for libraries that bring a whole request, such as `openidconnect`, whose client is
    /// `|request| egress.send(request)`. Its address is read anew, by the rules.
    ///
    /// # Errors
    /// As [`Egress::request`], and for an address that is refused.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, EgressError> {
        let answer = async {
            let (parts, body) = request.into_parts();
            let url = self.url(&parts.uri.to_string())?;
            let body = (!body.is_empty()).then_some(body);
            self.exchange(parts.method, &url, parts.headers, body).await
        };
        counted(answer).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &PublicUrl,
        mut headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, EgressError> {
        // It may have been read by other rules.
        self.rules.judge(url.as_url())?;
        for own in OWN_HEADERS {
            headers.remove(own);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut request = reqwest::Request::new(method, url.as_url().clone());
        *request.headers_mut() = headers;
        *request.body_mut() = body.map(Into::into);
        let whole = tokio::time::timeout(self.limits.total, self.whole(request));
        whole.await.unwrap_or_else(|_| Err(timed_out(self.limits.total)))
    }

    async fn whole(&self, request: reqwest::Request) -> Result<Response<Vec<u8>>, EgressError> {
        let cap = self.limits.body_bytes;
        let sent = self.http.execute(request).await;
        let mut response = sent.map_err(|error| self.failure(error))?;
        // The resolver and the reader saw to it. If they were wrong, nothing is told of it.
        if response.remote_addr().is_some_and(|addr| !self.rules.allows(addr.ip())) {
            return Err(Refusal::AddressNotPublic.into());
        }
        let status = response.status();
        if status.is_redirection() && status != http::StatusCode::NOT_MODIFIED {
            return Err(EgressError::Redirected { status: status.as_u16() });
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(EgressError::Encoded);
        }
        let told = response.content_length().and_then(|told| usize::try_from(told).ok());
        if told.is_some_and(|told| told > cap) {
            return Err(EgressError::TooManyBytes { cap });
        }
        let mut body = Vec::with_capacity(told.unwrap_or_default());
        while let Some(bytes) = response.chunk().await.map_err(|error| self.failure(error))? {
            if body.len() + bytes.len() > cap {
                return Err(EgressError::TooManyBytes { cap });
            }
            body.extend_from_slice(&bytes);
        }
        let mut whole = Response::new(body);
        *whole.status_mut() = status;
        *whole.headers_mut() = std::mem::take(response.headers_mut());
        Ok(whole)
    }

    fn failure(&self, error: reqwest::Error) -> EgressError {
        if error.is_timeout() {
            return timed_out(if error.is_connect() {
                self.limits.connect
            } else {
                self.limits.total
            });
        }
        let mut cause = error.source();
        while let Some(found) = cause {
            if let Some(refusal) = found.downcast_ref::<Refusal>() {
                return EgressError::Refused(*refusal);
            }
            cause = found.source();
        }
        if error.is_builder() {
            return unsendable(error.without_url());
        }
        EgressError::Unreachable(error.without_url())
    }
}

async fn counted<T>(
    answer: impl Future<Output = Result<T, EgressError>>,
) -> Result<T, EgressError> {
    let ended = answer.await;
    metrics::count(&ended);
    ended
}

fn accepting_json(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

fn read_json<T: DeserializeOwned>(response: &Response<Vec<u8>>) -> Result<T, EgressError> {
    if !response.status().is_success() {
        return Err(EgressError::Status { status: response.status().as_u16() });
    }
    serde_json::from_slice(response.body()).map_err(EgressError::NotJson)
}

fn unsendable(error: impl std::error::Error + Send + Sync + 'static) -> EgressError {
    EgressError::Unsendable(Box::new(error))
}

fn timed_out(after: Duration) -> EgressError {
    EgressError::TimedOut { after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }
}
