//! A cluster from a base backup and the archived log, into a home that has none.
//!
//! Everything is checked before anything is written, and the recovered cluster gets its place
//! last: a restore that was interrupted leaves a home without data, into which it can be repeated.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::{
    archive::{self, Archive, ArchiveSettings, ArchivedLog, COMPRESSED, UNFINISHED},
    backup::{self, Backup, DATA, HOME},
    child::{self, Identity},
    error::{Doing as _, ServicesError},
    find::{self, Environment, PostgresBinaries},
    keeper::Keeper,
    place,
    postgres::{Postgres, Recovery},
    wal::{self, Segment, Timeline},
};

/// The cluster while it is restored.
const UNFINISHED_CLUSTER: &str = "postgres.unfinished";
/// The part of the log that the recovery reads, where Postgres' own user can.
const LOG: &str = "restore-log";
/// Marks the data of a rehearsal. Its log would lead a later restore onto a branch on which the
/// real platform never was.
pub(crate) const REHEARSAL: &str = "rehearsal";
/// Files that one call of `gzip` is given.
const AT_ONCE: usize = 200;

/// What to restore, and into which home.
#[derive(Debug, Clone)]
pub struct RestoreSettings {
    /// The instance's directory; the caller holds its [`HomeLock`](crate::HomeLock).
    pub home: PathBuf,
    /// The folder of backups.
    pub dir: PathBuf,
    /// Which backup; the newest that serves when absent.
    pub backup: Option<String>,
    /// The moment to go back to; all that there is when absent.
    pub to_time: Option<Timestamp>,
    /// Where the restored Postgres will archive its log.
    pub archive: Option<ArchiveSettings>,
    /// Whether this is a rehearsal: the home archives nothing then, whatever its settings say.
    pub rehearsal: bool,
}

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The backup that it began with.
    pub backup: Backup,
    /// The moment that was asked for.
    pub to_time: Option<Timestamp>,
    /// How many segments of the log there were to read.
    pub segments: usize,
    /// The last of them.
    pub last_segment: Option<String>,
    /// Files of the home that were brought back; those that were there stay as they are.
    pub home_files: Vec<String>,
}

/// What was found to restore from.
struct Source {
    archive: Archive,
    backup: Backup,
    path: PathBuf,
    segments: Vec<Segment>,
    histories: Vec<Timeline>,
}

/// Restores, and waits until the recovery is over and Postgres stopped again.
///
/// # Errors
/// [`ServicesError::NotEmpty`], [`ServicesError::NoBackup`], [`ServicesError::DamagedBackup`],
/// [`ServicesError::TooEarly`], [`ServicesError::TooLate`]. The home has no data then.
pub async fn restore(
    settings: RestoreSettings,
    environment: &Environment,
) -> Result<RestoreReport, ServicesError> {
    refuse_data(&settings.home)?;
    let (source, binaries) = find_source(&settings, environment)?;
    backup::verify(&source.backup, &source.path, &binaries)?;
    verify_log(&source)?;

    let identity = child::identity()?;
    let place = place::decide(&settings.home, identity.as_ref(), environment)?;
    let data = place.data.join(UNFINISHED_CLUSTER);
    let log = place.data.join(LOG);
    let recovered = async {
        let _ = fs::remove_file(place.data.join(REHEARSAL));
        for leftover in [&data, &log] {
            if leftover.exists() {
                fs::remove_dir_all(leftover)
                    .doing(|| format!("removing {}", leftover.display()))?;
            }
        }
        copy_tree(&source.path.join(DATA), &data, identity.as_ref())?;
        copy_log(&source, &log, identity.as_ref())?;
        let signal = data.join("recovery.signal");
        fs::write(&signal, "").doing(|| format!("writing {}", signal.display()))?;
        give(&signal, identity.as_ref())?;
        let recovery =
            Recovery { data: data.clone(), settings: recovery_settings(&log, settings.to_time) };
        if settings.rehearsal {
            let mark = place.data.join(REHEARSAL);
            fs::write(&mark, "").doing(|| format!("writing {}", mark.display()))?;
        }
        let archive = settings.archive.clone().filter(|_| !settings.rehearsal);
        let postgres =
            Postgres::recovering(recovery, &place, identity.clone(), archive, environment)?;
        let keeper = Keeper::start(vec![Box::new(postgres)], place.run.clone()).await?;
        keeper.stop().await;
        Ok(())
    };
    let outcome = recovered.await;
    let _ = fs::remove_dir_all(&log);
    if let Err(error) = outcome {
        let _ = fs::remove_dir_all(&place.run);
        let _ = fs::remove_dir_all(&data);
        return Err(explain(error, settings.to_time));
    }
    let home_files = copy_home(&source, &settings.home)?;
    let finished = place.data.join("postgres");
    fs::rename(&data, &finished).doing(|| format!("moving to {}", finished.display()))?;
    archive::sync_dir(&place.data)?;
    Ok(RestoreReport {
        to_time: settings.to_time,
        segments: source.segments.len(),
        last_segment: source.segments.last().map(Segment::to_string),
        home_files,
        backup: source.backup,
    })
}

