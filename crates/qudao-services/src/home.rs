//! The home directory belongs to one running instance. The lock is the kernel's, so it goes with
//! the process however that ends; the file's text only says who holds it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::error::{Doing as _, ServicesError};

pub(crate) const LOCK: &str = "instance.lock";
/// The file of the home with the key that protects the secrets in the database.
pub const MASTER_KEY: &str = "master.key";

/// A running Qudao, as it describes itself to others on the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Instance {
    /// Its process.
    pub pid: u32,
    /// Where it answers HTTP; empty until it does.
    #[serde(default)]
    pub base_url: String,
    /// Its database; empty until that is up.
    #[serde(default)]
    pub database_url: String,
    /// Its Redis; empty until that is up.
    #[serde(default)]
    pub redis_url: String,
}

impl Instance {
    /// ` at <URL>`, or nothing while it is starting.
    pub(crate) fn at(&self) -> String {
        if self.base_url.is_empty() { String::new() } else { format!(" at {}", self.base_url) }
    }
}

/// Creates the home directory if need be and returns its absolute path without symbolic links.
///
/// # Errors
/// [`ServicesError::Io`] if it cannot be created.
pub fn prepare_home(home: &Path) -> Result<PathBuf, ServicesError> {
    // Files with secrets are 0600 each; the services' unprivileged user has to pass through.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(home)
        .doing(|| format!("creating {}", home.display()))?;
    home.canonicalize().doing(|| format!("resolving {}", home.display()))
}

/// The right to use a home directory; released when dropped or when the process ends.
#[derive(Debug)]
pub struct HomeLock {
    file: File,
    path: PathBuf,
}

impl HomeLock {
    /// Takes the home directory.
    ///
    /// # Errors
    /// [`ServicesError::Running`] if another process has it.
    pub fn acquire(home: &Path) -> Result<Self, ServicesError> {
        let path = home.join(LOCK);
        let mut file = open(&path)?;
        // Somebody who only looks holds the lock for an instant: see `running_instance`.
        for _ in 0..20 {
            match file.try_lock() {
                Ok(()) => {
                    let mut lock = Self { file, path };
                    lock.publish(&Instance { pid: std::process::id(), ..Instance::default() })?;
                    return Ok(lock);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::Error(source)) => {
                    let doing = format!("locking {}", path.display());
                    return Err(ServicesError::Io { doing, source });
                }
            }
        }
        let instance = Box::new(read(&mut file));
        Err(ServicesError::Running { home: home.to_owned(), instance })
    }

    /// Tells others on the machine how to reach this instance.
    ///
    /// # Errors
    /// [`ServicesError::Io`] if the file cannot be written.
    pub fn publish(&mut self, instance: &Instance) -> Result<(), ServicesError> {
        let text = serde_json::to_vec_pretty(instance).unwrap_or_default();
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        };
        write(&mut self.file).doing(|| format!("writing {}", self.path.display()))
    }
}

/// The instance that uses a home directory at the moment, if there is one.
pub fn running_instance(home: &Path) -> Option<Instance> {
    let mut file = OpenOptions::new().read(true).open(home.join(LOCK)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read(&mut file)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn open(path: &Path) -> Result<File, ServicesError> {
    // The text may hold a database URL with a password.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .doing(|| format!("opening {}", path.display()))
}

fn read(file: &mut File) -> Instance {
    let mut text = String::new();
    if file.rewind().and_then(|()| file.read_to_string(&mut text)).is_err() {
        return Instance::default();
    }
    serde_json::from_str(&text).unwrap_or_default()
}
