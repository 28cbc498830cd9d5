//! Why the private services are not running, in words for the person who starts Qudao.

use std::{io, path::PathBuf, process::ExitStatus};

use jiff::Timestamp;

use crate::home::Instance;

/// Why the services could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// Programs are not installed.
    #[error(
        "{what} not found: install with `sudo apt-get install -y {packages}`, or set {variables}"
    )]
    Missing {
        /// The programs, for a sentence.
        what: String,
        /// Debian packages that bring them.
        packages: String,
        /// The variables that name other servers.
        variables: String,
    },
    /// `$QUDAO_PG_BIN` does not hold the programs of Postgres.
    #[error("QUDAO_PG_BIN={} holds no `postgres` and `initdb`", .0.display())]
    WrongPostgresBin(PathBuf),
    /// Another process uses the home directory.
    #[error(
        "{} is in use by another Qudao: process {}{}; stop it or set QUDAO_HOME to another directory",
        .home.display(), .instance.pid, .instance.at()
    )]
    Running {
        /// The directory that is in use.
        home: PathBuf,
        /// Who uses it.
        instance: Box<Instance>,
    },
    /// The data were written by another major version of Postgres.
    #[error(
        "{} was written by PostgreSQL {written}, but PostgreSQL {found} is installed: \
         install postgresql-{written}, or move the data with `/usr/lib/postgresql/{written}/bin/pg_dumpall` \
         and start with an empty directory", .data.display()
    )]
    OtherMajor {
        /// The data directory.
        data: PathBuf,
        /// What wrote it.
        written: u32,
        /// What was found.
        found: u32,
    },
    /// The unprivileged user cannot reach the data.
    #[error(
        "{} cannot be reached by the user {user} that the services run as: allow it with `chmod o+x` \
         on each directory above it, or set QUDAO_HOME to a directory outside of it", .path.display()
    )]
    Unreachable {
        /// The directory with data.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// The directory for sockets belongs to somebody else or is open to others.
    #[error("{} is not a directory of user id {uid} with mode 0700: remove it", .path.display())]
    UnsafeSocketDir {
        /// The directory.
        path: PathBuf,
        /// Who should own it.
        uid: u32,
    },
    /// Unix socket paths have room for 107 bytes.
    #[error("the socket path {} is longer than 107 bytes: set TMPDIR to a shorter directory", .0.display())]
    SocketPathTooLong(PathBuf),
    /// We are root and there is nobody to drop to.
    #[error("Postgres refuses to run as root and there is neither a user `postgres` nor `nobody`")]
    NoUnprivilegedUser,
    /// A child ended instead of coming up.
    #[error("{name} ended ({status}); it says:\n{log}")]
    ChildEnded {
        /// Which service.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A child runs and does not answer.
    #[error("{name} did not answer within {seconds} s; its log says:\n{log}")]
    NoAnswer {
        /// Which service.
        name: &'static str,
        /// How long was waited.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// The folder of backups cannot be written by the user that archives.
    #[error(
        "{} cannot be written by {user}, which archives the log: allow it with `chmod o+x` on each \
         directory above it and `chown` of itself, or name another folder", .dir.display()
    )]
    UnreachableArchive {
        /// The folder.
        dir: PathBuf,
        /// The user.
        user: String,
    },
    /// The folder of backups belongs to another cluster.
    #[error(
        "{} holds the backups of another database: name an empty folder", .dir.display()
    )]
    OtherArchive {
        /// The folder.
        dir: PathBuf,
    },
    /// Two backups into one folder at the same time.
    #[error("another backup into {} is under way", .0.display())]
    BackupRunning(PathBuf),
    /// The home has no private database.
    #[error("{} holds no private database to back up", .home.display())]
    NoCluster {
        /// The directory.
        home: PathBuf,
    },
    /// There is nothing to restore.
    #[error("{} holds no complete backup{}", .dir.display(), of(.name.as_deref()))]
    NoBackup {
        /// The folder.
        dir: PathBuf,
        /// What was asked for.
        name: Option<String>,
    },
    /// The moment lies before every backup.
    #[error("no backup reaches back to {asked}: the earliest moment is {earliest}")]
    TooEarly {
        /// What was asked for.
        asked: Timestamp,
        /// When the first backup was complete.
        earliest: Timestamp,
    },
    /// The moment lies after the end of the log.
    #[error(
        "the archived log ends before {asked}: leave the time out to restore all that there is"
    )]
    TooLate {
        /// What was asked for.
        asked: Timestamp,
    },
    /// What was written is not there or not what is there now.
    #[error("the backup {} is damaged: {detail}", .path.display())]
    DamagedBackup {
        /// The backup, or the part of it.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The home holds data already.
    #[error(
        "{} is not empty: restore into a home without data, or move its data away", .home.display()
    )]
    NotEmpty {
        /// The directory.
        home: PathBuf,
    },
    /// The file system or a program failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn of(name: Option<&str>) -> String {
    name.map(|name| format!(" called {name}")).unwrap_or_default()
}

/// Adds what was being done to an I/O error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, ServicesError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, ServicesError> {
        self.map_err(|source| ServicesError::Io { doing: what(), source })
    }
}
