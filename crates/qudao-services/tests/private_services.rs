//! The private services as a process sees them: started, killed, refused and recovered.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use qudao_services::{
    Environment, HomeLock, Services, ServicesError, ServicesSettings, find_postgres, prepare_home,
    running_instance,
};
use serde_json::Value;
use tempfile::TempDir;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A directory that every user can pass through.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

async fn start(home: &Path) -> Result<Services, ServicesError> {
    let home = prepare_home(home)?;
    let settings = ServicesSettings {
        home,
        database_url: None,
        redis_url: None,
        durable: false,
        archive: None,
    };
    Services::start(settings, &Environment::read()).await
}

fn psql(url: &str, sql: &str) -> String {
    let binaries = find_postgres(&Environment::read(), None).unwrap().unwrap();
    let output = Command::new(binaries.program("psql"))
        .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
        .output()
        .unwrap();
    String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr })
        .trim()
        .to_owned()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive(pid: u64) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| !text.is_empty())
}

/// The example `hold` in a process of its own.
struct Held {
    process: Child,
    stdin: Option<ChildStdin>,
    line: Value,
}

impl Held {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).expect("the services started");
        let stdin = process.stdin.take();
        Self { process, stdin, line }
    }

    fn pids(&self) -> Vec<u64> {
        let services = self.line["services"].as_array().unwrap();
        services.iter().map(|service| service["pid"].as_u64().unwrap()).collect()
    }

    fn database_url(&self) -> &str {
        self.line["instance"]["database_url"].as_str().unwrap()
    }

    /// What a killed parent could not do.
    fn remove_sockets(&self) {
        fs::remove_dir_all(self.database_url().split("host=").nth(1).unwrap()).unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}

fn hold_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/hold");
    assert!(program.is_file(), "{} is built by `cargo test`", program.display());
    program
}

fn hold(home: &Path) -> Held {
    let mut command = Command::new(hold_program());
    command.arg(home);
    Held::start(command)
}

#[tokio::test]
async fn postgres_is_utf8_and_listens_on_its_socket_only() {
    let dir = open_dir();
    let services = start(dir.path()).await.unwrap();
    let url = &services.database_url;
    assert_eq!(psql(url, "SHOW server_encoding"), "UTF8");
    assert_eq!(psql(url, "SHOW lc_ctype"), "C.UTF-8");
    assert_eq!(psql(url, "SHOW listen_addresses"), "");
    assert_eq!(psql(url, "SELECT current_user || current_database()"), "qudaoqudao");
    // A character of Chinese is a letter to this locale.
    assert_eq!(psql(url, "SELECT '退货' ~ '^[[:alpha:]]+$'"), "t");
    services.stop().await;
}

#[tokio::test]
async fn the_sockets_are_out_of_reach_for_other_users_and_not_in_the_data() {
    let dir = open_dir();
    let services = start(dir.path()).await.unwrap();
    let run = services.database_url.split("host=").nth(1).unwrap();
    assert_eq!(fs::metadata(run).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!run.starts_with(dir.path().to_str().unwrap()));
    let run = PathBuf::from(run);
    services.stop().await;
    assert!(!run.exists(), "the sockets' directory is removed at the end");
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = open_dir();
    let services = start(dir.path()).await.unwrap();
    psql(&services.database_url, "CREATE TABLE kept AS SELECT 42 AS answer");
    services.stop().await;
    let services = start(dir.path()).await.unwrap();
    assert_eq!(psql(&services.database_url, "SELECT answer FROM kept"), "42");
}

