use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    ModelPlugin, Sink,
    abi::{QD_E_AGAIN, QD_EV_TOKEN, QD_KIND_CHAT, SIZE_OF_REQUEST, size_u32},
    sdk::blocking,
    wire::Usage,
};

struct Two;

impl ModelPlugin for Two {
    type Config = serde_json::Value;

    fn create(host: Host, _: serde_json::Value) -> Result<Self, PluginError> {
        host.log(crate::LogLevel::Info, "created");
        Ok(Self)
    }

    fn run(&self, _: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        sink.token("one")?;
        sink.token("two")?;
        Ok(Completion::stop(Usage::default()))
    }
}

#[derive(Default)]
struct Seen {
    tries: AtomicUsize,
    tokens: AtomicUsize,
    waits: AtomicUsize,
}

/// Has credit at every second try.
unsafe extern "C" fn emit(ctx: *mut c_void, _: u64, event: *const QdEvent, _: u32) -> i32 {
    // SAFETY: the context of the test; one event.
    let (seen, kind) = unsafe { (&*ctx.cast::<Seen>(), (*event).kind) };
    if kind == QD_EV_TOKEN {
        if seen.tries.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return QD_E_AGAIN;
        }
        seen.tokens.fetch_add(1, Ordering::Relaxed);
    }
    1
}

unsafe extern "C" fn wait_credit(ctx: *mut c_void, _: u64, _: u32) -> i32 {
    // SAFETY: the context of the test.
    unsafe { &*ctx.cast::<Seen>() }.waits.fetch_add(1, Ordering::Relaxed);
    1
}

/// Creates and runs against a host whose table has `size` bytes and not one more.
fn serve(size: u32) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let host = QdHostApi {
        struct_size: size,
        abi_minor: 0,
        ctx: (&raw mut seen).cast(),
        log: None,
        emit: Some(emit),
        wait_credit: Some(wait_credit),
        http: None,
        http_read: None,
        http_stop: None,
        timer: None,
    };
    let mut table = vec![0u64; (size as usize).div_ceil(8).max(1)];
    let known = (size as usize).clamp(4, size_of::<QdHostApi>());
    // SAFETY: both have `known` bytes.
    unsafe {
        ptr::copy_nonoverlapping((&raw const host).cast(), table.as_mut_ptr().cast::<u8>(), known)
    };
    let api = blocking::api::<Two>();
    let (mut instance, mut error) = (ptr::null_mut(), QdError::empty());
    let (host, out) = (table.as_ptr().cast(), &raw mut instance);
    // SAFETY: the arguments live through the calls, as the ABI asks.
    unsafe {
        if api.create.unwrap()(host, QdBytes::EMPTY, out, &raw mut error) < 0 {
            return Err(error.message());
        }
        let request = QdRequest {
            struct_size: SIZE_OF_REQUEST,
            kind: QD_KIND_CHAT,
            id: 1,
            deadline_ns: 0,
            payload: QdBytes::EMPTY,
            cancel: ptr::null(),
            trace: QdBytes::EMPTY,
        };
        assert_eq!(api.run.unwrap()(instance, &raw const request, &raw mut error), QD_OK);
        api.destroy.unwrap()(instance);
    }
    Ok(seen)
}

#[test]
fn a_host_without_emit_is_refused_and_one_of_any_later_size_is_served() {
    let whole = size_u32::<QdHostApi>();
    for size in 0..=whole + 24 {
        let served = serve(size);
        if size < 32 {
            assert!(served.err().unwrap().contains("too short"), "{size}");
            continue;
        }
        let seen = served.unwrap();
        assert_eq!(seen.tokens.into_inner(), 2, "{size}");
        // Without `wait_credit` it tries again after a while.
        let waits = if size < 40 { 0 } else { 2 };
        assert_eq!(seen.waits.into_inner(), waits, "{size}");
    }
}
