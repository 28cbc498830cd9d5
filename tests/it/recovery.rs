//! The rehearsal of a lost machine: a backup, the archived log, and a home that is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    platform::{Platform, Wanted, open_for_all},
    visitor::Visitor,
};

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("qudao-it-").tempdir().unwrap();
    open_for_all(folder.path());
    folder
}

fn archiving(dir: &Path) -> Wanted {
    let settings = format!("[backup]\ndir = {:?}\narchive_timeout_s = 1\n", dir.display());
    Wanted { settings, ..Wanted::default() }
}

fn printed(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Why a command failed.
fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn assert_refused(output: &Output, why: &str) {
    let said = refusal(output);
    assert!(said.contains(why), "{said}");
}

/// `qudao restore <words>` into a home.
fn restore(platform: &Platform, home: &Path, words: &[&str]) -> Output {
    let mut command = platform.command(&["restore", "--json"]);
    command.args(words).env("QUDAO_HOME", home).output().unwrap()
}

/// Waits until what is committed now is in the archive.
async fn await_archive(platform: &Platform, dir: &Path) {
    // Where the last record lies: a new segment begins with a header of its own, and one that
    // holds nothing else is not archived.
    let segment = platform.sql("SELECT pg_walfile_name(pg_current_wal_lsn() - 64)");
    let file = dir.join("wal").join(format!("{segment}.gz"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !file.exists() {
        assert!(Instant::now() < deadline, "{} does not come\n{}", file.display(), platform.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn say(visitor: &mut Visitor, text: &str) {
    visitor.say(text, text).await;
    assert_eq!(visitor.reply().await["text"], text);
}

fn inbox(platform: &Platform) -> String {
    platform.sql(
        "SELECT string_agg(external_id, ' ' ORDER BY accepted_at) FROM ( \
             SELECT split_part(external_id, ':', -1) AS external_id, accepted_at FROM inbox) i",
    )
}

/// The visitor of another time, at the restored platform.
async fn come_back(platform: &Platform, token: &str) -> Visitor {
    let key = platform.text("chat_url").rsplit('/').next().unwrap().to_owned();
    Visitor::connect(platform.text("base_url"), &key, token.to_owned(), String::new()).await
}

#[tokio::test]
async fn a_lost_platform_is_restored_to_its_last_archived_moment_or_an_earlier_one() {
    let folder = folder();
    let dir = folder.path().join("backups");
    let mut platform = Platform::start_with(archiving(&dir)).await;
    let mut visitor = Visitor::arrive(&platform).await;
    say(&mut visitor, "before").await;
    let report = printed(&platform.qudao(&["backup", "--json"]));
    let backup = report["backup"]["name"].as_str().unwrap().to_owned();
    say(&mut visitor, "after").await;
    await_archive(&platform, &dir).await;
    let moment = platform.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    say(&mut visitor, "later").await;
    let key = fs::read_to_string(platform.home.join("operator_key")).unwrap();
    await_archive(&platform, &dir).await;
    // Whether this one is in the archive is a matter of luck.
    let mut other = Visitor::arrive(&platform).await;
    other.say("last", "last").await;
    other.read_until("accepted").await;

    platform.kill_with_children().await;
    fs::remove_dir_all(&platform.home).unwrap();

    let home = folder.path().join("latest");
    let report = printed(&restore(&platform, &home, &[]));
    assert_eq!(report["backup"]["name"], backup.as_str());
    assert!(0 < report["segments"].as_u64().unwrap(), "{report}");
    assert_eq!(fs::read_to_string(home.join("operator_key")).unwrap(), key);
    let wanted = Wanted { home: Some(home.clone()), ..archiving(&dir) };
    let restored = Platform::start_with(wanted).await;
    let inbox_now = inbox(&restored);
    assert!(
        ["before after later", "before after later last"].contains(&inbox_now.as_str()),
        "{inbox_now}"
    );
    let mut visitor = come_back(&restored, &visitor.token).await;
    for text in ["before", "after", "later"] {
        assert_eq!(visitor.reply().await["text"], text);
    }
    say(&mut visitor, "again").await;
    restored.assert_books_balance();
    drop(restored);

    let home = folder.path().join("earlier");
    let report = printed(&restore(&platform, &home, &["--to-time", &moment]));
    assert_eq!(report["backup"]["name"], backup.as_str());
    let restored = Platform::start_with(Wanted { home: Some(home), ..archiving(&dir) }).await;
    assert_eq!(inbox(&restored), "before after");
    let mut visitor = come_back(&restored, &visitor.token).await;
    for text in ["before", "after"] {
        assert_eq!(visitor.reply().await["text"], text);
    }
    say(&mut visitor, "otherwise").await;
    restored.assert_books_balance();
}

#[tokio::test]
async fn a_restore_refuses_what_it_cannot_do_and_says_why() {
    let folder = folder();
    let dir = folder.path().join("backups");
    let platform = Platform::start_with(archiving(&dir)).await;
    let new = folder.path().join("new");
    assert_refused(&restore(&platform, &new, &[]), "no complete backup");

    let report = printed(&platform.qudao(&["backup", "--json"]));
    let path = PathBuf::from(report["path"].as_str().unwrap());
    let mut visitor = Visitor::arrive(&platform).await;
    for text in ["one", "two", "three"] {
        say(&mut visitor, text).await;
        await_archive(&platform, &dir).await;
    }
    assert_refused(&restore(&platform, &platform.home, &[]), "in use by another");
    let early = ["--to-time", "2001-01-01T00:00:00Z"];
    assert_refused(&restore(&platform, &new, &early), "no backup reaches back");
    let late = ["--to-time", "2101-01-01T00:00:00Z"];
    assert_refused(&restore(&platform, &new, &late), "the archived log ends before");
    let unknown = ["--backup", "20010101T000000.000Z"];
    assert_refused(&restore(&platform, &new, &unknown), "called 20010101T000000.000Z");
    assert!(!new.join("data/postgres").exists());

    // A byte of a table, a segment that is cut off, and one that is missing in the middle.
    let table = path.join("data/base/1/1259");
    let whole = fs::read(&table).unwrap();
    let mut bent = whole.clone();
    bent[100] ^= 1;
    fs::write(&table, bent).unwrap();
    let said = refusal(&restore(&platform, &new, &[]));
    assert!(said.contains("damaged") && said.contains("base/1/1259"), "{said}");
    fs::write(&table, whole).unwrap();

    let first = report["backup"]["first_segment"].as_str().unwrap();
    let mut segments: Vec<PathBuf> =
        fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Beside the segments there are notes of where backups begin.
    let name = |file: &PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
    segments.retain(|file| name(file).len() == first.len() && first < name(file).as_str());
    segments.sort();
    assert!(2 < segments.len(), "{segments:?}");
    let whole = fs::read(&segments[0]).unwrap();
    fs::write(&segments[0], &whole[..whole.len() / 2]).unwrap();
    let said = refusal(&restore(&platform, &new, &[]));
    assert!(said.contains("damaged") && said.contains("unexpected end of file"), "{said}");
    fs::remove_file(&segments[0]).unwrap();
    let said = refusal(&restore(&platform, &new, &[]));
    assert!(said.contains("is missing, and later ones are there"), "{said}");
    fs::write(&segments[0], whole).unwrap();

    printed(&restore(&platform, &new, &["--rehearse"]));
    let check = platform.command(&["check"]).env("QUDAO_HOME", &new).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    // A branch in the archive would lead the next restore away from the platform that serves.
    assert!(!dir.join("wal/00000002.history.gz").exists());
    assert_refused(&restore(&platform, &new, &[]), "is not empty");
}

#[tokio::test]
async fn a_killed_backup_is_none_and_the_next_one_clears_it_away() {
    let folder = folder();
    let (dir, new) = (folder.path().join("backups"), folder.path().join("new"));
    let platform = Platform::start().await;
    let to = dir.to_str().unwrap();
    let unfinished = || {
        let entries = fs::read_dir(dir.join("base")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".unfinished")).count()
    };
    let mut backup = platform.command(&["backup", "--to", to]);
    let mut backup = backup.stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while unfinished() == 0 {
        assert!(Instant::now() < deadline, "no backup begins");
    }
    backup.kill().unwrap();
    backup.wait().unwrap();
    assert_eq!(unfinished(), 1);
    assert_refused(&restore(&platform, &new, &["--from", to]), "no complete backup");

    for _ in 0..3 {
        printed(&platform.qudao(&["backup", "--json", "--to", to, "--keep", "2"]));
    }
    assert_eq!(unfinished(), 0);
    let kept = fs::read_dir(dir.join("base")).unwrap().flatten();
    assert_eq!(kept.filter(|entry| entry.path().is_dir()).count(), 2);
    // Without an archive a backup is enough to be restored as of its own time.
    let report = printed(&restore(&platform, &new, &["--from", to]));
    assert_eq!(report["segments"], 0);
}
