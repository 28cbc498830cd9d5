//! The child's side: what the program `qudao-plugin-host` does.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use qudao_egress::Rules;
use qudao_plugin_api::abi::{QD_E_AGAIN, QD_E_CANCELLED, QD_EV_ERROR};
use serde::{Deserialize, Serialize};

use crate::{
    confine::Confinement,
    credit::Credit,
    engine::{Engine, Incoming, Outlet, Ticket, ending},
    frame::{self, Frames, Kind},
    load::load,
    net::Clients,
};

/// The socket to the host.
pub(crate) const SOCKET_FD: i32 = 3;
/// The sealed artifact.
pub(crate) const ARTIFACT_FD: i32 = 4;

/// The body of the CREATE frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    /// Absent to load the library and no more.
    pub(crate) config: Option<serde_json::Value>,
    pub(crate) window: u32,
    pub(crate) max_concurrency: u32,
    pub(crate) confinement: Confinement,
}

/// Serves one plugin until the host closes the socket. True when all went well.
#[must_use]
pub fn main() -> bool {
    // Rust's handler for stack overflows would swallow the first SIGSEGV sent from outside.
    // SAFETY: no thread but this one is running, and the default action needs no handler.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
    // Short of memory, the kernel is to end a plugin before it ends the platform.
    drop(std::fs::write("/proc/self/oom_score_adj", "500"));
    // The plugin must not meet the socket by guessing its number, so it moves elsewhere.
    // SAFETY: a plain fcntl; the result is checked.
    let moved = unsafe { libc::fcntl(SOCKET_FD, libc::F_DUPFD_CLOEXEC, 100) };
    if moved < 0 {
        return false;
    }
    // SAFETY: the host passes both descriptors, and nothing else here owns them.
    let (socket, artifact) = unsafe {
        drop(File::from_raw_fd(SOCKET_FD));
        (UnixStream::from_raw_fd(moved), OwnedFd::from_raw_fd(ARTIFACT_FD))
    };
    serve(socket, &artifact).is_some()
}

fn serve(socket: UnixStream, artifact: &OwnedFd) -> Option<()> {
    let mut frames = Frames::new(socket.try_clone().ok()?);
    let first = frames.next().ok()??;
    let create: Create = serde_json::from_slice(first.body).ok()?;
    let outlet = Arc::new(ChildOutlet {
        window: create.window,
        tickets: Mutex::default(),
        out: Mutex::default(),
        socket,
    });
    // Before the library is loaded: its constructors are the plugin's code already.
    let confined = create.confinement.apply().map(|held| {
        outlet.write(|out| {
            frame::put(out, Kind::Confined, 0, |out| {
                out.extend_from_slice(held.join(" ").as_bytes())
            });
        });
    });
    let loaded = confined.and_then(|()| load(artifact.as_fd()).map_err(|error| error.to_string()));
    let made = loaded.and_then(|api| {
        let Some(config) = &create.config else { return Ok(None) };
        let config = config.to_string();
        let threads = usize::try_from(create.max_concurrency).unwrap_or(1);
        let outlet: Weak<dyn Outlet> = Arc::<ChildOutlet>::downgrade(&outlet);
        let clients = Arc::new(Clients::new(Rules::default()));
        let made = Engine::create(api, config.as_bytes(), outlet, threads, clients)?;
        Ok(Some(Arc::new(made)))
    });
    match made {
        Ok(Some(engine)) => {
            outlet.write(|out| frame::put(out, Kind::Created, 0, |_| ()));
            while let Ok(Some(frame)) = frames.next() {
                outlet.obey(&engine, &frame);
            }
            // The host is done with this process: not even a hanging `destroy` may keep it, so
            // none is made. The outlet stays for callbacks that come meanwhile.
        }
        Ok(None) => outlet.write(|out| frame::put(out, Kind::Created, 0, |_| ())),
        Err(reason) => outlet.write(|out| {
            frame::put(out, Kind::Failed, 0, |out| out.extend_from_slice(reason.as_bytes()));
        }),
    }
    Some(())
}

#[derive(Default)]
struct Out {
    waiting: Vec<u8>,
    spare: Vec<u8>,
    writing: bool,
}

struct ChildOutlet {
    window: u32,
    tickets: Mutex<HashMap<u64, Arc<Ticket>>>,
    out: Mutex<Out>,
    socket: UnixStream,
}

