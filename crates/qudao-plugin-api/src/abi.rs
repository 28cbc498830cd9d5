//! The C ABI, major version 1. The header `include/qudao_plugin.h` says the same in C.
//!
//! Append-only: fields are never moved or removed, and a reader looks at a field only after
//! `struct_size` has said that it is there. Nothing that one side allocated is freed by the other;
//! every pointer is borrowed for the duration of the call. Nothing unwinds across the boundary.

use core::{ffi::c_void, mem::offset_of, sync::atomic::AtomicU32};

/// `QUDAOPL\0` read as a little-endian number.
pub const QD_MAGIC: u64 = u64::from_le_bytes(*b"QUDAOPL\0");
/// Must be the same on both sides.
pub const QD_ABI_MAJOR: u16 = 1;
/// May differ both ways: what one side does not have is NULL to the other.
pub const QD_ABI_MINOR: u16 = 1;
/// Name of the data symbol, an [`QdAbiInfo`].
pub const QD_ABI_SYMBOL: &str = "QUDAO_PLUGIN_ABI";
/// Name of the function symbol, a [`QdPluginEntry`].
pub const QD_ENTRY_SYMBOL: &str = "qudao_plugin_entry";
/// Events that a plugin may emit before the host has granted more.
pub const QD_WINDOW: u32 = 256;
/// The most bytes that `data` and `extra` of one event may have together.
pub const QD_EVENT_BYTES_MAX: usize = 64 * 1024;

/// Built so that a panic unwinds and the SDK can contain it.
pub const QD_F_PANIC_UNWIND: u32 = 1;
/// Implements `run`.
pub const QD_F_BLOCKING: u32 = 2;
/// Implements `submit`.
pub const QD_F_ASYNC: u32 = 4;

/// Done.
pub const QD_OK: i32 = 0;
/// The request was cancelled: stop.
pub const QD_E_CANCELLED: i32 = -1;
/// No credit: nothing was taken. Wait, or park the request until `resume`.
pub const QD_E_AGAIN: i32 = -2;
/// The plugin panicked.
pub const QD_E_PANIC: i32 = -3;
/// The request or the settings are wrong.
pub const QD_E_INVALID: i32 = -4;
/// The plugin failed.
pub const QD_E_INTERNAL: i32 = -5;
/// The ABI does not fit.
pub const QD_E_ABI: i32 = -6;
/// The plugin's queue is full.
pub const QD_E_OVERLOADED: i32 = -7;
/// Of an exchange: no connection.
pub const QD_E_UNREACHABLE: i32 = -8;
/// Of an exchange: no connection in time.
pub const QD_E_TIMEOUT: i32 = -9;
/// Of an exchange: the connection broke.
pub const QD_E_BROKEN: i32 = -10;
/// Of an exchange: the other side was silent for too long.
pub const QD_E_STALLED: i32 = -11;

/// A piece of the answer, UTF-8.
pub const QD_EV_TOKEN: u16 = 1;
/// A JSON delta, such as a part of a tool call.
pub const QD_EV_DATA: u16 = 2;
/// JSON [`crate::wire::Usage`]; the last one counts.
pub const QD_EV_USAGE: u16 = 3;
/// Text for the operator on how far something is.
pub const QD_EV_PROGRESS: u16 = 4;
/// The last event of a request that went well; `data` is the finish reason.
pub const QD_EV_END: u16 = 5;
/// The last event of a request that failed; `data` is the message, `extra` JSON
/// [`crate::wire::ErrorDetail`].
pub const QD_EV_ERROR: u16 = 6;

/// The text is the model's reasoning and not its answer.
pub const QD_EF_REASONING: u16 = 1;

/// The exchange's answer begins: its `status` and headers.
pub const QD_NET_HEAD: u16 = 1;
/// More of the answer's body: `data`.
pub const QD_NET_BODY: u16 = 2;
/// The answer is whole.
pub const QD_NET_END: u16 = 3;
/// The exchange failed; `code` says how, `data` what happened.
pub const QD_NET_ERROR: u16 = 4;
/// The time that `timer` was given is over.
pub const QD_NET_TIMER: u16 = 5;

