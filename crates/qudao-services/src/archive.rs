//! The folder that holds what a private Postgres can be restored from.
//!
//! ```text
//! archive.json      which cluster it belongs to
//! wal/              the log, a compressed file per segment, written by Postgres' own user
//! base/<name>/      a base backup each, complete once it has this name: see `backup`
//! ```

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    child::{Identity, owner},
    error::{Doing as _, ServicesError},
    place,
    wal::{Segment, Timeline},
};

const IDENTITY: &str = "archive.json";
/// How archived files end.
pub(crate) const COMPRESSED: &str = ".gz";
/// How the directory of a base backup ends that is not complete.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// Where a private Postgres archives its log while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// The folder.
    pub dir: PathBuf,
    /// When what was written is archived at the latest, though its segment is not full.
    pub timeout: Duration,
}

/// The folder of backups.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) dir: PathBuf,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Belongs {
    format: u32,
    system_identifier: String,
}

impl Archive {
    /// The folder as it is.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the folder for the cluster with this identifier, or checks that it belongs to it:
    /// segments of two clusters have the same names.
    pub(crate) fn open(dir: &Path, system_identifier: &str) -> Result<Self, ServicesError> {
        let archive = Self::at(dir);
        create_passable(dir)?;
        let dir = dir.canonicalize().doing(|| format!("resolving {}", dir.display()))?;
        create_private(&archive.base_dir())?;
        let path = archive.dir.join(IDENTITY);
        let belongs = Belongs { format: 1, system_identifier: system_identifier.to_owned() };
        match fs::read(&path) {
            Ok(bytes) => {
                let before: Option<Belongs> = serde_json::from_slice(&bytes).ok();
                if before.as_ref() != Some(&belongs) {
                    return Err(ServicesError::OtherArchive { dir });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = serde_json::to_vec_pretty(&belongs).unwrap_or_default();
                write_durably(&path, &text)?;
            }
            Err(source) => {
                return Err(ServicesError::Io {
                    doing: format!("reading {}", path.display()),
                    source,
                });
            }
        }
        Ok(Self { dir })
    }

    /// Makes the directory that Postgres writes its log to.
    pub(crate) fn open_wal(&self, identity: Option<&Identity>) -> Result<(), ServicesError> {
        let dir = self.wal_dir();
        let user = || identity.map_or_else(|| "this process".to_owned(), |who| who.name.clone());
        let refused = || ServicesError::UnreachableArchive { dir: dir.clone(), user: user() };
        if identity.is_some_and(|identity| !place::reachable(&self.dir, identity)) {
            return Err(refused());
        }
        if !dir.is_dir() {
            create_private(&dir)?;
            if let Some(Identity { uid, gid, name }) = identity {
                chown(&dir, Some(*uid), Some(*gid))
                    .doing(|| format!("giving {} to {name}", dir.display()))?;
            }
        }
        let metadata = fs::metadata(&dir).doing(|| format!("looking at {}", dir.display()))?;
        if metadata.uid() == owner(identity) { Ok(()) } else { Err(refused()) }
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.dir.join("wal")
    }

    pub(crate) fn base_dir(&self) -> PathBuf {
        self.dir.join("base")
    }

    /// The names of the complete base backups, the oldest first.
    pub(crate) fn backups(&self) -> Result<Vec<String>, ServicesError> {
        let mut names = names_in(&self.base_dir())?;
        names.retain(|name| {
            !name.ends_with(UNFINISHED)
                && self.base_dir().join(name).join("manifest.json").is_file()
        });
        names.sort();
        Ok(names)
    }

    /// The archived segments of the log, and the histories of its timelines.
    pub(crate) fn log(&self) -> Result<ArchivedLog, ServicesError> {
        let mut log = ArchivedLog::default();
        for name in names_in(&self.wal_dir())? {
            let Some(stem) = name.strip_suffix(COMPRESSED) else { continue };
            if let Some(segment) = Segment::parse(stem) {
                log.segments.entry(segment.number).or_default().push(segment.timeline);
            } else if let Some(timeline) = Timeline::of_history(stem) {
                log.histories.push(timeline);
            }
        }
        Ok(log)
    }
}

/// What the log directory holds.
#[derive(Debug, Default)]
pub(crate) struct ArchivedLog {
    /// Which timelines have a segment of this number.
    pub(crate) segments: BTreeMap<u64, Vec<Timeline>>,
    /// Timelines that branched off another, each with a file that says where.
    pub(crate) histories: Vec<Timeline>,
}

/// The command by which Postgres archives a segment. A file that is there already is compared:
/// after a crash Postgres archives the same segment once more, while another one under its name
/// means that two clusters write to one folder.
pub(crate) fn command(wal_dir: &Path) -> String {
    let dir = quoted(wal_dir);
    format!(
        "d={dir}; if test -e \"$d/%f{COMPRESSED}\"; \
         then gzip -dc \"$d/%f{COMPRESSED}\" | cmp -s - \"%p\"; \
         else gzip -1 -c \"%p\" > \"$d/%f.part\" && sync \"$d/%f.part\" \
         && mv \"$d/%f.part\" \"$d/%f{COMPRESSED}\" && sync \"$d\"; fi"
    )
}

/// A path as a word of the shell within a command in which Postgres replaces `%` and a letter.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"))
}

fn names_in(dir: &Path) -> Result<Vec<String>, ServicesError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ServicesError::Io { doing: format!("reading {}", dir.display()), source });
        }
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn create_passable(dir: &Path) -> Result<(), ServicesError> {
    create(dir, 0o711)
}

fn create_private(dir: &Path) -> Result<(), ServicesError> {
    create(dir, 0o700)
}

fn create(dir: &Path, mode: u32) -> Result<(), ServicesError> {
    if dir.is_dir() {
        return Ok(()); // whatever the operator decided about it
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .doing(|| format!("creating {}", dir.display()))
}

/// Writes a file that is whole or not there, also after a power cut.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ServicesError> {
    let part = path.with_extension("part");
    let write = || {
        fs::write(&part, bytes)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(0o600))?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, path)
    };
    write().doing(|| format!("writing {}", path.display()))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ServicesError> {
    let sync = || fs::File::open(dir)?.sync_all();
    sync().doing(|| format!("syncing {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_and_percent_signs_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's 100%")), r"'/a b/it'\''s 100%%'");
    }

    #[test]
    fn a_folder_belongs_to_one_cluster() {
        let folder = tempfile::tempdir().unwrap();
        Archive::open(folder.path(), "1").unwrap();
        Archive::open(folder.path(), "1").unwrap();
        let error = Archive::open(folder.path(), "2").unwrap_err();
        assert!(matches!(error, ServicesError::OtherArchive { .. }), "{error}");
    }

    #[test]
    fn what_is_not_complete_is_no_backup() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path(), "1").unwrap();
        for name in ["b", "a", "c.unfinished", "d"] {
            fs::create_dir(archive.base_dir().join(name)).unwrap();
            if name != "d" {
                fs::write(archive.base_dir().join(name).join("manifest.json"), "{}").unwrap();
            }
        }
        assert_eq!(archive.backups().unwrap(), ["a", "b"]);
    }
}
