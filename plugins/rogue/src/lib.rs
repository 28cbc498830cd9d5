//! Breaks one rule per request, named by the text of the last message. Speaks the C ABI by
//! hand, since the SDK does not let an author do any of this.

#![expect(unsafe_code, reason = "misbehaving takes it")]

use std::{ffi::c_void, fs, io::Write as _, path::PathBuf, ptr, thread, time::Duration};

use qudao_plugin_api::abi::{
    QD_ABI_MAJOR, QD_ABI_MINOR, QD_E_AGAIN, QD_EV_END, QD_EV_TOKEN, QD_F_BLOCKING, QD_OK,
    QdAbiInfo, QdBytes, QdError, QdEvent, QdHostApi, QdPluginApi, QdRequest, SIZE_OF_PLUGIN_API,
};
use qudao_plugin_api::{sdk, wire::ChatRequest};

mod reach;

/// The block a host reads before it loads anything.
#[unsafe(no_mangle)]
pub static QUDAO_PLUGIN_ABI: QdAbiInfo = QdAbiInfo {
    abi_major: if cfg!(feature = "wrong-abi") { QD_ABI_MAJOR + 1 } else { QD_ABI_MAJOR },
    ..sdk::abi_info(QD_F_BLOCKING)
};

static API: QdPluginApi = QdPluginApi {
    struct_size: SIZE_OF_PLUGIN_API,
    abi_minor: QD_ABI_MINOR as u32,
    create: Some(create),
    destroy: Some(destroy),
    run: Some(run),
    submit: None,
    cancel: None,
    resume: None,
    drain: Some(drain),
    net: None,
};

/// The handshake.
#[unsafe(no_mangle)]
pub extern "C" fn qudao_plugin_entry(_: u32, _: u32) -> *const QdPluginApi {
    &raw const API
}

unsafe extern "C" fn create(
    host: *const QdHostApi,
    config: QdBytes,
    instance: *mut *mut c_void,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the host's arguments, valid for the call.
    let config: serde_json::Value =
        unsafe { serde_json::from_slice(config.as_slice()).unwrap_or_default() };
    let text = |key: &str| config.get(key).and_then(serde_json::Value::as_str);
    match text("create") {
        Some("fail") => {
            // SAFETY: the host's out parameter.
            unsafe { (*error).set(-5, "told to fail") };
            return -5;
        }
        Some("abort") => std::process::abort(),
        Some("hang") => loop {
            thread::sleep(Duration::from_secs(1));
        },
        _ => {}
    }
    let rogue = Box::new(Rogue { host, notes: text("notes").map(PathBuf::from) });
    rogue.note("create");
    // SAFETY: the host's out parameter; `destroy` takes the box back.
    unsafe { *instance = Box::into_raw(rogue).cast() };
    QD_OK
}

/// Pieces of eight megabytes: two gigabytes.
const BALLOON: usize = 256;

/// An instance.
struct Rogue {
    host: *const QdHostApi,
    notes: Option<PathBuf>,
}

impl Rogue {
    /// Lets a test see which functions the host calls.
    fn note(&self, line: &str) {
        let Some(path) = &self.notes else { return };
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

unsafe extern "C" fn destroy(instance: *mut c_void) {
    // SAFETY: made by `create`, given back once.
    let rogue = unsafe { Box::from_raw(instance.cast::<Rogue>()) };
    rogue.note("destroy");
}

unsafe extern "C" fn drain(instance: *mut c_void, _: u64) -> i32 {
    // SAFETY: made by `create`, and not destroyed during the call.
    unsafe { &*instance.cast::<Rogue>() }.note("drain");
    QD_OK
}

/// Events of `exceed`: more than any window.
const EXCESS: usize = 1_000;

struct Line<'a> {
    host: &'a QdHostApi,
    id: u64,
}

impl Line<'_> {
    fn emit(&self, event: QdEvent) -> i32 {
        let Some(emit) = self.host.emit else { return -1 };
        // SAFETY: the event is valid for the call.
        unsafe { emit(self.host.ctx, self.id, &raw const event, 1) }
    }

    fn token(&self, text: &[u8]) -> i32 {
        self.emit(QdEvent::new(QD_EV_TOKEN, text))
    }

