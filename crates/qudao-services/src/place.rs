//! Where the children's data, sockets and logs are.
//!
//! Data go under the home directory. When this process is root and the home is below a directory
//! that is closed to others (such as `/root`), the children's user could not reach them there, and
//! they go to a directory under `/var/lib` that a symbolic link in the home points to.
//! Sockets go to a short directory elsewhere: their paths have room for 107 bytes only.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    child::{Identity, owner},
    error::{Doing as _, ServicesError},
    find::Environment,
};

/// What fits into a unix socket's address, less the closing NUL.
const SOCKET_PATH_MAX: usize = 107;
/// The longest of the sockets' names.
const LONGEST_SOCKET: &str = ".s.PGSQL.5432.lock";

/// The directories of one home.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) log: PathBuf,
}

/// Decides, and creates the directories.
pub(crate) fn decide(
    home: &Path,
    identity: Option<&Identity>,
    environment: &Environment,
) -> Result<Place, ServicesError> {
    let data = data_dir(home, identity)?;
    let run = socket_dir(&data, identity, environment)?;
    let log = home.join("log");
    fs::create_dir_all(&log).doing(|| format!("creating {}", log.display()))?;
    Ok(Place { data, run, log })
}

fn data_dir(home: &Path, identity: Option<&Identity>) -> Result<PathBuf, ServicesError> {
    let data = home.join("data");
    let Some(identity) = identity else {
        fs::create_dir_all(&data).doing(|| format!("creating {}", data.display()))?;
        return data.canonicalize().doing(|| format!("resolving {}", data.display()));
    };
    if let Ok(existing) = data.canonicalize() {
        if !reachable(&existing, identity) {
            return Err(ServicesError::Unreachable { path: existing, user: identity.name.clone() });
        }
        return Ok(existing);
    }
    if reachable(home, identity) {
        create_passable(&data)?;
        return Ok(data);
    }
    // Random, so that a new home at the path of a deleted one does not find the old data.
    let random = qudao_domain::key::random_secret();
    let elsewhere = PathBuf::from(format!("/var/lib/qudao-{}", short_hash(random.as_bytes())));
    create_passable(&elsewhere)?;
    let note = elsewhere.join("HOME");
    fs::write(&note, format!("{}\n", home.display()))
        .doing(|| format!("writing {}", note.display()))?;
    let _ = fs::remove_file(&data);
    symlink(&elsewhere, &data).doing(|| format!("linking {}", data.display()))?;
    tracing::info!(data = %elsewhere.display(), user = identity.name,
        "the home is closed to the services' user: their data are elsewhere");
    Ok(elsewhere)
}

fn create_passable(path: &Path) -> Result<(), ServicesError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .doing(|| format!("creating {}", path.display()))
}

/// Whether the user may enter every directory on the way. Access lists are not looked at: they
/// would only make the answer too cautious.
pub(crate) fn reachable(path: &Path, identity: &Identity) -> bool {
    path.ancestors().all(|dir| {
        let Ok(metadata) = fs::metadata(dir) else { return false };
        let enter = if metadata.uid() == identity.uid {
            0o100
        } else if metadata.gid() == identity.gid {
            0o010
        } else {
            0o001
        };
        metadata.mode() & enter != 0
    })
}

fn socket_dir(
    data: &Path,
    identity: Option<&Identity>,
    environment: &Environment,
) -> Result<PathBuf, ServicesError> {
    let name = format!("qudao-{}", short_hash(data.as_os_str().as_encoded_bytes()));
    let path = socket_parent(identity, environment)?.join(name);
    private_dir(&path, identity)?;
    Ok(path)
}

/// A directory whose path is short enough for sockets below it.
pub(crate) fn socket_parent(
    identity: Option<&Identity>,
    environment: &Environment,
) -> Result<PathBuf, ServicesError> {
    let name = format!("qudao-{}", short_hash(b""));
    let usable = |dir: &PathBuf| {
        fs::metadata(dir).is_ok_and(|metadata| metadata.is_dir())
            && nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok()
            && fits(&dir.join(&name))
            && identity.is_none_or(|identity| reachable(dir, identity))
    };
    let runtime_dir = match identity {
        Some(_) => Some(PathBuf::from("/run")),
        None => environment.runtime_dir.clone(),
    };
    let candidates = [runtime_dir, Some(environment.temp_dir.clone()), Some("/tmp".into())];
    candidates.into_iter().flatten().find(usable).ok_or_else(|| {
        ServicesError::SocketPathTooLong(environment.temp_dir.join(&name).join(LONGEST_SOCKET))
    })
}

fn fits(dir: &Path) -> bool {
    dir.join(LONGEST_SOCKET).as_os_str().len() <= SOCKET_PATH_MAX
}

/// Creates a directory that only the children's user can enter, or checks that it is one: the
/// temporary directory is shared, and somebody else could have made one of that name.
pub(crate) fn private_dir(path: &Path, identity: Option<&Identity>) -> Result<(), ServicesError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(identity) = identity {
                chown(path, Some(identity.uid), Some(identity.gid))
                    .doing(|| format!("giving {} to {}", path.display(), identity.name))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(ServicesError::Io {
                doing: format!("creating {}", path.display()),
                source,
            });
        }
    }
    let metadata = fs::symlink_metadata(path).doing(|| format!("looking at {}", path.display()))?;
    let uid = owner(identity);
    let closed = metadata.permissions().mode() & 0o077 == 0;
    if !metadata.is_dir() || metadata.uid() != uid || !closed {
        return Err(ServicesError::UnsafeSocketDir { path: path.to_owned(), uid });
    }
    Ok(())
}

fn short_hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..6])
}

#[cfg(test)]
mod tests;
