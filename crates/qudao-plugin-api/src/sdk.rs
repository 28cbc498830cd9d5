//! The author's side: traits to implement, sinks to write to, and macros that export the two
//! symbols. Each flavour wraps every entry in `catch_unwind`.

#[cfg(feature = "async")]
pub mod asynchronous;
pub mod batch;
pub mod blocking;
mod boundary;
pub mod text;

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

pub use self::boundary::{abi_info, catch, monotonic_ns};
use crate::{
    abi::{
        QD_KIND_CHAT, QD_KIND_CLASSIFY, QD_KIND_DETECT, QD_KIND_EMBED, QD_KIND_TRANSCRIBE, QdBytes,
        QdEvent, QdHostApi, QdPluginApi,
    },
    wire::{Ask, ChatRequest, ErrorDetail, ErrorKind, FinishReason, Usage},
};

/// The table of a plugin that this SDK made, so that its functions keep to the ABI.
#[derive(Debug, Clone, Copy)]
pub struct Table(pub(crate) &'static QdPluginApi);

impl Table {
    /// Its functions.
    #[must_use]
    pub const fn functions(self) -> &'static QdPluginApi {
        self.0
    }
}

/// How a call ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What it consumed.
    pub usage: Usage,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl Completion {
    /// An answer that ended by itself.
    #[must_use]
    pub const fn stop(usage: Usage) -> Self {
        Self { usage, finish_reason: FinishReason::Stop }
    }
}

/// Why a plugin could not serve a request or start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PluginError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// For the operator.
    pub message: String,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// The provider's HTTP status.
    pub status: Option<u16>,
    pub(crate) cancelled: bool,
}

impl PluginError {
    /// A failure of `kind`.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after_ms: None, status: None, cancelled: false }
    }

    /// A defect of the plugin.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A request that cannot be served as it is.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    /// A kind of request that the plugin does not serve.
    #[must_use]
    pub fn not_supported(what: &str) -> Self {
        Self::bad_request(format!("this plugin does not {what}"))
    }

    /// What a sink returns once the caller is gone; let `?` carry it out.
    #[must_use]
    pub fn cancelled() -> Self {
        Self { cancelled: true, ..Self::new(ErrorKind::Internal, "cancelled") }
    }

    /// Whether the caller is gone.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Adds the provider's HTTP status.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub const fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    pub(crate) const fn detail(&self) -> ErrorDetail {
        ErrorDetail { kind: self.kind, status: self.status, retry_after_ms: self.retry_after_ms }
    }
}

/// A borrowed request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `QD_KIND_*` of [`crate::abi`].
    pub kind: u32,
    /// Unique within the instance.
    pub id: u64,
    /// JSON that names its schema.
    pub payload: &'a [u8],
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// W3C traceparent, or empty.
    pub trace: &'a str,
}

impl Request<'_> {
    /// The payload as a chat request.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when it is not one.
    pub fn chat(&self) -> Result<ChatRequest, PluginError> {
        self.json()
    }

    /// The payload by the request's kind.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when it does not fit, or is of a kind that this SDK does not know.
    pub fn ask(&self) -> Result<Ask, PluginError> {
        match self.kind {
            QD_KIND_CHAT => self.json().map(Ask::Chat),
            QD_KIND_EMBED => self.json().map(Ask::Embed),
            QD_KIND_CLASSIFY => self.json().map(Ask::Classify),
            QD_KIND_DETECT => self.json().map(Ask::Detect),
            QD_KIND_TRANSCRIBE => self.json().map(Ask::Transcribe),
            other => Err(PluginError::not_supported(&format!("serve requests of kind {other}"))),
        }
    }

    /// The payload as any JSON type.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when it does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PluginError> {
        serde_json::from_slice(self.payload).map_err(|e| PluginError::bad_request(e.to_string()))
    }

    /// A copy that outlives the call.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRequest {
        OwnedRequest {
            kind: self.kind,
            id: self.id,
            payload: self.payload.to_vec(),
            deadline: self.deadline,
            trace: self.trace.to_owned(),
        }
    }
}

/// A request that outlives the call that brought it.
#[derive(Debug, Clone)]
pub struct OwnedRequest {
    /// `QD_KIND_*` of [`crate::abi`].
    pub kind: u32,
    /// Unique within the instance.
    pub id: u64,
    /// JSON that names its schema.
    pub payload: Vec<u8>,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// W3C traceparent, or empty.
    pub trace: String,
}