/// Only to addresses that are open to everybody, by the host's rules for what a tenant names.
pub const QD_HTTP_PUBLIC: u32 = 1;

/// Answer a conversation; the payload is [`crate::wire::ChatRequest`].
pub const QD_KIND_CHAT: u32 = 1;
/// Continue a text.
pub const QD_KIND_COMPLETE: u32 = 2;
/// Turn texts into vectors; the payload is [`crate::wire::EmbedRequest`].
pub const QD_KIND_EMBED: u32 = 3;
/// Sort texts into classes; the payload is [`crate::wire::ClassifyRequest`].
pub const QD_KIND_CLASSIFY: u32 = 4;
/// Find things in a picture; the payload is [`crate::wire::DetectRequest`].
pub const QD_KIND_DETECT: u32 = 5;
/// Turn speech into text; the payload is [`crate::wire::TranscribeRequest`].
pub const QD_KIND_TRANSCRIBE: u32 = 6;
/// Count tokens.
pub const QD_KIND_TOKENIZE: u32 = 7;

/// Bytes that are borrowed for the duration of the call. `ptr` may be NULL when `len` is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdBytes {
    /// First byte.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl QdBytes {
    /// No bytes.
    pub const EMPTY: Self = Self { ptr: core::ptr::null(), len: 0 };

    /// Borrows `bytes`.
    pub const fn new(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes.
    ///
    /// # Safety
    /// `ptr` points to `len` readable bytes that stay so for `'a`, or `len` is 0.
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.ptr.is_null() {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// The data symbol `QUDAO_PLUGIN_ABI`. Holds no pointer, so that it can be read from the file
/// without running any of the plugin's code.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdAbiInfo {
    /// [`QD_MAGIC`].
    pub magic: u64,
    /// Bytes of this struct as the plugin was built with it.
    pub struct_size: u32,
    /// [`QD_ABI_MAJOR`] of the plugin.
    pub abi_major: u16,
    /// [`QD_ABI_MINOR`] of the plugin.
    pub abi_minor: u16,
    /// `QD_F_*`.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Name and version of the SDK, padded with zeros.
    pub sdk: [u8; 32],
}

/// One event of a request's stream.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdEvent {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// `QD_EV_*`.
    pub kind: u16,
    /// `QD_EF_*`.
    pub flags: u16,
    /// Which choice, from 0.
    pub index: u32,
    /// The token's number in the model's vocabulary, or 0.
    pub token_id: u32,
    /// Natural logarithm of the token's probability, or 0.
    pub logprob: f32,
    /// `QD_OK` or `QD_E_*`, for `ERROR`.
    pub code: i32,
    /// See the kind.
    pub data: QdBytes,
    /// See the kind.
    pub extra: QdBytes,
}

impl QdEvent {
    /// An event with nothing but a kind and its data.
    pub const fn new(kind: u16, data: &[u8]) -> Self {
        Self {
            struct_size: SIZE_OF_EVENT,
            kind,
            flags: 0,
            index: 0,
            token_id: 0,
            logprob: 0.0,
            code: QD_OK,
            data: QdBytes::new(data),
            extra: QdBytes::EMPTY,
        }
    }
}

/// A request.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdRequest {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// `QD_KIND_*`.
    pub kind: u32,
    /// Unique among the requests of the instance that are under way.
    pub id: u64,
    /// On the monotonic clock, in nanoseconds; 0 for none.
    pub deadline_ns: u64,
    /// JSON that names its schema.
    pub payload: QdBytes,
    /// Becomes non-zero when the request is cancelled. Valid until `run` returns, or until the
    /// last event was emitted.
    pub cancel: *const AtomicU32,
    /// W3C `traceparent`, or empty.
    pub trace: QdBytes,
}

