//! The host's side of a child: start it, feed it, end it.

use std::{
    io::{self, BufRead as _, BufReader},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qudao_plugin_api::manifest::Limits;

use crate::{
    artifact::SealedArtifact,
    child::{ARTIFACT_FD, SOCKET_FD},
    engine::Ticket,
    frame::{self, Kind},
    said::log_line,
};

/// Bytes that may wait for a child that does not read.
const BACKLOG_BYTES_MAX: usize = 64 << 20;

/// A running child.
#[derive(Clone)]
pub(crate) struct ChildLink {
    inner: Arc<Inner>,
}

struct Inner {
    socket: UnixStream,
    backlog: Mutex<Vec<u8>>,
    child: Mutex<Child>,
}

/// Starts a child around `artifact`. The calling thread must outlive it: the kernel ends the
/// child with the thread that made it.
pub(crate) fn spawn(
    binary: &Path,
    artifact: &SealedArtifact,
    instance: &str,
    env: &[&str],
    limits: &Limits,
) -> io::Result<(ChildLink, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let socket = above(theirs.as_raw_fd())?;
    let memfd = above(artifact.memfd.as_raw_fd())?;
    let mut command = Command::new(binary);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in env {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let (socket_fd, memfd_fd) = (socket.as_raw_fd(), memfd.as_raw_fd());
    let (data, files) = (limits.memory_mb.saturating_mul(1 << 20), limits.nofile);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            limit(libc::RLIMIT_CORE, Some(0))?;
            limit(libc::RLIMIT_DATA, (data != 0).then_some(data))?;
            limit(libc::RLIMIT_NOFILE, (files != 0).then_some(files))?;
            if libc::dup2(socket_fd, SOCKET_FD) < 0 || libc::dup2(memfd_fd, ARTIFACT_FD) < 0 {
                return Err(io::Error::last_os_error());
            }
            // What a library of ours may have opened without the flag is not the plugin's. Older
            // kernels do not know the call.
            let (first, last) = (ARTIFACT_FD.cast_unsigned() + 1, libc::c_uint::MAX);
            libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        forward(instance, out, err)?;
    }
    let reader = ours.try_clone()?;
    let inner = Inner { socket: ours, backlog: Mutex::default(), child: Mutex::new(child) };
    Ok((ChildLink { inner: Arc::new(inner) }, reader))
}

/// A copy of `fd` that `dup2` onto 3 and 4 cannot overwrite.
fn above(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain fcntl; the result is checked and owned by nobody else.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10);
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

fn limit(resource: libc::__rlimit_resource_t, value: Option<u64>) -> io::Result<()> {
    let Some(value) = value else { return Ok(()) };
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: async-signal-safe; the struct lives through the call.
    if unsafe { libc::setrlimit(resource, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn forward(instance: &str, out: ChildStdout, err: ChildStderr) -> io::Result<()> {
    fn copy(instance: &str, from: impl io::Read) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        // A line without an end may not fill the memory.
        while let Ok(read) = io::Read::take(&mut reader, 8 * 1024).read_until(b'\n', &mut line) {
            if read == 0 {
                return;
            }
            log_line(instance, 3, b"", String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    let (first, second) = (instance.to_owned(), instance.to_owned());
    std::thread::Builder::new().name("plugin-out".to_owned()).spawn(move || copy(&first, out))?;
    std::thread::Builder::new().name("plugin-err".to_owned()).spawn(move || copy(&second, err))?;
    Ok(())
}

impl ChildLink {
    fn backlog(&self) -> MutexGuard<'_, Vec<u8>> {
        self.inner.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.inner.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends without blocking; what the socket does not take waits for [`ChildLink::flush`].
    pub(crate) fn send(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut backlog = self.backlog();
        fill(&mut backlog);
        self.push(&mut backlog);
        if BACKLOG_BYTES_MAX < backlog.len() {
            drop(backlog);
            self.kill();
        }
    }

    pub(crate) fn flush(&self) {
        let mut backlog = self.backlog();
        if !backlog.is_empty() {
            self.push(&mut backlog);
        }
    }

    fn push(&self, backlog: &mut Vec<u8>) {
        let mut sent = 0;
        while sent < backlog.len() {
            let rest = &backlog[sent..];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let fd = self.inner.socket.as_raw_fd();
            // SAFETY: the slice is readable for the call.
            let count = unsafe { libc::send(fd, rest.as_ptr().cast(), rest.len(), flags) };
            let Ok(count) = usize::try_from(count) else {
                match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => break,
                    // The reader sees the end of the stream and deals with it.
                    _ => return backlog.clear(),
                }
            };
            sent += count;
        }
        backlog.drain(..sent);
    }

    pub(crate) fn run(&self, ticket: &Ticket) {
        self.send(|out| frame::put_run(out, ticket));
    }

    pub(crate) fn cancel(&self, id: u64) {
        self.send(|out| frame::put(out, Kind::Cancel, id, |_| ()));
    }

    pub(crate) fn grant(&self, id: u64, n: u32) {
        self.send(|out| {
            frame::put(out, Kind::Credit, id, |out| out.extend_from_slice(&n.to_le_bytes()));
        });
    }

    pub(crate) fn drain(&self, deadline_ns: u64) {
        self.send(|out| {
            let deadline = deadline_ns.to_le_bytes();
            frame::put(out, Kind::Drain, 0, |out| out.extend_from_slice(&deadline));
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child().id()
    }

    pub(crate) fn kill(&self) {
        let _ = self.child().kill();
    }

    /// Ends the child politely: it leaves when the socket closes.
    pub(crate) fn hang_up(&self) {
        let _ = self.inner.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Waits for the child's end; one that lives on without its socket is ended.
    pub(crate) fn reap(&self) -> Option<i32> {
        for _ in 0..50 {
            match self.child().try_wait() {
                Ok(Some(status)) => return signal(status),
                Ok(None) => {}
                Err(_) => return None,
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut child = self.child();
        let _ = child.kill();
        child.wait().ok().and_then(signal)
    }
}

fn signal(status: ExitStatus) -> Option<i32> {
    status.signal()
}