impl OwnedRequest {
    /// The borrowed form.
    #[must_use]
    pub fn borrow(&self) -> Request<'_> {
        Request {
            kind: self.kind,
            id: self.id,
            payload: &self.payload,
            deadline: self.deadline,
            trace: &self.trace,
        }
    }

    /// The payload as a chat request.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when it is not one.
    pub fn chat(&self) -> Result<ChatRequest, PluginError> {
        self.borrow().chat()
    }

    /// The payload by the request's kind.
    ///
    /// # Errors
    /// As [`Request::ask`].
    pub fn ask(&self) -> Result<Ask, PluginError> {
        self.borrow().ask()
    }

    /// The payload as any JSON type.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when it does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PluginError> {
        self.borrow().json()
    }
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error = 1,
    /// Something odd.
    Warn = 2,
    /// Worth knowing.
    Info = 3,
    /// For the author.
    Debug = 4,
    /// For the author, in a loop.
    Trace = 5,
}

/// The host, as the plugin sees it. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The host's table as far as both sides know it; the rest is absent.
    api: QdHostApi,
}

// SAFETY: the ABI promises that host callbacks may be called from any thread until `destroy`
// has returned; the SDK joins its threads before that.
unsafe impl Send for Host {}
// SAFETY: as above; the table is never written after `create`.
unsafe impl Sync for Host {}

/// Between two tries to emit, for hosts that cannot wait for credit.
const CREDIT_POLL: Duration = Duration::from_millis(1);

impl Host {
    /// Writes a line to the host's log.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.log_about("plugin", level, message);
    }

    /// Writes a line about a request to the host's log: `trace` is [`Request::trace`], and the line
    /// carries the id of that trace.
    pub fn log_about(&self, trace: &str, level: LogLevel, message: &str) {
        let (target, message) = (QdBytes::new(trace.as_bytes()), QdBytes::new(message.as_bytes()));
        if let Some(log) = self.api.log {
            // SAFETY: the host's own function over borrowed bytes, see the `Send` note.
            unsafe { log(self.api.ctx, level as u32, target, message) };
        }
    }

    /// Emits without waiting: credit left, or a negative `QD_E_*`.
    pub(crate) fn emit(&self, id: u64, events: &[QdEvent]) -> i32 {
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let Some(emit) = self.api.emit else { return crate::abi::QD_E_INTERNAL };
        // SAFETY: as in `log`.
        unsafe { emit(self.api.ctx, id, events.as_ptr(), count) }
    }

    /// Whether the host makes HTTP exchanges and keeps timers.
    #[cfg(feature = "async")]
    pub(crate) const fn has_net(&self) -> bool {
        let QdHostApi { http, http_read, http_stop, timer, .. } = &self.api;
        http.is_some() && http_read.is_some() && http_stop.is_some() && timer.is_some()
    }

    /// Begins an exchange: `QD_OK` or `QD_E_*`.
    #[cfg(feature = "async")]
    pub(crate) fn http(&self, id: u64, exchange: &crate::abi::QdHttp) -> i32 {
        let Some(http) = self.api.http else { return crate::abi::QD_E_ABI };
        // SAFETY: as in `log`.
        unsafe { http(self.api.ctx, id, exchange) }
    }

    /// Asks for the next part of an answer.
    #[cfg(feature = "async")]
    pub(crate) fn http_read(&self, id: u64) {
        if let Some(read) = self.api.http_read {
            // SAFETY: as in `log`.
            unsafe { read(self.api.ctx, id) };
        }
    }

    /// Ends an exchange.
    #[cfg(feature = "async")]
    pub(crate) fn http_stop(&self, id: u64) {
        if let Some(stop) = self.api.http_stop {
            // SAFETY: as in `log`.
            unsafe { stop(self.api.ctx, id) };
        }
    }

    /// Asks for an event after so many milliseconds.
    #[cfg(feature = "async")]
    pub(crate) fn timer(&self, id: u64, ms: u64) {
        if let Some(timer) = self.api.timer {
            // SAFETY: as in `log`.
            unsafe { timer(self.api.ctx, id, ms) };
        }
    }

    /// Waits until another `emit` is worth a try: credit, 0 when unknown, or `QD_E_*`.
    pub(crate) fn wait_credit(&self, id: u64, timeout: Duration) -> i32 {
        let Some(wait) = self.api.wait_credit else {
            std::thread::sleep(CREDIT_POLL.min(timeout));
            return 0;
        };
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: as in `log`.
        unsafe { wait(self.api.ctx, id, timeout_ms) }
    }
}