/// A header of an exchange.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdHeader {
    /// Its name.
    pub name: QdBytes,
    /// Its value.
    pub value: QdBytes,
}

/// An HTTP request that the host is to make on behalf of a request of the plugin's. Since minor
/// version 1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdHttp {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// `QD_HTTP_*`.
    pub flags: u32,
    /// Which of the request's exchanges it is; its events carry the number.
    pub number: u32,
    /// How many headers.
    pub header_count: u32,
    /// Until a connection stands, in milliseconds; taken as whole seconds.
    pub connect_ms: u32,
    /// Until the answer begins, in milliseconds; 0 for as long as it takes. So with the next two:
    /// what takes longer fails with [`QD_E_STALLED`].
    pub head_ms: u32,
    /// Until the next part of the body comes, from the moment at which it was asked for.
    pub idle_ms: u32,
    /// Until the answer is whole.
    pub total_ms: u32,
    /// `POST`, `GET`, ….
    pub method: QdBytes,
    /// Absolute, http or https, without a name and a password, which belong into a header,
    /// and without a fragment.
    pub url: QdBytes,
    /// First of `header_count`.
    pub headers: *const QdHeader,
    /// The whole body.
    pub body: QdBytes,
}

/// What comes of an exchange or of a timer. Since minor version 1.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdNetEvent {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// `QD_NET_*`.
    pub kind: u16,
    /// The HTTP status, for `HEAD`.
    pub status: u16,
    /// [`QdHttp::number`]; 0 for `TIMER`.
    pub number: u32,
    /// `QD_E_*`, for `ERROR`.
    pub code: i32,
    /// First of `header_count`, for `HEAD`.
    pub headers: *const QdHeader,
    /// How many headers.
    pub header_count: u32,
    /// 0.
    pub reserved: u32,
    /// See the kind.
    pub data: QdBytes,
}

/// Filled in by the callee when it returns an error.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdError {
    /// `QD_E_*`.
    pub code: i32,
    /// Bytes of `msg` that are used.
    pub len: u32,
    /// UTF-8.
    pub msg: [u8; 1016],
}

impl QdError {
    /// No error yet.
    pub const fn empty() -> Self {
        Self { code: QD_OK, len: 0, msg: [0; 1016] }
    }

    /// The message; broken UTF-8 and a wrong length are made the best of.
    pub fn message(&self) -> String {
        let len = usize::try_from(self.len).unwrap_or(0).min(self.msg.len());
        String::from_utf8_lossy(&self.msg[..len]).into_owned()
    }

    /// Sets code and message, cut at a character's boundary.
    pub fn set(&mut self, code: i32, message: &str) {
        let end = message.floor_char_boundary(self.msg.len());
        self.code = code;
        self.msg[..end].copy_from_slice(&message.as_bytes()[..end]);
        self.len = u32::try_from(end).unwrap_or(0);
    }
}

/// `log(ctx, level 1 (error) – 5 (trace), target, message)`. The target of a line about a request is
/// its `trace`, so that the host can tell whose line it is; otherwise any name.
pub type QdLog = unsafe extern "C" fn(*mut c_void, u32, QdBytes, QdBytes);
/// `emit(ctx, request, events, n)`: remaining credit, or `QD_E_AGAIN` (nothing taken), or
/// `QD_E_CANCELLED`. Never blocks; callable from any thread.
pub type QdEmit = unsafe extern "C" fn(*mut c_void, u64, *const QdEvent, u32) -> i32;
/// `wait_credit(ctx, request, timeout_ms)`: blocks until there is credit (its amount), the request
/// is cancelled (`QD_E_CANCELLED`) or the time is over (0).
pub type QdWaitCredit = unsafe extern "C" fn(*mut c_void, u64, u32) -> i32;