/// What an interrupted restore left is not data.
fn refuse_data(home: &Path) -> Result<(), ServicesError> {
    let Ok(entries) = fs::read_dir(home.join("data")) else { return Ok(()) };
    let leftovers = [UNFINISHED_CLUSTER, LOG, REHEARSAL, "postgres.pid", "HOME"];
    let empty = entries
        .flatten()
        .all(|entry| leftovers.iter().any(|leftover| entry.file_name().to_str() == Some(leftover)));
    if empty { Ok(()) } else { Err(ServicesError::NotEmpty { home: home.to_owned() }) }
}

fn find_source(
    settings: &RestoreSettings,
    environment: &Environment,
) -> Result<(Source, PostgresBinaries), ServicesError> {
    let archive = Archive::at(&settings.dir);
    let log = archive.log()?;
    let newest = log.histories.iter().max().copied();
    let lineage = match newest {
        Some(newest) => Some(read_lineage(&archive, newest)?),
        None => None,
    };
    let backup = choose(&archive, settings, lineage.as_deref())?;
    let path = archive.base_dir().join(&backup.name);
    let first = Segment::parse(&backup.first_segment).ok_or_else(|| {
        let detail = format!("{} is no segment of a log", backup.first_segment);
        ServicesError::DamagedBackup { path: path.clone(), detail }
    })?;
    let lineage = lineage.unwrap_or_else(|| vec![(first.timeline, 0)]);
    let segments = needed(&archive, &log, first, &lineage)?;
    let written = backup.postgres_major;
    let binaries = match find::find_postgres(environment, Some(written))? {
        Some(binaries) if binaries.major == written => binaries,
        _ => {
            let found = find::find_postgres(environment, None)?.map_or(0, |found| found.major);
            return Err(ServicesError::OtherMajor { data: path, written, found });
        }
    };
    Ok((Source { archive, backup, path, segments, histories: log.histories }, binaries))
}

fn read_lineage(
    archive: &Archive,
    newest: Timeline,
) -> Result<Vec<(Timeline, u64)>, ServicesError> {
    let path = archive.wal_dir().join(format!("{}{COMPRESSED}", newest.history()));
    let mut command = child::command(Path::new("gzip"), None, Signal::SIGKILL);
    command.arg("-dc").arg(&path);
    let history = backup::run(command, "gzip").ok();
    history.and_then(|text| wal::lineage(newest, &text)).ok_or_else(|| {
        let detail = "it does not tell where its timeline begins".to_owned();
        ServicesError::DamagedBackup { path, detail }
    })
}

/// The newest backup from which the asked moment can be reached.
fn choose(
    archive: &Archive,
    settings: &RestoreSettings,
    lineage: Option<&[(Timeline, u64)]>,
) -> Result<Backup, ServicesError> {
    let mut names = archive.backups()?;
    if let Some(wanted) = &settings.backup {
        names.retain(|name| name == wanted);
    }
    let mut backups = Vec::new();
    for name in names {
        let path = archive.base_dir().join(&name);
        let backup = backup::read(&path)?;
        if backup.name != name {
            let detail = format!("its manifest is that of {}", backup.name);
            return Err(ServicesError::DamagedBackup { path, detail });
        }
        if lineage.is_none_or(|lineage| is_on(&backup, lineage)) {
            backups.push(backup);
        }
    }
    let earliest = backups.iter().map(|backup| backup.finished_at).min();
    let in_time = |backup: &Backup| settings.to_time.is_none_or(|to| backup.finished_at <= to);
    match (backups.into_iter().rfind(in_time), earliest, settings.to_time) {
        (Some(backup), ..) => Ok(backup),
        (None, Some(earliest), Some(asked)) => Err(ServicesError::TooEarly { asked, earliest }),
        _ => {
            let (dir, name) = (settings.dir.clone(), settings.backup.clone());
            Err(ServicesError::NoBackup { dir, name })
        }
    }
}

/// Whether a backup lies on the way to the newest timeline, and not on a branch that was left.
fn is_on(backup: &Backup, lineage: &[(Timeline, u64)]) -> bool {
    let Some(first) = Segment::parse(&backup.first_segment) else { return false };
    let end = wal::segment_of(&backup.end_position).unwrap_or(u64::MAX);
    let left_at = lineage.iter().filter(|(timeline, _)| first.timeline < *timeline);
    lineage.iter().any(|(timeline, _)| *timeline == first.timeline)
        && left_at.map(|(_, begins)| *begins).min().is_none_or(|begins| end <= begins)
}