    fn end(&self) -> i32 {
        self.emit(QdEvent::new(QD_EV_END, b"stop"))
    }
}

unsafe extern "C" fn run(
    instance: *mut c_void,
    request: *const QdRequest,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the instance is of `create`, the host's table outlives it; the request is valid.
    let (host, request) = unsafe { (&*(*instance.cast::<Rogue>()).host, &*request) };
    // SAFETY: borrowed for the call.
    let payload = unsafe { request.payload.as_slice() };
    let chat: Option<ChatRequest> = serde_json::from_slice(payload).ok();
    let mode = chat.map(|chat| chat.last_user_text()).unwrap_or_default();
    let line = Line { host, id: request.id };
    let panicked = std::panic::catch_unwind(|| misbehave(&mode, &line));
    match panicked {
        Ok(code) => code,
        Err(_) => {
            // SAFETY: the host's out parameter.
            unsafe { (*error).set(-3, "the plugin panicked: told to") };
            -3
        }
    }
}

fn segfault(after: Duration) {
    thread::sleep(after);
    // SAFETY: it is not; that is the point.
    unsafe { ptr::write_volatile(ptr::without_provenance_mut::<u8>(8), 1) }
}

/// Goes on although there is no credit, until the reader leaves or it was refused so often.
fn flood(line: &Line<'_>, most: u32) -> i32 {
    let mut refused = 0;
    while refused < most {
        match line.token(b"flood ") {
            QD_E_AGAIN => {
                refused += 1;
                thread::sleep(Duration::from_millis(1));
            }
            code if code < 0 => return QD_OK,
            _ => {}
        }
    }
    line.end();
    QD_OK
}

/// Takes no refusal for an answer, then ends as if all of it had been taken.
fn exceed(line: &Line<'_>) -> i32 {
    for number in 0..EXCESS {
        line.token(format!("{number} ").as_bytes());
    }
    line.end();
    QD_OK
}

/// Until it is refused more, or for as long as nobody ends it.
fn inflate() {
    let mut air = Vec::new();
    while air.len() < BALLOON {
        air.push(vec![1u8; 8 << 20]);
        thread::sleep(Duration::from_millis(5));
    }
}

fn say(line: &Line<'_>, text: &str) -> i32 {
    line.token(text.as_bytes());
    line.end();
    QD_OK
}

/// Anything without a rule to break is answered with `ok`.
fn misbehave(mode: &str, line: &Line<'_>) -> i32 {
    match mode {
        "panic" => std::panic::resume_unwind(Box::new("told to")),
        "abort" => std::process::abort(),
        "abort midway" => {
            line.token(b"half");
            thread::sleep(Duration::from_millis(100));
            std::process::abort();
        }
        "segfault" => segfault(Duration::ZERO),
        "late segfault" => segfault(Duration::from_millis(100)),
        _ if mode.starts_with("wait") => thread::sleep(Duration::from_millis(300)),
        "hang" => loop {
            thread::sleep(Duration::from_secs(1));
        },
        "hang midway" => {
            line.token(b"half");
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        }
        "flood" => return flood(line, 1_000),
        "long flood" => return flood(line, 30_000),
        "exceed" => return exceed(line),
        "leak" => {
            std::mem::forget(vec![1u8; 8 << 20]);
        }
        "balloon" => inflate(),
        "bad kind" => {
            line.emit(QdEvent::new(99, b"?"));
        }
        "bad utf8" => {
            line.token(b"\xff\xfe");
        }
        "bad size" => {
            line.emit(QdEvent { struct_size: 7, ..QdEvent::new(QD_EV_TOKEN, b"?") });
        }
        "huge event" => {
            line.token(&vec![b'x'; 1 << 20]);
        }
        "after end" => {
            line.end();
            line.token(b"ghost");
            return QD_OK;
        }
        "two ends" => {
            line.end();
            line.end();
            return QD_OK;
        }
        "reach" => return say(line, &reach::everything()),
        "fork bomb" => return say(line, &reach::fork_bomb()),
        "no end" => return QD_OK,
        "error code" => return -5,
        _ => {}
    }
    line.token(b"ok");
    line.end();
    QD_OK
}
