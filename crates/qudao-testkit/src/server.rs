//! A server process of a test.

use std::{
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Ends with the value, and with this process however that ends.
#[derive(Debug)]
pub(crate) struct Server {
    pid: Pid,
    /// Started the child and waits for it: the child ends when this thread does.
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let (started, pid) = mpsc::channel();
        let keeper = thread::spawn(move || {
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.expect("the server's program runs");
            let _ = started.send(Pid::from_raw(child.id().cast_signed()));
            let _ = child.wait();
        });
        let pid = pid.recv().expect("the server was started");
        Self { pid, keeper: Some(keeper) }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(keeper) = self.keeper.take() {
            let _ = kill(self.pid, signal);
            let _ = keeper.join();
        }
    }
}

impl Server {
    /// Stops it and all its processes in their tracks: connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGSTOP);
        }
    }

    /// The first of them first.
    fn processes(&self) -> Vec<Pid> {
        let tasks = format!("/proc/{pid}/task/{pid}/children", pid = self.pid);
        let children = std::fs::read_to_string(tasks).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(self.pid).chain(children.map(Pid::from_raw)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Frozen ones do not see that the first is gone.
        let processes = self.processes();
        if self.keeper.is_some() {
            for pid in processes {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        self.end(Signal::SIGKILL);
    }
}
