//! A base backup: the whole cluster at one moment, with as much of the log as makes it consistent.
//!
//! It is taken under a name that no restore looks at, verified, and gets its own name last. So a
//! backup that was interrupted, in whatever way, does not exist.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use qudao_domain::Clock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    archive::{self, Archive, COMPRESSED, UNFINISHED},
    child,
    error::{Doing as _, ServicesError},
    find::{self, Environment, PostgresBinaries},
    postgres,
    wal::{self, Segment, Timeline},
};

pub(crate) const MANIFEST: &str = "manifest.json";
/// The cluster's files within a backup.
pub(crate) const DATA: &str = "data";
/// What lies directly in the home: keys, the demo's addresses.
pub(crate) const HOME: &str = "home";
/// Postgres' own list of the cluster's files with their checksums.
const FILE_LIST: &str = "backup_manifest";
/// What a backup is called: the moment when it was begun.
const NAME: &str = "%Y%m%dT%H%M%S%.3fZ";
/// A file in the home above this size is no key.
const SMALL: u64 = 1 << 20;

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// The instance's directory.
    pub home: PathBuf,
    /// How to reach its private Postgres, which must be running.
    pub database_url: String,
    /// The folder of backups.
    pub dir: PathBuf,
    /// How many backups to keep, this one included; all of them when absent.
    pub keep: Option<usize>,
}

/// A backup as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The version of this description.
    pub format: u32,
    /// What it is called.
    pub name: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was complete: the earliest moment that can be restored with it.
    pub finished_at: Timestamp,
    /// The major version of Postgres that it needs.
    pub postgres_major: u32,
    /// Which cluster it is of.
    pub system_identifier: String,
    /// The first segment of the log that a recovery from it reads.
    pub first_segment: String,
    /// Where it is consistent.
    pub end_position: String,
    /// The sum of its files' sizes.
    pub bytes: u64,
    /// SHA-256 of the list of the cluster's files, which holds theirs.
    pub file_list_sha256: String,
    /// SHA-256 of each file of the home that is kept with it.
    pub home_files: BTreeMap<String, String>,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// The new backup.
    pub backup: Backup,
    /// Where it is.
    pub path: PathBuf,
    /// Older backups that were removed.
    pub removed: Vec<String>,
    /// Files of the home that are left out because they must be kept elsewhere.
    pub kept_out: Vec<String>,
}

/// When the complete backups in a folder were begun, the oldest first. None if there is no such
/// folder.
pub fn backup_times(dir: &Path) -> Vec<Timestamp> {
    let names = Archive::at(dir).backups().unwrap_or_default();
    names.iter().filter_map(|name| time_of(name)).collect()
}

fn time_of(name: &str) -> Option<Timestamp> {
    let at = jiff::civil::DateTime::strptime(NAME, name).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(at).ok()
}

/// Takes a backup. Blocks until it is complete and verified.
///
/// # Errors
/// [`ServicesError::BackupRunning`], [`ServicesError::OtherArchive`], or what a program said.
pub fn back_up(
    settings: &BackupSettings,
    environment: &Environment,
    clock: &dyn Clock,
) -> Result<BackupReport, ServicesError> {
    let data = settings.home.join("data/postgres");
    let major = postgres::written_by(&data);
    let binaries = find::find_postgres(environment, major)?;
    let (Some(binaries), Some(major)) = (binaries, major) else {
        return Err(ServicesError::NoCluster { home: settings.home.clone() });
    };
    let system_identifier = system_identifier(&binaries, &data)?;
    let archive = Archive::open(&settings.dir, &system_identifier)?;
    let base = archive.base_dir();
    let _turn = lock(&base)?;
    remove_unfinished(&base)?;

    let started_at = clock.now();
    let name = started_at.strftime(NAME).to_string();
    let unfinished = base.join(format!("{name}{UNFINISHED}"));
    fs::create_dir(&unfinished).doing(|| format!("creating {}", unfinished.display()))?;
    copy_cluster(&binaries, &settings.database_url, &unfinished.join(DATA), &name)?;
    let home_files = copy_home(&settings.home, &unfinished.join(HOME))?;
    verify_cluster(&binaries, &unfinished.join(DATA))?;

    let (first_segment, end_position) = read_ranges(&unfinished.join(DATA))?;
    let backup = Backup {
        format: 1,
        name: name.clone(),
        started_at,
        finished_at: clock.now(),
        postgres_major: major,
        system_identifier,
        first_segment: first_segment.to_string(),
        end_position,
        bytes: size_of(&unfinished)?,
        file_list_sha256: sha256(&unfinished.join(DATA).join(FILE_LIST))?,
        home_files,
    };
    let text = serde_json::to_vec_pretty(&backup).unwrap_or_default();
    archive::write_durably(&unfinished.join(MANIFEST), &text)?;
    let path = base.join(&name);
    fs::rename(&unfinished, &path).doing(|| format!("completing {}", path.display()))?;
    archive::sync_dir(&base)?;
    let removed = settings.keep.map_or(Ok(Vec::new()), |keep| prune(&archive, keep))?;
    let kept_out = vec![crate::home::MASTER_KEY.to_owned()];
    let kept_out = kept_out.into_iter().filter(|name| settings.home.join(name).exists()).collect();
    Ok(BackupReport { backup, path, removed, kept_out })
}

