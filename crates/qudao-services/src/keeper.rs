//! The thread that starts the children, restarts those that die, and stops them in the end.
//!
//! It is a thread of its own because Linux delivers the parent-death signal when the *thread* that
//! forked ends: a pool's thread may retire at any time and would take the database with it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::error::{Doing as _, ServicesError};

const POLL: Duration = Duration::from_millis(5);
const WATCH: Duration = Duration::from_millis(100);
/// For a child that does not answer at all.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// For a child that says that it recovers its data.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(900);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A child that lived this long starts over with the shortest pause.
const STEADY: Duration = Duration::from_secs(30);
/// Logs are turned over at a start above this size.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// What a child answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Ready,
    StartingUp,
    Silent,
}

/// One kind of child.
pub(crate) trait Service: Send {
    fn name(&self) -> &'static str;
    /// Its own directory, which it also makes its working directory.
    fn data(&self) -> &Path;
    fn log(&self) -> &Path;
    fn stop_signal(&self) -> Signal;
    fn force_signal(&self) -> Signal;
    /// How long it may say that it recovers its data.
    fn recovery_limit(&self) -> Duration {
        RECOVERY_LIMIT
    }
    /// Before the first start.
    fn prepare(&self) -> Result<(), ServicesError>;
    fn command(&self) -> Command;
    fn probe(&self) -> Probe;
    /// After the first time it was ready.
    fn complete(&self) -> Result<(), ServicesError>;
}

/// What became of a child.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceReport {
    /// `postgres` or `redis`.
    pub name: &'static str,
    /// Its process, unless it is down at the moment.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Where it writes its log.
    pub log: PathBuf,
}

type Reports = Arc<Mutex<Vec<ServiceReport>>>;

/// Owns the thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Hung up to stop.
    alive: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    stopped: oneshot::Receiver<()>,
    reports: Reports,
}

impl Keeper {
    /// Starts the children. `run_dir`, the directory of their sockets, is removed in the end.
    pub(crate) async fn start(
        services: Vec<Box<dyn Service>>,
        run_dir: PathBuf,
    ) -> Result<Self, ServicesError> {
        let (alive, orders) = mpsc::channel();
        let (started, up) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        let reports = Reports::default();
        let shared = Arc::clone(&reports);
        let body = move || {
            run(services, started, &orders, &shared);
            let _ = fs::remove_dir_all(run_dir);
            let _ = ended.send(());
        };
        let thread = thread::Builder::new()
            .name("services".to_owned())
            .spawn(body)
            .doing(|| "starting the services' thread".to_owned())?;
        let keeper = Self { alive: Some(alive), thread: Some(thread), stopped, reports };
        match up.await {
            Ok(Ok(())) => Ok(keeper),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ServicesError::Io {
                doing: "starting the services".to_owned(),
                source: std::io::Error::other("their thread ended"),
            }),
        }
    }

    pub(crate) fn reports(&self) -> Vec<ServiceReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn stop(mut self) {
        self.alive = None;
        let _ = (&mut self.stopped).await;
    }
}

impl Drop for Keeper {
    /// Waits for the children, so that whoever drops it can remove their directories.
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Kept {
    service: Box<dyn Service>,
    child: Option<Child>,
    started: Instant,
    back_off: Duration,
    restart_at: Option<Instant>,
    restarts: u32,
}

fn run(
    services: Vec<Box<dyn Service>>,
    started: oneshot::Sender<Result<(), ServicesError>>,
    orders: &mpsc::Receiver<()>,
    reports: &Reports,
) {
    let mut kept: Vec<Kept> = services.into_iter().map(Kept::new).collect();
    let result = start_all(&mut kept);
    report(&kept, reports);
    let failed = result.is_err();
    let abandoned = started.send(result).is_err();
    if !failed && !abandoned {
        keep(&mut kept, orders, reports);
    }
    stop_all(&mut kept);
    report(&kept, reports);
}

/// Until the sender hangs up.
fn keep(kept: &mut [Kept], orders: &mpsc::Receiver<()>, reports: &Reports) {
    while orders.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) {
        let changed = kept.iter_mut().map(Kept::watch).fold(false, |any, one| any | one);
        if changed {
            report(kept, reports);
        }
    }
}

fn report(kept: &[Kept], reports: &Reports) {
    let now = kept.iter().map(Kept::report).collect();
    *reports.lock().unwrap_or_else(PoisonError::into_inner) = now;
}

fn start_all(kept: &mut [Kept]) -> Result<(), ServicesError> {
    for one in kept.iter_mut() {
        one.outlast_predecessor();
        one.service.prepare()?;
        one.spawn()?;
    }
    for one in kept.iter_mut() {
        one.wait_until_ready()?;
        one.service.complete()?;
    }
    Ok(())
}