#[tokio::test]
async fn children_that_die_are_started_again() {
    let dir = open_dir();
    let services = start(dir.path()).await.unwrap();
    for report in services.reports() {
        let pid = i32::try_from(report.pid.unwrap()).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    wait_until("both run again", || {
        services.reports().iter().all(|report| 0 < report.restarts && report.pid.is_some())
    });
    wait_until("postgres answers", || psql(&services.database_url, "SELECT 1") == "1");
    let socket = services.redis_url.strip_prefix("unix://").unwrap();
    wait_until("redis answers", || std::os::unix::net::UnixStream::connect(socket).is_ok());
}

#[test]
fn no_child_outlives_a_killed_parent_and_the_next_start_recovers() {
    let dir = open_dir();
    let mut held = hold(dir.path());
    psql(held.database_url(), "CREATE TABLE kept AS SELECT 42 AS answer");
    let pids = held.pids();
    assert!(pids.iter().all(|pid| alive(*pid)));
    held.process.kill().unwrap();
    held.process.wait().unwrap();
    // Started at once: it has to outlast the former children on its own.
    let next = hold(dir.path());
    assert!(!pids.iter().any(|pid| alive(*pid)), "the former children are gone");
    assert_eq!(psql(next.database_url(), "SELECT answer FROM kept"), "42");
}

#[test]
fn children_of_a_killed_parent_end_without_a_next_start() {
    let dir = open_dir();
    let mut held = hold(dir.path());
    let pids = held.pids();
    held.process.kill().unwrap();
    wait_until("the children are gone", || !pids.iter().any(|pid| alive(*pid)));
    held.remove_sockets();
}

#[test]
fn a_second_instance_is_refused_with_the_first_ones_process_and_address() {
    let dir = open_dir();
    let held = hold(dir.path());
    let refused = HomeLock::acquire(dir.path()).unwrap_err().to_string();
    assert!(refused.contains(&held.process.id().to_string()), "{refused}");
    assert!(refused.contains("http://127.0.0.1:1"), "{refused}");
    let running = running_instance(dir.path()).unwrap();
    assert_eq!(running.database_url, held.database_url());
    drop(held);
    assert_eq!(running_instance(dir.path()), None);
    HomeLock::acquire(dir.path()).unwrap();
}

#[test]
fn the_lock_of_a_killed_instance_does_not_hold() {
    let dir = open_dir();
    let mut held = hold(dir.path());
    held.process.kill().unwrap();
    held.process.wait().unwrap();
    assert_eq!(running_instance(dir.path()), None);
    HomeLock::acquire(dir.path()).unwrap();
    let pids = held.pids();
    wait_until("the children are gone", || !pids.iter().any(|pid| alive(*pid)));
    held.remove_sockets();
}

#[tokio::test]
async fn data_of_another_major_version_are_refused_with_a_way_out() {
    let dir = open_dir();
    let home = prepare_home(dir.path()).unwrap();
    fs::create_dir_all(home.join("data/postgres")).unwrap();
    fs::write(home.join("data/postgres/PG_VERSION"), "8\n").unwrap();
    let error = start(&home).await.unwrap_err().to_string();
    assert!(error.contains("PostgreSQL 8") && error.contains("pg_dumpall"), "{error}");
}

#[tokio::test]
async fn an_interrupted_first_start_is_begun_anew() {
    let dir = open_dir();
    let home = prepare_home(dir.path()).unwrap();
    let unfinished = home.join("data/postgres.unfinished");
    fs::create_dir_all(&unfinished).unwrap();
    fs::set_permissions(home.join("data"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let services = start(&home).await.unwrap();
    assert_eq!(psql(&services.database_url, "SELECT 1"), "1");
}

#[tokio::test]
async fn a_child_that_cannot_start_is_reported_with_its_log() {
    let dir = open_dir();
    start(dir.path()).await.unwrap().stop().await;
    fs::write(dir.path().join("data/postgres/postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let error = start(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn services_that_are_configured_are_not_started() {
    let dir = open_dir();
    let settings = ServicesSettings {
        home: dir.path().to_owned(),
        database_url: Some("postgres://elsewhere/db".to_owned()),
        redis_url: Some("redis://elsewhere".to_owned()),
        durable: true,
        archive: None,
    };
    let services = Services::start(settings, &Environment::read()).await.unwrap();
    assert_eq!(services.database_url, "postgres://elsewhere/db");
    assert!(services.reports().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_home_with_a_long_path_works() {
    let dir = open_dir();
    let home = dir.path().join("a-rather-long-name-of-a-directory-".repeat(5));
    let services = start(&home).await.unwrap();
    assert_eq!(psql(&services.database_url, "SELECT 1"), "1");
}

#[tokio::test]
async fn root_can_run_in_a_home_that_is_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let home = dir.path().join("home");
    let services = start(&home).await.unwrap();
    psql(&services.database_url, "CREATE TABLE kept AS SELECT 42 AS answer");
    services.stop().await;
    let services = start(&home).await.unwrap();
    assert_eq!(psql(&services.database_url, "SELECT answer FROM kept"), "42");
    services.stop().await;
    if is_root() {
        let elsewhere = fs::read_link(home.join("data")).unwrap();
        assert!(elsewhere.starts_with("/var/lib"), "{}", elsewhere.display());
        fs::remove_dir_all(elsewhere).unwrap();
    }
}

#[test]
fn an_ordinary_user_needs_nothing_from_root() {
    let dir = open_dir();
    let program = dir.path().join("hold");
    fs::copy(hold_program(), &program).unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut command = Command::new(&program);
    if is_root() {
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
        command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
            .arg(&program);
    }
    let held = Held::start({
        command.arg(&home);
        command
    });
    let owner = fs::metadata(format!("/proc/{}", held.pids()[0])).unwrap();
    let expected = if is_root() { 65_534 } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), expected);
    assert_eq!(psql(held.database_url(), "SELECT 1"), "1");
}