fn needed(
    archive: &Archive,
    log: &ArchivedLog,
    first: Segment,
    lineage: &[(Timeline, u64)],
) -> Result<Vec<Segment>, ServicesError> {
    wal::needed(first.number, lineage, &log.segments).map_err(|number| {
        let missing = Segment { timeline: first.timeline, number };
        ServicesError::DamagedBackup {
            path: archive.wal_dir(),
            detail: format!("the segment {missing} is missing, and later ones are there"),
        }
    })
}

/// Postgres takes an unreadable segment for the end of the log and would lose what comes after it.
fn verify_log(source: &Source) -> Result<(), ServicesError> {
    let files: Vec<PathBuf> = log_files(source).collect();
    for some in files.chunks(AT_ONCE) {
        let mut command = child::command(Path::new("gzip"), None, Signal::SIGKILL);
        command.arg("--test").args(some);
        backup::run(command, "gzip").map_err(|error| match error {
            ServicesError::ChildEnded { log, .. } => {
                ServicesError::DamagedBackup { path: source.archive.wal_dir(), detail: log }
            }
            other => other,
        })?;
    }
    Ok(())
}

fn log_files(source: &Source) -> impl Iterator<Item = PathBuf> {
    let dir = source.archive.wal_dir();
    let segments = source.segments.iter().map(Segment::to_string);
    let histories = source.histories.iter().map(|timeline| timeline.history());
    segments.chain(histories).map(move |name| dir.join(format!("{name}{COMPRESSED}")))
}

fn copy_log(source: &Source, to: &Path, identity: Option<&Identity>) -> Result<(), ServicesError> {
    make_dir(to, identity)?;
    for file in log_files(source) {
        let Some(name) = file.file_name() else { continue };
        let copy = to.join(name);
        fs::copy(&file, &copy).doing(|| format!("copying {}", file.display()))?;
        give(&copy, identity)?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path, identity: Option<&Identity>) -> Result<(), ServicesError> {
    make_dir(to, identity)?;
    for entry in fs::read_dir(from).doing(|| format!("reading {}", from.display()))? {
        let entry = entry.doing(|| format!("reading {}", from.display()))?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().doing(|| format!("looking at {}", path.display()))?;
        if kind.is_dir() {
            copy_tree(&path, &copy, identity)?;
        } else {
            fs::copy(&path, &copy).doing(|| format!("copying {}", path.display()))?;
            give(&copy, identity)?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path, identity: Option<&Identity>) -> Result<(), ServicesError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .doing(|| format!("creating {}", path.display()))?;
    give(path, identity)
}

fn give(path: &Path, identity: Option<&Identity>) -> Result<(), ServicesError> {
    let Some(Identity { uid, gid, name }) = identity else { return Ok(()) };
    chown(path, Some(*uid), Some(*gid)).doing(|| format!("giving {} to {name}", path.display()))
}

fn recovery_settings(log: &Path, to_time: Option<Timestamp>) -> Vec<String> {
    let log = archive::quoted(log);
    let mut settings = vec![
        format!("restore_command=gzip -dc {log}/\"%f{COMPRESSED}\" > \"%p\""),
        "recovery_target_timeline=latest".to_owned(),
        "recovery_target_action=promote".to_owned(),
        // Nobody is let in before the end: being ready means that the recovery is over.
        "hot_standby=off".to_owned(),
    ];
    // With an offset in digits: names of time zones are not known yet when this is read.
    settings.extend(
        to_time.map(|time| {
            format!("recovery_target_time={}", time.strftime("%Y-%m-%d %H:%M:%S%.6f+00"))
        }),
    );
    settings
}

fn explain(error: ServicesError, to_time: Option<Timestamp>) -> ServicesError {
    match (error, to_time) {
        (ServicesError::ChildEnded { log, .. }, Some(asked))
            if log.contains("recovery ended before configured recovery target") =>
        {
            ServicesError::TooLate { asked }
        }
        (error, _) => error,
    }
}

/// Brings the home's own files back, and leaves alone what somebody put there.
fn copy_home(source: &Source, home: &Path) -> Result<Vec<String>, ServicesError> {
    let mut copied = Vec::new();
    for name in source.backup.home_files.keys() {
        let (from, to) = (source.path.join(HOME).join(name), home.join(name));
        if to.exists() {
            continue;
        }
        let part = home.join(format!("{name}{UNFINISHED}"));
        fs::copy(&from, &part).doing(|| format!("copying {name}"))?;
        fs::rename(&part, &to).doing(|| format!("moving {name} to its place"))?;
        copied.push(name.clone());
    }
    Ok(copied)
}
