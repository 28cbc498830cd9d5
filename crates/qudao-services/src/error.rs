//! Why the private services are not running, in words for the person who starts Qudao.

use std::{io, path::PathBuf, process::ExitStatus};

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
    #[error("{name} ended at start ({status}); its log says:\n{log}")]
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
    /// The file system or a program failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
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
