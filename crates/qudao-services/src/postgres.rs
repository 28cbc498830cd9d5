//! The private Postgres: made with `initdb`, reached by its socket only, trusted because nobody
//! but its own user (and root) can enter the socket's directory.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    archive::{self, Archive, ArchiveSettings},
    backup,
    child::{self, Identity},
    error::{Doing as _, ServicesError},
    find::{self, Environment, PostgresBinaries},
    keeper::{self, Probe, Service},
    place::{Place, private_dir},
};

const NAME: &str = "postgres";
/// Owns the cluster, the database and the schema.
const USER: &str = "qudao";
const DATABASE: &str = "qudao";
/// Only a part of the socket's name: there is no TCP port.
const PORT: &str = "5432";
/// Each node of the platform keeps tens of connections; tests run many nodes at once.
const MAX_CONNECTIONS: &str = "max_connections=300";

pub(crate) struct Postgres {
    binaries: PostgresBinaries,
    identity: Option<Identity>,
    data: PathBuf,
    run: PathBuf,
    log: PathBuf,
    durable: bool,
    archive: Option<ArchiveSettings>,
    recovery: Option<Recovery>,
}

/// How a copy of a cluster becomes one that can be used.
pub(crate) struct Recovery {
    /// The copy.
    pub(crate) data: PathBuf,
    /// Settings of Postgres, `name=value` each.
    pub(crate) settings: Vec<String>,
}

impl Postgres {
    pub(crate) fn new(
        place: &Place,
        identity: Option<Identity>,
        durable: bool,
        archive: Option<ArchiveSettings>,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        Self::in_dir(place.data.join("postgres"), place, identity, durable, archive, environment)
    }

    /// A Postgres that recovers a copy; it is ready when the recovery is over.
    pub(crate) fn recovering(
        recovery: Recovery,
        place: &Place,
        identity: Option<Identity>,
        archive: Option<ArchiveSettings>,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let data = recovery.data.clone();
        let postgres = Self::in_dir(data, place, identity, true, archive, environment)?;
        Ok(Self { recovery: Some(recovery), ..postgres })
    }

    fn in_dir(
        data: PathBuf,
        place: &Place,
        identity: Option<Identity>,
        durable: bool,
        archive: Option<ArchiveSettings>,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let binaries = match written_by(&data) {
            None => find::find_postgres(environment, None)?,
            Some(written) => match find::find_postgres(environment, Some(written))? {
                Some(binaries) if binaries.major == written => Some(binaries),
                _ => {
                    let found = find::find_postgres(environment, None)?;
                    let found = found.map_or(0, |binaries| binaries.major);
                    return Err(ServicesError::OtherMajor { data, written, found });
                }
            },
        };
        let binaries = binaries.ok_or_else(|| ServicesError::Missing {
            what: "PostgreSQL".to_owned(),
            packages: "postgresql".to_owned(),
            variables: "DATABASE_URL".to_owned(),
        })?;
        let log = place.log.join("postgres.log");
        let run = place.run.clone();
        Ok(Self { binaries, identity, data, run, log, durable, archive, recovery: None })
    }

    /// Understood by libpq and by sqlx.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@localhost/{DATABASE}?host={}", self.run.display())
    }

    fn command(&self, program: &str, on_parent_death: Signal) -> Command {
        child::command(&self.binaries.program(program), self.identity.as_ref(), on_parent_death)
    }

    /// Makes the cluster beside its place and moves it there when it is complete, so that an
    /// interrupted first start does not leave half of one.
    fn initdb(&self) -> Result<(), ServicesError> {
        let unfinished = self.data.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)
                .doing(|| format!("removing {}", unfinished.display()))?;
        }
        private_dir(&unfinished, self.identity.as_ref())?;
        let mut command = self.command("initdb", Signal::SIGKILL);
        command.arg("-D").arg(&unfinished).args(["-U", USER, "--auth=trust", "--encoding=UTF8"]);
        // Under the locale C, pg_trgm drops every Chinese character.
        command.arg("--locale=C.UTF-8");
        if !self.durable {
            command.arg("--no-sync");
        }
        self.run_to_end(command, "initdb")?;
        fs::rename(&unfinished, &self.data)
            .doing(|| format!("moving the new cluster to {}", self.data.display()))
    }

    fn run_to_end(&self, mut command: Command, name: &'static str) -> Result<(), ServicesError> {
        let output = command.output().doing(|| format!("running {name}"))?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ServicesError::ChildEnded { name, status: output.status, log })
    }
}