/// `http(ctx, request, exchange)`: begins an exchange for a request that is under way, and returns
/// at once; what comes of it comes through the plugin's `net`, on the thread that asked where that
/// can wait for sockets. A request has one exchange at a time: another one ends the one before.
/// `QD_E_CANCELLED` if the request is over, `QD_E_INVALID` for what cannot be sent.
pub type QdHttpBegin = unsafe extern "C" fn(*mut c_void, u64, *const QdHttp) -> i32;
/// `http_read(ctx, request)`: the next part of the body is wanted, of any size. Each `BODY` and the
/// `END` comes for one such word, so that a slow reader slows the sender down; a second word before
/// the part has come may count for the one after it.
pub type QdHttpRead = unsafe extern "C" fn(*mut c_void, u64);
/// `http_stop(ctx, request)`: closes the connection. Nothing follows but an event that is on its way.
pub type QdHttpStop = unsafe extern "C" fn(*mut c_void, u64);
/// `timer(ctx, request, ms)`: a `TIMER` event comes after so many milliseconds, or earlier, even from
/// within this call. A request has one timer: another one takes its place.
pub type QdTimer = unsafe extern "C" fn(*mut c_void, u64, u64);

/// What the host offers to a plugin. Outlives every instance.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdHostApi {
    /// Bytes of this struct as the host was built with it.
    pub struct_size: u32,
    /// [`QD_ABI_MINOR`] of the host.
    pub abi_minor: u32,
    /// Handed back in every call.
    pub ctx: *mut c_void,
    /// See [`QdLog`].
    pub log: Option<QdLog>,
    /// See [`QdEmit`].
    pub emit: Option<QdEmit>,
    /// See [`QdWaitCredit`].
    pub wait_credit: Option<QdWaitCredit>,
    /// See [`QdHttpBegin`]. Since minor version 1, as all that follows.
    pub http: Option<QdHttpBegin>,
    /// See [`QdHttpRead`].
    pub http_read: Option<QdHttpRead>,
    /// See [`QdHttpStop`].
    pub http_stop: Option<QdHttpStop>,
    /// See [`QdTimer`].
    pub timer: Option<QdTimer>,
}

/// `create(host, config JSON, out instance, error)`; may take minutes.
pub type QdCreate =
    unsafe extern "C" fn(*const QdHostApi, QdBytes, *mut *mut c_void, *mut QdError) -> i32;
/// `destroy(instance)`; no callback may come after it returned.
pub type QdDestroy = unsafe extern "C" fn(*mut c_void);
/// `run(instance, request, error)`: blocks until the request is done.
pub type QdRun = unsafe extern "C" fn(*mut c_void, *const QdRequest, *mut QdError) -> i32;
/// `submit(instance, request, error)`: returns at once; events follow.
pub type QdSubmit = unsafe extern "C" fn(*mut c_void, *const QdRequest, *mut QdError) -> i32;
/// `cancel(instance, request)`: idempotent; unknown ids are fine.
pub type QdCancel = unsafe extern "C" fn(*mut c_void, u64);
/// `resume(instance, request, credit)`: credit came back after `QD_E_AGAIN`.
pub type QdResume = unsafe extern "C" fn(*mut c_void, u64, u32);
/// `drain(instance, deadline_ns)`: finish what is under way, take nothing new.
pub type QdDrain = unsafe extern "C" fn(*mut c_void, u64) -> i32;

/// `net(instance, request, event)`: something came of an exchange or of a timer. From any thread; one
/// event of an exchange after the other. The request may be over by then: unknown ids are fine.
pub type QdNet = unsafe extern "C" fn(*mut c_void, u64, *const QdNetEvent);

