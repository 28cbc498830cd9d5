//! Where the programs are: configuration first, then the newest of the distribution, then `PATH`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::{Doing as _, ServicesError};

/// The part of the process environment that decides where programs and sockets are.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `$QUDAO_PG_BIN`: the directory with `postgres` and `initdb`.
    pub postgres_bin: Option<PathBuf>,
    /// `$PATH`.
    pub path: OsString,
    /// `$XDG_RUNTIME_DIR`, where an ordinary user's sockets belong.
    pub runtime_dir: Option<PathBuf>,
    /// Where temporary files go.
    pub temp_dir: PathBuf,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn read() -> Self {
        let path_of = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        Self {
            postgres_bin: path_of("QUDAO_PG_BIN"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            runtime_dir: path_of("XDG_RUNTIME_DIR"),
            temp_dir: std::env::temp_dir(),
        }
    }
}

/// An installed Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    /// The directory with `postgres`, `initdb` and `createdb`.
    pub dir: PathBuf,
    /// The major version, such as 15.
    pub major: u32,
}

impl PostgresBinaries {
    /// The path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// An installed Redis or Valkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisBinary {
    /// The program.
    pub path: PathBuf,
    /// Whether it acts as a server only when it is called `redis-server`: Debian's redis-tools
    /// bring the server under the name of its checking tool.
    pub needs_server_name: bool,
}

/// Finds Postgres: the configured directory, else the newest installed one. With `major`, that
/// version and no other, unless a directory is configured.
///
/// # Errors
/// [`ServicesError::WrongPostgresBin`] if the configured directory does not hold it.
pub fn find_postgres(
    environment: &Environment,
    major: Option<u32>,
) -> Result<Option<PostgresBinaries>, ServicesError> {
    if let Some(dir) = &environment.postgres_bin {
        let found = probe_postgres(dir)?;
        return found.map(Some).ok_or_else(|| ServicesError::WrongPostgresBin(dir.clone()));
    }
    let mut found = Vec::new();
    for dir in versioned_dirs().into_iter().chain(std::env::split_paths(&environment.path)) {
        if let Some(binaries) = probe_postgres(&dir)? {
            found.push(binaries);
        }
    }
    found.retain(|binaries| major.is_none_or(|major| binaries.major == major));
    // Stable, so that a distribution's directory goes before PATH at the same version.
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    Ok(found.into_iter().next())
}

fn versioned_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
    ] {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                dirs.push(entry.path().join("bin"));
            }
        }
    }
    dirs
}

fn probe_postgres(dir: &Path) -> Result<Option<PostgresBinaries>, ServicesError> {
    let server = dir.join("postgres");
    if !server.is_file() || !dir.join("initdb").is_file() {
        return Ok(None);
    }
    let output = Command::new(&server)
        .arg("--version")
        .output()
        .doing(|| format!("asking {} for its version", server.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(major_of(&text).map(|major| PostgresBinaries { dir: dir.to_owned(), major }))
}

/// The major version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Finds a Redis server: `redis-server`, `valkey-server`, or the checking tool of redis-tools,
/// which is the same program.
pub fn find_redis(environment: &Environment) -> Option<RedisBinary> {
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = std::env::split_paths(&environment.path).chain(usual).collect();
    for (name, needs_server_name) in
        [("redis-server", false), ("valkey-server", false), ("redis-check-rdb", true)]
    {
        if let Some(path) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()) {
            return Some(RedisBinary { path, needs_server_name });
        }
    }
    None
}

/// Names everything that is missing at once, so that one command mends it.
pub(crate) fn require(
    environment: &Environment,
    postgres: bool,
    redis: bool,
) -> Result<(), ServicesError> {
    let postgres = postgres && find_postgres(environment, None)?.is_none();
    let redis = redis && find_redis(environment).is_none();
    let (what, packages, variables) = match (postgres, redis) {
        (false, false) => return Ok(()),
        (true, false) => ("PostgreSQL", "postgresql", "DATABASE_URL"),
        (false, true) => ("Redis", "redis-tools", "REDIS_URL"),
        (true, true) => {
            ("PostgreSQL and Redis", "postgresql redis-tools", "DATABASE_URL and REDIS_URL")
        }
    };
    let [what, packages, variables] = [what, packages, variables].map(str::to_owned);
    Err(ServicesError::Missing { what, packages, variables })
}

#[cfg(test)]
mod tests;