/// One backup of a folder at a time; the kernel lets go of it however this process ends.
fn lock(base: &Path) -> Result<File, ServicesError> {
    let path = base.join(".lock");
    let file = File::create(&path).doing(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServicesError::BackupRunning(base.to_owned())),
        Err(TryLockError::Error(source)) => {
            Err(ServicesError::Io { doing: format!("locking {}", path.display()), source })
        }
    }
}

fn remove_unfinished(base: &Path) -> Result<(), ServicesError> {
    let entries = fs::read_dir(base).doing(|| format!("reading {}", base.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            let path = entry.path();
            fs::remove_dir_all(&path).doing(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn copy_cluster(
    binaries: &PostgresBinaries,
    url: &str,
    to: &Path,
    label: &str,
) -> Result<(), ServicesError> {
    // As this process' own user, who can write where the operator pointed; it dies with us.
    let mut command = child::command(&binaries.program("pg_basebackup"), None, Signal::SIGKILL);
    command.args(["-d", url, "--no-password", "--format=plain", "--wal-method=stream"]);
    command.args(["--checkpoint=fast", "--manifest-checksums=SHA256", "--label", label]);
    command.arg("--pgdata").arg(to);
    run(command, "pg_basebackup").map(|_| ())
}

/// Compares every file with the list, and reads the log that makes the backup consistent.
pub(crate) fn verify_cluster(
    binaries: &PostgresBinaries,
    data: &Path,
) -> Result<(), ServicesError> {
    let program = binaries.program("pg_verifybackup");
    let mut command = child::command(&program, None, Signal::SIGKILL);
    command.arg("--quiet").arg(data);
    run(command, "pg_verifybackup").map(|_| ())
}

/// The small files that lie directly in the home; without them the restored platform would have
/// another operator's key.
fn copy_home(home: &Path, to: &Path) -> Result<BTreeMap<String, String>, ServicesError> {
    fs::create_dir(to).doing(|| format!("creating {}", to.display()))?;
    let mut kept = BTreeMap::new();
    let entries = fs::read_dir(home).doing(|| format!("reading {}", home.display()))?;
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let small = entry.metadata().is_ok_and(|data| data.is_file() && data.len() <= SMALL);
        // A key in the same place as what it protects would protect nothing.
        if !small || name == crate::home::LOCK || name == crate::home::MASTER_KEY {
            continue;
        }
        let path = to.join(&name);
        // Takes the permissions along.
        fs::copy(entry.path(), &path).doing(|| format!("copying {name}"))?;
        let sync = || File::open(&path)?.sync_all();
        sync().doing(|| format!("syncing {}", path.display()))?;
        kept.insert(name, sha256(&path)?);
    }
    archive::sync_dir(to)?;
    Ok(kept)
}

/// Which part of the log belongs to the backup.
fn read_ranges(data: &Path) -> Result<(Segment, String), ServicesError> {
    #[derive(Deserialize)]
    struct FileList {
        #[serde(rename = "WAL-Ranges")]
        ranges: Vec<Range>,
    }
    #[derive(Deserialize)]
    struct Range {
        #[serde(rename = "Timeline")]
        timeline: u32,
        #[serde(rename = "Start-LSN")]
        start: String,
        #[serde(rename = "End-LSN")]
        end: String,
    }
    let path = data.join(FILE_LIST);
    let bytes = fs::read(&path).doing(|| format!("reading {}", path.display()))?;
    let list: Option<FileList> = serde_json::from_slice(&bytes).ok();
    let range = list.and_then(|list| list.ranges.into_iter().next());
    let segment = range.as_ref().and_then(|range| {
        let number = wal::segment_of(&range.start)?;
        Some(Segment { timeline: Timeline(range.timeline), number })
    });
    match (segment, range) {
        (Some(segment), Some(range)) => Ok((segment, range.end)),
        _ => Err(ServicesError::DamagedBackup {
            path,
            detail: "it does not say which part of the log belongs to it".to_owned(),
        }),
    }
}

/// Removes all but the newest backups, and the log that none of those needs.
fn prune(archive: &Archive, keep: usize) -> Result<Vec<String>, ServicesError> {
    let mut names = archive.backups()?;
    let kept = names.split_off(names.len().saturating_sub(keep.max(1)));
    let base = archive.base_dir();
    for name in &names {
        // Under its other name first: half of a backup must not look like one.
        let unfinished = base.join(format!("{name}{UNFINISHED}"));
        fs::rename(base.join(name), &unfinished).doing(|| format!("removing {name}"))?;
        fs::remove_dir_all(&unfinished).doing(|| format!("removing {name}"))?;
    }
    let mut needed = Vec::new();
    for name in &kept {
        needed.extend(Segment::parse(&read(&base.join(name))?.first_segment));
    }
    let oldest = needed.iter().map(|segment| segment.number).min();
    if let Some(oldest) = oldest {
        for (number, timelines) in archive.log()?.segments.range(..oldest) {
            for timeline in timelines {
                let segment = Segment { timeline: *timeline, number: *number };
                let path = archive.wal_dir().join(format!("{segment}{COMPRESSED}"));
                fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?;
            }
        }
    }
    Ok(names)
}

/// Reads the manifest of a backup.
pub(crate) fn read(path: &Path) -> Result<Backup, ServicesError> {
    let damaged = |detail: String| ServicesError::DamagedBackup { path: path.to_owned(), detail };
    let text = fs::read(path.join(MANIFEST))
        .map_err(|error| damaged(format!("its {MANIFEST} cannot be read: {error}")))?;
    let backup: Backup = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("its {MANIFEST} is not one: {error}")))?;
    if backup.format != 1 {
        return Err(damaged(format!("it has format {}, which is not known here", backup.format)));
    }
    Ok(backup)
}

/// Compares everything in a backup with its checksums.
pub(crate) fn verify(
    backup: &Backup,
    path: &Path,
    binaries: &PostgresBinaries,
) -> Result<(), ServicesError> {
    let damaged = |detail: String| ServicesError::DamagedBackup { path: path.to_owned(), detail };
    let mut sums = vec![(path.join(DATA).join(FILE_LIST), &backup.file_list_sha256)];
    sums.extend(backup.home_files.iter().map(|(name, sum)| (path.join(HOME).join(name), sum)));
    for (file, expected) in sums {
        if sha256(&file).ok().as_ref() != Some(expected) {
            return Err(damaged(format!("{} is not what was written", file.display())));
        }
    }
    verify_cluster(binaries, &path.join(DATA)).map_err(|error| match error {
        ServicesError::ChildEnded { log, .. } => damaged(log),
        other => other,
    })
}

/// The cluster's identity, which a copy shares.
pub(crate) fn system_identifier(
    binaries: &PostgresBinaries,
    data: &Path,
) -> Result<String, ServicesError> {
    let program = binaries.program("pg_controldata");
    let mut command = child::command(&program, None, Signal::SIGKILL);
    command.arg("-D").arg(data);
    let said = run(command, "pg_controldata")?;
    let found = said.lines().find_map(|line| line.strip_prefix("Database system identifier:"));
    found.map(|text| text.trim().to_owned()).ok_or_else(|| ServicesError::Io {
        doing: format!("asking {} for its identity", data.display()),
        source: std::io::Error::other("pg_controldata does not tell it"),
    })
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn run(mut command: Command, name: &'static str) -> Result<String, ServicesError> {
    let output = command.output().doing(|| format!("running {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let log = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServicesError::ChildEnded { name, status: output.status, log })
}

fn sha256(path: &Path) -> Result<String, ServicesError> {
    let hash = || {
        let mut digest = Sha256::new();
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match std::io::Read::read(&mut file, &mut buffer)? {
                0 => return Ok(hex::encode(digest.finalize())),
                length => digest.update(&buffer[..length]),
            }
        }
    };
    hash().doing(|| format!("reading {}", path.display()))
}

fn size_of(dir: &Path) -> Result<u64, ServicesError> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).doing(|| format!("reading {}", dir.display()))?.flatten() {
        let data = entry.metadata().doing(|| format!("looking at {}", entry.path().display()))?;
        bytes += if data.is_dir() { size_of(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_backups_are_those_in_their_names_and_only_complete_ones_count() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(backup_times(folder.path()), []);
        for (name, complete) in [
            ("20261127T020000.000Z", true),
            ("20261128T020000.123Z", true),
            ("20261129T020000.000Z.unfinished", true),
            ("20261130T020000.000Z", false),
        ] {
            let dir = folder.path().join("base").join(name);
            fs::create_dir_all(&dir).unwrap();
            if complete {
                fs::write(dir.join(MANIFEST), "{}").unwrap();
            }
        }
        let expected: [Timestamp; 2] =
            ["2026-11-27T02:00:00Z", "2026-11-28T02:00:00.123Z"].map(|time| time.parse().unwrap());
        assert_eq!(backup_times(folder.path()), expected);
    }
}