impl ChildOutlet {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Ticket>>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: u64) -> Option<Arc<Ticket>> {
        self.lock().get(&id).cloned()
    }

    fn obey(&self, engine: &Arc<Engine>, frame: &frame::Frame<'_>) {
        match frame.kind {
            Kind::Run => {
                let Some((kind, deadline_ns, trace, payload)) = frame::read_run(frame.body) else {
                    return;
                };
                let (cancel, credit) = (AtomicU32::new(0), Credit::new(self.window));
                let id = frame.id;
                let ticket =
                    Arc::new(Ticket { id, kind, deadline_ns, payload, trace, cancel, credit });
                self.lock().insert(id, Arc::clone(&ticket));
                engine.start(ticket);
            }
            Kind::Cancel => {
                if let Some(ticket) = self.find(frame.id) {
                    ticket.cancel.store(1, Ordering::Relaxed);
                    ticket.credit.close();
                    engine.cancel(frame.id);
                }
            }
            Kind::Credit => {
                let granted = u32::try_from(frame::number(frame.body, 0, 4)).unwrap_or(0);
                if let Some(left) = self.find(frame.id).and_then(|t| t.credit.give(granted)) {
                    engine.resume(frame.id, left);
                }
            }
            Kind::Drain => engine.drain(frame::number(frame.body, 0, 8)),
            _ => {}
        }
    }

    /// Whoever comes first writes what the others append meanwhile.
    fn write(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        fill(&mut out.waiting);
        if out.writing {
            return;
        }
        out.writing = true;
        while !out.waiting.is_empty() {
            let spare = std::mem::take(&mut out.spare);
            let mut batch = std::mem::replace(&mut out.waiting, spare);
            drop(out);
            let written = (&self.socket).write_all(&batch);
            batch.clear();
            out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.spare = batch;
            if written.is_err() {
                out.waiting.clear();
            }
        }
        out.writing = false;
    }

    fn report(&self, id: u64, reason: &str) {
        self.write(|out| {
            frame::put(out, Kind::Violation, id, |out| out.extend_from_slice(reason.as_bytes()));
        });
    }
}

impl Outlet for ChildOutlet {
    fn log(&self, level: u32, target: &[u8], message: &str) {
        self.write(|out| frame::put_log(out, level, target, message));
    }

    fn events(&self, id: u64, events: &[Incoming<'_>]) -> i32 {
        let Some(ticket) = self.find(id) else {
            self.report(id, "an event after the end");
            return QD_E_CANCELLED;
        };
        let last = events.iter().position(Incoming::is_last);
        let counted = last.unwrap_or(events.len());
        let mut left = 0;
        if counted != 0 {
            left = ticket.credit.take(u32::try_from(counted).unwrap_or(u32::MAX));
            if left == QD_E_AGAIN || (left < 0 && last.is_none()) {
                return left;
            }
        }
        // What was emitted before a cancellation arrived is of no use to anybody.
        let from = if left < 0 { counted } else { 0 };
        let to = last.map_or(events.len(), |at| at + 1);
        if last.is_some() {
            self.lock().remove(&id);
            ticket.credit.close();
        }
        self.write(|out| frame::put_events(out, id, &events[from..to]));
        if to < events.len() {
            self.report(id, "an event after the end");
        }
        left
    }

    fn violation(&self, id: u64, reason: &str) {
        if let Some(ticket) = self.find(id) {
            ticket.cancel.store(1, Ordering::Relaxed);
        }
        self.report(id, reason);
    }

    fn wait_credit(&self, id: u64, timeout: Duration) -> i32 {
        self.find(id).map_or(QD_E_CANCELLED, |ticket| ticket.credit.wait(timeout))
    }

    fn is_open(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    fn returned(&self, id: u64, code: i32, message: &str) {
        let Some(ticket) = self.lock().remove(&id) else { return };
        if code == 0 && !ticket.is_cancelled() {
            self.report(id, &ending(code, message));
        }
        let message = ending(code, message);
        let (data, extra): (_, &[u8]) = (message.as_bytes(), b"");
        let event =
            Incoming { kind: QD_EV_ERROR, flags: 0, token_id: 0, logprob: 0.0, code, data, extra };
        self.write(|out| frame::put_events(out, id, &[event]));
    }
}
