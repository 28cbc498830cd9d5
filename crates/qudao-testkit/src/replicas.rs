//! A Postgres primary with a synchronous standby.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use qudao_services::{Environment, PostgresBinaries, ServiceUser, find_postgres};
use qudao_storage::Store;
use tempfile::TempDir;

use crate::{
    cluster::psql,
    database::{connect, test_settings},
    server::Server,
};

const USER: &str = "qudao";
/// How long a server may take to do what it was told.
const PATIENCE: Duration = Duration::from_secs(60);

/// A primary that confirms a commit when its standby has it on disk. Both end with the value.
#[derive(Debug)]
pub struct TestReplicas {
    // Before the folder: the servers end, then their files go.
    primary: Mutex<Server>,
    _standby: Server,
    rig: Rig,
    url: String,
}

#[derive(Debug)]
struct Rig {
    binaries: PostgresBinaries,
    user: ServiceUser,
    folder: TempDir,
}

impl TestReplicas {
    /// Starts both and waits until the standby takes part in every commit.
    ///
    /// # Panics
    /// If there is no Postgres to be had.
    pub async fn start() -> Self {
        let started = tokio::task::spawn_blocking(Self::start_blocking);
        started.await.expect("the servers start")
    }

    fn start_blocking() -> Self {
        let binaries = find_postgres(&Environment::read(), None).ok().flatten();
        let rig = Rig {
            binaries: binaries.expect("the test needs Postgres"),
            user: ServiceUser::find().expect("a user to run Postgres as"),
            folder: tempfile::Builder::new().prefix("qdr-").tempdir().expect("a folder"),
        };
        // Root's temporary folders are closed to the user that Postgres runs as.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(rig.folder.path(), open).expect("a folder that can be entered");
        for name in ["primary", "primary.run", "standby", "standby.run"] {
            rig.user.private_dir(&rig.path(name)).expect("a folder for a server");
        }
        let data = rig.path("primary");
        let encoding = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"];
        rig.run("initdb", |command| command.arg("-D").arg(&data).args(["-U", USER]).args(encoding));
        let primary = rig.serve("primary");
        await_true(&rig.url("primary", "postgres"), "SELECT true");
        let url = rig.url("primary", "postgres");
        psql(&url, &["CREATE DATABASE qudao"]).expect("a database");
        let (socket, copy) = (rig.path("primary.run"), rig.path("standby"));
        // `-R` makes the copy a standby of where it was taken from.
        rig.run("pg_basebackup", |command| {
            command.args(["-R", "-X", "stream", "-c", "fast", "-U", USER]).arg("-h").arg(&socket);
            command.arg("-D").arg(&copy)
        });
        let standby = rig.serve("standby");
        let wait_for_it = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        psql(&url, &[wait_for_it, "SELECT pg_reload_conf()"]).expect("the primary is set");
        let takes_part = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        await_true(&url, takes_part);
        let sockets =
            format!("{},{}", rig.path("primary.run").display(), rig.path("standby.run").display());
        let url = format!("postgres://{USER}@localhost/qudao?host={sockets}");
        Self { primary: Mutex::new(primary), _standby: standby, rig, url }
    }

    /// Both servers, as a node is told.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A store that follows the primary.
    ///
    /// # Panics
    /// If neither server accepts writes.
    pub async fn store(&self) -> Store {
        connect(test_settings(&self.url)).await
    }

    /// Runs SQL on whichever server accepts writes, as the owner of the schema.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn psql(&self, sql: &str) -> String {
        // A frozen server takes connections and says nothing.
        let url = format!("{}&target_session_attrs=read-write&connect_timeout=2", self.url);
        psql(&url, &[sql]).expect("the statement succeeds")
    }

    /// Cuts the standby off from the primary, which waits for it at every commit from then on.
    ///
    /// # Panics
    /// If the standby does not take it.
    pub fn part(&self) {
        let url = self.rig.url("standby", "postgres");
        let part = "ALTER SYSTEM SET primary_conninfo = ''";
        psql(&url, &[part, "SELECT pg_reload_conf()"]).expect("the standby is set");
        await_true(&url, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)");
    }

    /// Lets the primary confirm commits that the standby has not got: what a failover keeps is
    /// left to chance then.
    ///
    /// # Panics
    /// If the primary does not take it.
    pub fn make_asynchronous(&self) {
        let url = self.rig.url("primary", "postgres");
        let reset = "ALTER SYSTEM RESET synchronous_standby_names";
        psql(&url, &[reset, "SELECT pg_reload_conf()"]).expect("the primary is set");
        await_true(&url, "SELECT current_setting('synchronous_standby_names') = ''");
    }

    /// `kill -9` of the primary; its other processes end when they miss it.
    pub fn kill_primary(&self) {
        self.primary().end(Signal::SIGKILL);
    }

    /// Runs SQL on the server that began as the standby.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn psql_on_the_promoted(&self, sql: &str) -> String {
        psql(&self.rig.url("standby", "qudao"), &[sql]).expect("the statement succeeds")
    }

    /// Stops the primary in its tracks: connections to it stay open, and it says nothing.
    pub fn freeze_primary(&self) {
        self.primary().freeze();
    }

    /// Makes the standby a primary.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn promote(&self) {
        let data = self.rig.path("standby");
        self.rig.run("pg_ctl", |command| command.args(["promote", "-w", "-D"]).arg(&data));
    }

    /// Starts the old primary again, which does not know that it was replaced.
    pub fn revive_primary(&self) {
        *self.primary() = self.rig.serve("primary");
        await_true(&self.rig.url("primary", "postgres"), "SELECT true");
    }

    fn primary(&self) -> MutexGuard<'_, Server> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, server: &str, database: &str) -> String {
        let socket = self.path(&format!("{server}.run"));
        format!("postgres://{USER}@localhost/{database}?host={}", socket.display())
    }

    fn command(&self, program: &str, on_parent_death: Signal) -> Command {
        self.user.command(&self.binaries.program(program), on_parent_death)
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
        let mut command = self.command(program, Signal::SIGKILL);
        let output = arguments(&mut command).output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }

    fn serve(&self, name: &str) -> Server {
        let socket = self.path(&format!("{name}.run"));
        // What a killed server leaves is no sign of one that lives.
        let _ = std::fs::remove_file(socket.join(".s.PGSQL.5432.lock"));
        let _ = std::fs::remove_file(self.path(name).join("postmaster.pid"));
        let mut command = self.command("postgres", Signal::SIGQUIT);
        command.arg("-D").arg(self.path(name)).arg("-k").arg(socket);
        command.args(["-c", "listen_addresses=", "-c", "max_connections=300"]);
        Server::start(command)
    }
}

fn await_true(url: &str, sql: &str) {
    let begun = Instant::now();
    while psql(url, &[sql]).as_deref() != Ok("t") {
        assert!(begun.elapsed() < PATIENCE, "{sql}: {:?}", psql(url, &[sql]));
        std::thread::sleep(Duration::from_millis(50));
    }
}
