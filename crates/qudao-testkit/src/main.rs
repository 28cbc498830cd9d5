//! Starts Postgres and Redis once for a whole test run: `testbed -- cargo nextest run`.
//! The command's exit code is the testbed's. Nothing is left behind.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
    time::Instant,
};

use nix::sys::statvfs::statvfs;
use qudao_services::{Environment, Services, ServicesError, ServicesSettings, prepare_home};
use qudao_testkit::{DATABASE_VARIABLE, REDIS_VARIABLE};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    if arguments.is_empty() {
        say("usage: testbed -- <command> [arguments]");
        return ExitCode::from(2);
    }
    match run(arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(error @ ServicesError::Missing { .. }) => {
            say(&error.to_string());
            ExitCode::from(3)
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<std::ffi::OsString>) -> Result<u8, ServicesError> {
    let io = |doing: &str| {
        let doing = doing.to_owned();
        move |source| ServicesError::Io { doing, source }
    };
    let begun = Instant::now();
    let dir = temporary_dir().map_err(io("making a temporary directory"))?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).map_err(io("opening the temporary directory"))?;
    let home = prepare_home(&dir.path().join("home"))?;
    let settings = ServicesSettings {
        home,
        database_url: None,
        redis_url: None,
        durable: false,
        archive: None,
    };
    let services = Services::start(settings, &Environment::read()).await?;
    say(&format!("Postgres and Redis for the tests are up ({:.1?})", begun.elapsed()));
    let mut command = tokio::process::Command::new(&arguments[0]);
    command.args(&arguments[1..]).kill_on_drop(true);
    command.env(DATABASE_VARIABLE, &services.database_url);
    command.env(REDIS_VARIABLE, &services.redis_url);
    let mut child = command.spawn().map_err(io("starting the command"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listening for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listening for signals"))?;
    // Ctrl-C reaches the command by the terminal; it is waited for all the same.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(io("waiting for the command"))?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => terminate_child(&child),
        }
    };
    services.stop().await;
    Ok(code(status))
}

/// In memory where there is room: a test makes a database of 650 files and drops it, and most of what that
/// takes is the file system's.
fn temporary_dir() -> std::io::Result<tempfile::TempDir> {
    const IN_MEMORY: &str = "/dev/shm";
    /// Several times what the databases of tests that run at once and the log take.
    const NEEDED_BYTES: u64 = 4 << 30;
    let free = statvfs(IN_MEMORY).map(|of| of.blocks_available() * of.fragment_size());
    match free {
        Ok(free) if free >= NEEDED_BYTES => tempfile::tempdir_in(IN_MEMORY),
        _ => tempfile::tempdir(),
    }
}

fn terminate_child(child: &tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
}

/// As a shell reports it: 128 and the signal's number for a command that was killed.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "testbed: {text}");
}