fn stop_all(kept: &mut [Kept]) {
    for one in kept.iter() {
        one.signal(one.service.stop_signal());
    }
    let begun = Instant::now();
    for one in kept.iter_mut() {
        let mut forced = false;
        while let Some(child) = &mut one.child {
            if !matches!(child.try_wait(), Ok(None)) {
                one.child = None;
                let _ = fs::remove_file(one.pid_file());
                break;
            }
            if !forced && STOP_LIMIT < begun.elapsed() {
                tracing::warn!(service = one.service.name(), "does not stop: forcing it");
                one.signal(one.service.force_signal());
                forced = true;
            }
            thread::sleep(POLL);
        }
    }
}

impl Kept {
    fn new(service: Box<dyn Service>) -> Self {
        Self {
            service,
            child: None,
            started: Instant::now(),
            back_off: BACK_OFF_MIN,
            restart_at: None,
            restarts: 0,
        }
    }

    fn report(&self) -> ServiceReport {
        ServiceReport {
            name: self.service.name(),
            pid: self.child.as_ref().map(Child::id),
            restarts: self.restarts,
            log: self.service.log().to_owned(),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.service.data().with_extension("pid")
    }

    fn spawn(&mut self) -> Result<(), ServicesError> {
        let name = self.service.name();
        let log = open_log(self.service.log())?;
        let copy = log.try_clone().doing(|| format!("opening the log of {name}"))?;
        let mut command = self.service.command();
        command.stdout(Stdio::from(log)).stderr(Stdio::from(copy));
        let child = command.spawn().doing(|| format!("starting {name}"))?;
        // For the next start, should this process be killed: see `outlast_predecessor`.
        let _ = fs::write(self.pid_file(), child.id().to_string());
        self.child = Some(child);
        self.started = Instant::now();
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<(), ServicesError> {
        let name = self.service.name();
        loop {
            let probe = self.service.probe();
            if probe == Probe::Ready {
                return Ok(());
            }
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                self.child = None;
                return Err(ServicesError::ChildEnded { name, status, log: self.log_tail() });
            }
            let limit = match probe {
                Probe::StartingUp => self.service.recovery_limit(),
                Probe::Ready | Probe::Silent => SILENCE_LIMIT,
            };
            if limit < self.started.elapsed() {
                let seconds = limit.as_secs();
                return Err(ServicesError::NoAnswer { name, seconds, log: self.log_tail() });
            }
            thread::sleep(POLL);
        }
    }

    /// Sees whether the child still lives and starts it again when its pause is over.
    /// Returns whether something changed.
    fn watch(&mut self) -> bool {
        let name = self.service.name();
        if let Some(child) = &mut self.child {
            let Ok(Some(status)) = child.try_wait() else { return false };
            self.child = None;
            if STEADY < self.started.elapsed() {
                self.back_off = BACK_OFF_MIN;
            }
            tracing::error!(service = name, %status, pause = ?self.back_off, "ended: starting it again");
            self.restart_at = Some(Instant::now() + self.back_off);
            self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
            return true;
        }
        if self.restart_at.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        self.restarts += 1;
        match self.spawn() {
            Ok(()) => self.restart_at = None,
            Err(error) => {
                tracing::error!(service = name, %error, "cannot be started");
                self.restart_at = Some(Instant::now() + self.back_off);
                self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
            }
        }
        true
    }

    /// After a kill of the former process its children take a moment to shut down. Starting over
    /// them would fail (Postgres) or lose the socket to their clean-up (Redis).
    fn outlast_predecessor(&self) {
        let Some(pid) = fs::read_to_string(self.pid_file()).ok().and_then(|text| text.parse().ok())
        else {
            return;
        };
        let begun = Instant::now();
        let mut asked = false;
        while is_alive_in(pid, self.service.data()) && begun.elapsed() < STOP_LIMIT {
            if !asked && Duration::from_secs(2) < begun.elapsed() {
                tracing::warn!(
                    service = self.service.name(),
                    pid,
                    "a former one still runs: stopping it"
                );
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), self.service.stop_signal());
                asked = true;
            }
            thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()) else {
            return;
        };
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }

    fn log_tail(&self) -> String {
        let tail = || {
            let mut file = File::open(self.service.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_default()
    }
}

fn open_log(path: &Path) -> Result<File, ServicesError> {
    if fs::metadata(path).is_ok_and(|metadata| LOG_MAX_BYTES < metadata.len()) {
        let _ = fs::rename(path, path.with_extension("log.1"));
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.doing(|| format!("opening {}", path.display()))
}

/// Whether the process is still there and is the service of this directory, not another process
/// that got the same id since.
fn is_alive_in(pid: i32, data: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == data) {
        return true;
    }
    let cmdline = fs::read(proc.join("cmdline")).unwrap_or_default();
    let data = data.as_os_str().as_encoded_bytes();
    cmdline.split(|byte| *byte == 0).any(|argument| argument == data)
}