impl Service for Postgres {
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
        Signal::SIGINT // a fast shutdown: sessions are ended, a checkpoint is written
    }

    fn force_signal(&self) -> Signal {
        Signal::SIGQUIT // an immediate one, with recovery at the next start
    }

    fn prepare(&self) -> Result<(), ServicesError> {
        if written_by(&self.data).is_none() {
            self.initdb()?;
        }
        let Some(archive) = &self.archive else { return Ok(()) };
        let identifier = backup::system_identifier(&self.binaries, &self.data)?;
        Archive::open(&archive.dir, &identifier)?.open_wal(self.identity.as_ref())
    }

    fn command(&self) -> Command {
        let mut command = self.command("postgres", Signal::SIGINT);
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.run).args(["-p", PORT]);
        command.args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
        command.args(["-c", MAX_CONNECTIONS]);
        if !self.durable {
            let off = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
            command.args(off.iter().flat_map(|setting| ["-c", setting]));
        }
        if let Some(archive) = &self.archive {
            command.args(["-c", "archive_mode=on", "-c"]);
            command.arg(format!("archive_timeout={}", archive.timeout.as_secs().max(1)));
            let wal = Archive::at(&archive.dir).wal_dir();
            command.arg("-c").arg(format!("archive_command={}", archive::command(&wal)));
        }
        for setting in self.recovery.iter().flat_map(|recovery| &recovery.settings) {
            command.arg("-c").arg(setting);
        }
        command
    }

    fn recovery_limit(&self) -> Duration {
        match &self.recovery {
            // As long as there is log to read: a week's worth may take hours.
            Some(_) => Duration::from_secs(7 * 24 * 3600),
            None => keeper::RECOVERY_LIMIT,
        }
    }

    fn probe(&self) -> Probe {
        match handshake(&self.run.join(format!(".s.PGSQL.{PORT}"))) {
            Ok(Answer::Welcome) => Probe::Ready,
            Ok(Answer::Refused(code)) if code == "57P03" => Probe::StartingUp,
            _ => Probe::Silent,
        }
    }

    fn complete(&self) -> Result<(), ServicesError> {
        let mut command = self.command("psql", Signal::SIGKILL);
        command.arg("-h").arg(&self.run).args(["-U", USER, "-d", "postgres", "-qAtX"]);
        command.args(["-v", "ON_ERROR_STOP=1", "-c"]);
        command.arg(format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"));
        let output = command.output().doing(|| "running psql".to_owned())?;
        if output.status.success() && output.stdout.starts_with(b"1") {
            return Ok(());
        }
        let mut command = self.command("createdb", Signal::SIGKILL);
        command.arg("-h").arg(&self.run).args(["-U", USER, DATABASE]);
        self.run_to_end(command, "createdb")
    }
}

/// The major version that wrote a data directory, if it holds a cluster.
pub(crate) fn written_by(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

enum Answer {
    Welcome,
    Refused(String),
}

/// The first exchange of the wire protocol, which tells a server that is ready from one that
/// listens while it recovers.
fn handshake(socket: &Path) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut body = 196_608_u32.to_be_bytes().to_vec(); // protocol 3.0
    body.extend(format!("user\0{USER}\0database\0postgres\0\0").into_bytes());
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &body].concat())?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    if head[0] != b'E' {
        stream.write_all(&[b'X', 0, 0, 0, 4])?;
        return Ok(Answer::Welcome);
    }
    let mut fields = String::new();
    stream.take(4096).read_to_string(&mut fields)?;
    let code = fields.split('\0').find_map(|field| field.strip_prefix('C'));
    Ok(Answer::Refused(code.unwrap_or_default().to_owned()))
}