/// What a plugin offers. `create`, `destroy` and one of `run` and `submit` are required.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct QdPluginApi {
    /// Bytes of this struct as the plugin was built with it.
    pub struct_size: u32,
    /// [`QD_ABI_MINOR`] of the plugin.
    pub abi_minor: u32,
    /// See [`QdCreate`].
    pub create: Option<QdCreate>,
    /// See [`QdDestroy`].
    pub destroy: Option<QdDestroy>,
    /// See [`QdRun`].
    pub run: Option<QdRun>,
    /// See [`QdSubmit`].
    pub submit: Option<QdSubmit>,
    /// See [`QdCancel`].
    pub cancel: Option<QdCancel>,
    /// See [`QdResume`].
    pub resume: Option<QdResume>,
    /// See [`QdDrain`].
    pub drain: Option<QdDrain>,
    /// See [`QdNet`]; required of a plugin that uses `http` or `timer`. Since minor version 1.
    pub net: Option<QdNet>,
}

/// The function symbol: the plugin's table, or NULL when it cannot serve this host.
pub type QdPluginEntry = unsafe extern "C" fn(u32, u32) -> *const QdPluginApi;

/// The size of a type as the ABI writes it.
#[expect(clippy::cast_possible_truncation, reason = "no struct of the ABI comes near 4 GiB")]
pub const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

macro_rules! sizes {
    ($($(#[$doc:meta])* $name:ident = $type:ty, $bytes:literal;)+) => {
        $(
            $(#[$doc])*
            pub const $name: u32 = size_u32::<$type>();
            const _: () = assert!(size_of::<$type>() == $bytes);
        )+
    };
}

sizes! {
    /// Bytes of [`QdAbiInfo`].
    SIZE_OF_ABI_INFO = QdAbiInfo, 56;
    /// Bytes of [`QdEvent`].
    SIZE_OF_EVENT = QdEvent, 56;
    /// Bytes of [`QdRequest`].
    SIZE_OF_REQUEST = QdRequest, 64;
    /// Bytes of [`QdError`].
    SIZE_OF_ERROR = QdError, 1024;
    /// Bytes of [`QdHostApi`].
    SIZE_OF_HOST_API = QdHostApi, 72;
    /// Bytes of [`QdPluginApi`].
    SIZE_OF_PLUGIN_API = QdPluginApi, 72;
    /// Bytes of [`QdHeader`].
    SIZE_OF_HEADER = QdHeader, 32;
    /// Bytes of [`QdHttp`].
    SIZE_OF_HTTP = QdHttp, 88;
    /// Bytes of [`QdNetEvent`].
    SIZE_OF_NET_EVENT = QdNetEvent, 48;
}

/// Bytes of a plugin's table up to and with `run`: less is no plugin.
pub const SIZE_OF_PLUGIN_API_MIN: usize = offset_of!(QdPluginApi, submit);

// The layout is frozen: the same on every compiler for 64-bit targets.
const _: () = {
    assert!(offset_of!(QdAbiInfo, abi_major) == 12);
    assert!(offset_of!(QdAbiInfo, flags) == 16);
    assert!(offset_of!(QdAbiInfo, sdk) == 24);
    assert!(offset_of!(QdEvent, kind) == 4);
    assert!(offset_of!(QdEvent, code) == 20);
    assert!(offset_of!(QdEvent, data) == 24);
    assert!(offset_of!(QdEvent, extra) == 40);
    assert!(offset_of!(QdRequest, payload) == 24);
    assert!(offset_of!(QdRequest, cancel) == 40);
    assert!(offset_of!(QdRequest, trace) == 48);
    assert!(offset_of!(QdHostApi, emit) == 24);
    assert!(offset_of!(QdHostApi, wait_credit) == 32);
    assert!(offset_of!(QdPluginApi, run) == 24);
    assert!(offset_of!(QdPluginApi, drain) == 56);
    assert!(offset_of!(QdHostApi, http) == 40);
    assert!(offset_of!(QdHostApi, timer) == 64);
    assert!(offset_of!(QdPluginApi, net) == 64);
    assert!(offset_of!(QdHttp, url) == 48);
    assert!(offset_of!(QdHttp, body) == 72);
    assert!(offset_of!(QdNetEvent, headers) == 16);
    assert!(offset_of!(QdNetEvent, data) == 32);
};
