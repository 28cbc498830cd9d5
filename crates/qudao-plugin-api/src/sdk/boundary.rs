//! What every flavour does at its entries: read C structs, catch panics, end streams.

use std::{
    any::Any,
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::{Completion, Host, PluginError, Request};
use crate::abi::{
    QD_ABI_MAJOR, QD_ABI_MINOR, QD_E_CANCELLED, QD_E_INTERNAL, QD_E_INVALID, QD_E_PANIC, QD_EV_END,
    QD_EV_ERROR, QD_F_PANIC_UNWIND, QD_MAGIC, QD_OK, QdAbiInfo, QdBytes, QdError, QdEvent,
    QdHostApi, QdRequest, SIZE_OF_ABI_INFO,
};

/// The block behind the symbol `QUDAO_PLUGIN_ABI`.
#[must_use]
pub const fn abi_info(flags: u32) -> QdAbiInfo {
    let name = concat!("qudao-sdk ", env!("CARGO_PKG_VERSION")).as_bytes();
    let mut sdk = [0; 32];
    let mut at = 0;
    while at < name.len() && at < sdk.len() {
        sdk[at] = name[at];
        at += 1;
    }
    let unwind = if cfg!(panic = "unwind") { QD_F_PANIC_UNWIND } else { 0 };
    QdAbiInfo {
        magic: QD_MAGIC,
        struct_size: SIZE_OF_ABI_INFO,
        abi_major: QD_ABI_MAJOR,
        abi_minor: QD_ABI_MINOR,
        flags: flags | unwind,
        reserved: 0,
        sdk,
    }
}

/// Runs `body`; a panic becomes its message.
///
/// # Errors
/// The message of the panic.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| panic_message(&*payload))
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("the plugin panicked: {}", text.unwrap_or("no message"))
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of `deadline_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid out parameter.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn deadline(deadline_ns: u64) -> Option<Instant> {
    (deadline_ns != 0)
        .then(|| Instant::now() + Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns())))
}

/// # Safety
/// `request` is valid for `'a`, as the ABI promises for the duration of a call.
pub(super) unsafe fn read_request<'a>(request: *const QdRequest) -> Request<'a> {
    // SAFETY: the caller's promise.
    let request = unsafe { &*request };
    // SAFETY: borrowed for the call.
    let (payload, trace) = unsafe { (request.payload.as_slice(), request.trace.as_slice()) };
    Request {
        kind: request.kind,
        id: request.id,
        payload,
        deadline: deadline(request.deadline_ns),
        trace: std::str::from_utf8(trace).unwrap_or(""),
    }
}

/// # Safety
/// `error` is null or valid for writes.
pub(super) unsafe fn fail(error: *mut QdError, code: i32, message: &str) -> i32 {
    // SAFETY: the caller's promise.
    if let Some(error) = unsafe { error.as_mut() } {
        error.set(code, message);
    }
    code
}

/// The host's table as far as this side knows it; `None` if it has no `emit`.
///
/// # Safety
/// `host` is null or points to as many bytes as its first field says.
unsafe fn read_host(host: *const QdHostApi) -> Option<QdHostApi> {
    if host.is_null() {
        return None;
    }
    // SAFETY: the first field is always there.
    let size = usize::try_from(unsafe { ptr::read_unaligned(host.cast::<u32>()) }).ok()?;
    if size < offset_of!(QdHostApi, wait_credit) {
        return None;
    }
    // A field that is there by half is not there.
    let known = size.min(size_of::<QdHostApi>()) & !(align_of::<QdHostApi>() - 1);
    let mut table = MaybeUninit::<QdHostApi>::zeroed();
    // SAFETY: `known` bytes are readable there and writable here; zeros are valid for every
    // field, as NULL is `None`.
    let table = unsafe {
        ptr::copy_nonoverlapping(host.cast::<u8>(), table.as_mut_ptr().cast::<u8>(), known);
        table.assume_init()
    };
    table.emit.is_some().then_some(table)
}

/// The body of every flavour's `create`.
///
/// # Safety
/// Called with the arguments of the ABI's `create`.
pub(super) unsafe fn create<C: DeserializeOwned, T>(
    host: *const QdHostApi,
    config: QdBytes,
    instance: *mut *mut c_void,
    error: *mut QdError,
    build: impl FnOnce(Host, C) -> Result<T, PluginError>,
) -> i32 {
    // SAFETY: the ABI's promise.
    let table = unsafe { read_host(host) };
    let Some(api) = table.filter(|_| !instance.is_null()) else {
        // SAFETY: the ABI's promise on `error`.
        return unsafe { fail(error, QD_E_INVALID, "the host's table is too short") };
    };
    let built = catch(|| {
        // SAFETY: borrowed for the call.
        let config = unsafe { config.as_slice() };
        let config = if config.is_empty() { b"{}" } else { config };
        let config = serde_json::from_slice(config)
            .map_err(|e| PluginError::bad_request(format!("config: {e}")))?;
        build(Host { api }, config)
    });
    match built {
        Ok(Ok(value)) => {
            // SAFETY: checked above; the host gives the pointer back to `destroy` alone.
            unsafe { *instance = Box::into_raw(Box::new(value)).cast() };
            QD_OK
        }
        // SAFETY: the ABI's promise on `error`.
        Ok(Err(reason)) => unsafe { fail(error, QD_E_INTERNAL, &reason.message) },
        // SAFETY: as above.
        Err(reason) => unsafe { fail(error, QD_E_PANIC, &reason) },
    }
}

/// The body of every flavour's `destroy`.
///
/// # Safety
/// `instance` came from [`create`] with the same `T` and is not used afterwards.
pub(super) unsafe extern "C" fn destroy<T>(instance: *mut c_void) {
    if instance.is_null() {
        return;
    }
    // SAFETY: the caller's promise. A panicking Drop is swallowed: nobody can act on it.
    let _ = catch(|| drop(unsafe { Box::from_raw(instance.cast::<T>()) }));
}

/// Emits the one event that ends a request.
pub(super) fn finish(host: &Host, id: u64, outcome: &Result<Completion, PluginError>) -> i32 {
    match outcome {
        Ok(completion) => {
            let usage = serde_json::to_vec(&completion.usage).unwrap_or_default();
            let mut event = QdEvent::new(QD_EV_END, completion.finish_reason.as_str().as_bytes());
            event.extra = QdBytes::new(&usage);
            host.emit(id, &[event])
        }
        Err(error) if error.is_cancelled() => {
            host.emit(id, &[QdEvent::new(QD_EV_END, b"cancelled")])
        }
        Err(error) => {
            let detail = serde_json::to_vec(&error.detail()).unwrap_or_default();
            let mut event = QdEvent::new(QD_EV_ERROR, cut(&error.message).as_bytes());
            event.code = QD_E_INTERNAL;
            event.extra = QdBytes::new(&detail);
            host.emit(id, &[event])
        }
    }
}

fn cut(message: &str) -> &str {
    let mut len = message.len().min(8 * 1024);
    while !message.is_char_boundary(len) {
        len -= 1;
    }
    &message[..len]
}

/// The author's view of a negative return of `emit`.
pub(super) fn emit_error(code: i32) -> PluginError {
    match code {
        QD_E_CANCELLED => PluginError::cancelled(),
        QD_E_INVALID => PluginError::internal("the host refused an event as invalid"),
        code => PluginError::internal(format!("the host refused an event: {code}")),
    }
}

/// Cuts `text` into parts that fit one event, at character boundaries.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    const PART: usize = 32 * 1024;
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut len = rest.len().min(PART);
        while !rest.is_char_boundary(len) {
            len -= 1;
        }
        let (part, tail) = rest.split_at(len);
        rest = tail;
        Some(part)
    })
}

/// Emits the two symbols of a plugin. Used by the macros of the flavours.
#[doc(hidden)]
#[macro_export]
macro_rules! export_symbols {
    ($api:expr, $flags:expr) => {
        const _: () = {
            #[unsafe(no_mangle)]
            #[used]
            pub static QUDAO_PLUGIN_ABI: $crate::abi::QdAbiInfo = $crate::sdk::abi_info($flags);

            #[unsafe(no_mangle)]
            pub extern "C" fn qudao_plugin_entry(
                host_major: u32,
                _host_minor: u32,
            ) -> *const $crate::abi::QdPluginApi {
                if host_major == u32::from($crate::abi::QD_ABI_MAJOR) {
                    $api
                } else {
                    ::std::ptr::null()
                }
            }
        };
    };
}

#[cfg(test)]
mod tests;
