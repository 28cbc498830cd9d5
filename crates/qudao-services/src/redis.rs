//! The private Redis. What it holds may vanish at any moment; it is kept on disk all the same, so
//! that a restart of a single machine does not lose rate limits and caches.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    child::{self, Identity},
    error::{Doing as _, ServicesError},
    find::{self, Environment},
    keeper::{Probe, Service},
    place::{Place, private_dir},
};

const NAME: &str = "redis";

pub(crate) struct Redis {
    program: PathBuf,
    identity: Option<Identity>,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    durable: bool,
}

impl Redis {
    pub(crate) fn new(
        place: &Place,
        identity: Option<Identity>,
        durable: bool,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let found = find::find_redis(environment).ok_or_else(|| ServicesError::Missing {
            what: "Redis".to_owned(),
            packages: "redis-tools".to_owned(),
            variables: "REDIS_URL".to_owned(),
        })?;
        let program = if found.needs_server_name {
            server_name(&found.path, &place.run)?
        } else {
            found.path
        };
        let (data, socket) = (place.data.join(NAME), place.run.join("redis.sock"));
        let log = place.log.join("redis.log");
        Ok(Self { program, identity, data, socket, log, durable })
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

/// The program decides by its own name what it is, so it is started through a link.
fn server_name(program: &Path, run: &Path) -> Result<PathBuf, ServicesError> {
    let link = run.join("redis-server");
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(link);
    }
    let _ = fs::remove_file(&link);
    symlink(program, &link).doing(|| format!("linking {}", link.display()))?;
    Ok(link)
}

impl Service for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn data(&self) -> &Path {
        &self.data
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn stop_signal(&self) -> Signal {
        Signal::SIGTERM
    }

    fn force_signal(&self) -> Signal {
        Signal::SIGKILL
    }

    fn prepare(&self) -> Result<(), ServicesError> {
        private_dir(&self.data, self.identity.as_ref())
    }

    fn command(&self) -> Command {
        let mut command = child::command(&self.program, self.identity.as_ref(), Signal::SIGTERM);
        command.args(["--port", "0", "--unixsocketperm", "700", "--unixsocket"]).arg(&self.socket);
        command.arg("--dir").arg(&self.data).args(["--save", "", "--daemonize", "no"]);
        let appendonly = if self.durable { "yes" } else { "no" };
        command.args(["--appendonly", appendonly, "--appendfsync", "everysec"]);
        command
    }

    fn probe(&self) -> Probe {
        let ask = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        match ask() {
            Ok(answer) if &answer == b"+PONG" => Probe::Ready,
            Ok(answer) if &answer == b"-LOAD" => Probe::StartingUp,
            _ => Probe::Silent,
        }
    }

    fn complete(&self) -> Result<(), ServicesError> {
        Ok(())
    }
}
