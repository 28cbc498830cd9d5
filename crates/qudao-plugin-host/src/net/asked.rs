//! An exchange that a plugin asks for, as it is read from the plugin's memory.

use std::{cell::RefCell, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{ACCEPT, USER_AGENT},
};
use http_body_util::Full;
use hyper::body::Bytes;
use qudao_plugin_api::abi::{QD_HTTP_PUBLIC, QdHttp, SIZE_OF_HTTP};
use tokio::time::Instant;
use url::Url;

/// More headers than any request has.
const HEADERS: u32 = 256;
/// Those that may be added: what asks, what it takes, where, how much.
const OURS: usize = 4;
const AGENT: &str = concat!("qudao/", env!("CARGO_PKG_VERSION"));

/// An exchange that a plugin asks for.
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) connect_ms: u32,
    pub(super) public: bool,
    pub(super) limits: Limits,
    pub(super) request: Request<Full<Bytes>>,
}

/// How long it may take; what may take as long as it does has no end in sight.
pub(super) struct Limits {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) total: Duration,
}

impl Limits {
    pub(super) fn until(&self, begun: Instant, now: Instant, limit: Duration) -> Instant {
        (now + limit).min(begun + self.total)
    }
}

/// Longer than anybody waits.
const NO_END: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn limit(ms: u32) -> Duration {
    if ms == 0 { NO_END } else { Duration::from_millis(u64::from(ms)) }
}

/// Reads it; `None` if it cannot be sent.
///
/// # Safety
/// `exchange` and what it points to are readable for the call.
pub(super) unsafe fn read_exchange(exchange: *const QdHttp) -> Option<Asked> {
    // SAFETY: the caller's promise; the first field is always there.
    if exchange.is_null() || unsafe { exchange.cast::<u32>().read() } < SIZE_OF_HTTP {
        return None;
    }
    // SAFETY: it is as large as it says.
    let exchange = unsafe { &*exchange };
    if HEADERS < exchange.header_count {
        return None;
    }
    // SAFETY: the caller's promise.
    let (method, url, body) =
        unsafe { (exchange.method.as_slice(), exchange.url.as_slice(), exchange.body.as_slice()) };
    let method = Method::from_bytes(method).ok()?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
    *request.method_mut() = method;
    *request.uri_mut() = read_url(std::str::from_utf8(url).ok()?)?;
    // SAFETY: the caller's promise.
    *request.headers_mut() = unsafe { read_headers(exchange) }?;
    let public = exchange.flags & QD_HTTP_PUBLIC != 0;
    let limits = Limits {
        head: limit(exchange.head_ms),
        idle: limit(exchange.idle_ms),
        total: limit(exchange.total_ms),
    };
    let QdHttp { number, connect_ms, .. } = *exchange;
    Some(Asked { number, connect_ms, public, limits, request })
}

/// An address as a browser reads it; one with a name and a password, which belong into a header, or
/// with a fragment, which is not sent, is none.
pub(super) fn read_url(text: &str) -> Option<Uri> {
    thread_local! {
        // Mostly it is that of the exchange before.
        static LAST: RefCell<Option<(String, Uri)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if let Some((_, uri)) = last.as_ref().filter(|(known, _)| known == text) {
            return Some(uri.clone());
        }
        let url = Url::parse(text).ok()?;
        let known = matches!(url.scheme(), "http" | "https");
        let named = !url.username().is_empty() || url.password().is_some();
        if !known || named || url.fragment().is_some() {
            return None;
        }
        let uri = Uri::try_from(url.as_str()).ok()?;
        *last = Some((text.to_owned(), uri.clone()));
        Some(uri)
    })
}

/// # Safety
/// As [`read_exchange`].
unsafe fn read_headers(exchange: &QdHttp) -> Option<HeaderMap> {
    let count = usize::try_from(exchange.header_count).ok()?;
    let mut headers = HeaderMap::with_capacity(count + OURS);
    if count != 0 && exchange.headers.is_null() {
        return None;
    }
    for at in 0..count {
        // SAFETY: the caller's promise.
        let (name, value) = unsafe {
            let header = &*exchange.headers.add(at);
            (header.name.as_slice(), header.value.as_slice())
        };
        let mut value = HeaderValue::from_bytes(value).ok()?;
        // Most of them are keys.
        value.set_sensitive(true);
        headers.append(HeaderName::from_bytes(name).ok()?, value);
    }
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    Some(headers)
}
