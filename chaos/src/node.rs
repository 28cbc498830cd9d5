//! Nodes in processes of their own, as the check starts and ends them.

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time,
};

use crate::plan::{Announcement, NodePlan, Role};

/// How long a node may take to serve.
const START: Duration = Duration::from_secs(30);

/// The addresses of the nodes that live.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<Vec<SocketAddr>>>);

impl Doors {
    /// One of them; the `n`-th, round and round.
    pub fn pick(&self, n: usize) -> Option<SocketAddr> {
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doors.get(n.checked_rem(doors.len())?).copied()
    }

    fn open(&self, addr: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(addr);
    }

    fn close(&self, addr: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|door| *door != addr);
    }
}

/// A running node. Ends with the value.
#[derive(Debug)]
pub struct Node {
    child: Child,
    /// The node ends when this closes, and waiting for a child would close its own.
    _leash: Option<ChildStdin>,
    addr: SocketAddr,
    role: Role,
    doors: Doors,
}

impl Node {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// If it ends before.
    pub async fn start(plan: &NodePlan, doors: &Doors) -> anyhow::Result<Self> {
        let program = beside("chaos-node")?;
        let loud = std::env::var_os("CHAOS_LOUD").is_some();
        let mut child = Command::new(program)
            .arg(serde_json::to_string(plan)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if loud { Stdio::inherit() } else { Stdio::null() })
            .kill_on_drop(true)
            .spawn()
            .context("starting a node")?;
        let stdout = child.stdout.take().context("the node's output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line =
            time::timeout(START, lines.next_line()).await.context("a node that serves")??;
        let Some(line) = line else { bail!("a node ended at its start") };
        let Announcement { addr } = serde_json::from_str(&line)?;
        let leash = child.stdin.take();
        let node = Self { child, _leash: leash, addr, role: plan.role, doors: doors.clone() };
        node.open();
        Ok(node)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing a node")
    }

    /// Whether it ended within this time because it reached the point at which it was told to.
    pub async fn aborts_within(&mut self, patience: Duration) -> bool {
        let Ok(Ok(status)) = time::timeout(patience, self.child.wait()).await else { return false };
        self.doors.close(self.addr);
        status.signal() == Some(Signal::SIGABRT as i32)
    }

    /// Freezes it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.doors.close(self.addr);
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.open();
        self.signal(Signal::SIGCONT)
    }

    fn open(&self) {
        if self.role.serves() {
            self.doors.open(self.addr);
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().context("a node that runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("signalling a node")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.doors.close(self.addr);
    }
}

/// The processes that a process started.
pub fn children(pid: u32) -> Vec<Pid> {
    let tasks = format!("/proc/{pid}/task");
    let tasks = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}

/// A program that was built together with this one.
///
/// # Errors
/// If it is not there.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    if !program.exists() {
        bail!("{} is missing: run it through `cargo xtask check chaos`", program.display());
    }
    Ok(program)
}
