//! Known holes of crates, from the RustSec database (public domain).

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{
    Args, Finding,
    crates::{Lock, Shipped},
};

/// The data of every advisory without its prose, for machines that fetch nothing.
pub(super) const SNAPSHOT: &str = "deploy/supply/advisories.toml.gz";
/// Below the home.
const CACHE: &str = ".cache/qudao/advisory-db";
const ORIGIN: &str = "https://github.com/RustSec/advisory-db";
/// Parts one advisory from the next in the snapshot.
const PARTING: &str = "\n+++\n";
/// In the snapshot, decompressed, in bytes.
const BYTES_MAX: u64 = 64 << 20;
/// Days after which a database is called old.
const DAYS_MAX: i64 = 182;

/// The database, as texts of TOML.
pub(super) struct Database {
    pub(super) name: String,
    entries: Vec<String>,
    /// Of its newest advisory.
    newest: String,
}

#[derive(Debug, Deserialize)]
struct Entry {
    advisory: Advisory,
    #[serde(default)]
    versions: Versions,
}

#[derive(Debug, Deserialize)]
struct Advisory {
    id: String,
    package: String,
    informational: Option<String>,
    withdrawn: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versions {
    patched: Vec<String>,
    unaffected: Vec<String>,
}

impl Entry {
    fn concerns(&self, version: &Version) -> bool {
        let holds = |text: &String| VersionReq::parse(text).is_ok_and(|req| req.matches(version));
        !self.versions.patched.iter().chain(&self.versions.unaffected).any(holds)
    }
}

impl Database {
    /// The one that was named, else the fetched one, else the snapshot.
    pub(super) fn open(args: &Args) -> Result<Self> {
        if let Some(folder) = &args.advisories {
            return Self::read_folder(folder);
        }
        let cache = cache();
        if args.fetch
            && let Some(cache) = &cache
            && let Err(error) = fetch(cache)
        {
            eprintln!("supply: the advisories could not be fetched: {error:#}");
            if args.strict {
                return Err(error);
            }
        }
        match cache.filter(|cache| cache.join("crates").is_dir()) {
            Some(cache) => Self::read_folder(&cache),
            None => Self::read_snapshot(&crate::root().join(SNAPSHOT)),
        }
    }

    fn read_folder(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        find(folder, &mut files)?;
        if files.is_empty() {
            bail!("{} holds no advisories", folder.display());
        }
        files.sort();
        let mut entries = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let entry = text.split_once("```toml").and_then(|(_, rest)| rest.split_once("```"));
            let (entry, _) = entry.with_context(|| format!("{} has no data", file.display()))?;
            entries.push(entry.trim().to_owned());
        }
        Ok(Self::of(folder.display().to_string(), entries))
    }

    fn read_snapshot(path: &Path) -> Result<Self> {
        let missing = "there are no advisories: take `--fetch`, or name a copy of the RustSec \
                       database with `--advisories`";
        let file = fs::File::open(path).context(missing)?;
        let mut text = String::new();
        GzDecoder::new(file).take(BYTES_MAX).read_to_string(&mut text).context(missing)?;
        let entries = text.split(PARTING).map(str::to_owned).collect();
        Ok(Self::of("the snapshot of the advisories".to_owned(), entries))
    }

    fn of(name: String, entries: Vec<String>) -> Self {
        let dates = entries.iter().filter_map(|entry| {
            let line = entry.lines().find(|line| line.starts_with("date = "))?;
            Some(line.trim_start_matches("date = ").trim_matches('"').to_owned())
        });
        let newest = dates.max().unwrap_or_default();
        Self { name, entries, newest }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut out = GzEncoder::new(fs::File::create(path)?, Compression::best());
        out.write_all(self.entries.join(PARTING).as_bytes())?;
        out.finish().with_context(|| format!("writing {}", path.display()))?;
        Ok(())
    }

    pub(super) fn age(&self, today: &str) -> String {
        let old = if self.is_old(today) { ", which is old" } else { "" };
        format!("{} advisories, the newest of {}{old}", self.entries.len(), self.newest)
    }

    pub(super) fn is_old(&self, today: &str) -> bool {
        let day = |text: &str| text.parse::<jiff::civil::Date>().ok();
        let days = day(today)
            .zip(day(&self.newest))
            .map(|(now, then)| now.since(then).map_or(i64::MAX, |span| i64::from(span.get_days())));
        days.is_none_or(|days| DAYS_MAX < days)
    }

    /// Every locked crate that an advisory is about.
    pub(super) fn check(&self, lock: &Lock, shipped: &Shipped) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for text in &self.entries {
            let Some(named) = named(text) else { continue };
            let mut locked = lock.packages.iter();
            if !locked.any(|package| package.name == named && package.source.is_some()) {
                continue;
            }
            let entry: Entry = toml::from_str(text).with_context(|| text.clone())?;
            if entry.advisory.withdrawn.is_some() {
                continue;
            }
            for package in &lock.packages {
                let ours = package.name == entry.advisory.package && package.source.is_some();
                let version = Version::parse(&package.version)?;
                if !ours || !entry.concerns(&version) {
                    continue;
                }
                let key = (package.name.clone(), package.version.clone());
                let kind = entry.advisory.informational.as_deref().unwrap_or("vulnerable");
                findings.push(Finding {
                    kind: "advisory",
                    about: format!("{} {}", package.name, package.version),
                    rule: entry.advisory.id.clone(),
                    detail: format!("{kind}; patched in {:?}", entry.versions.patched),
                    shipped: shipped.contains_key(&key),
                });
            }
        }
        Ok(findings)
    }
}

/// The package of an advisory, found without reading all of it.
fn named(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("package = "))?;
    line.split('"').nth(1)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The folder `rust` beside `crates` is about the compiler.
        if path.is_dir() && name != "rust" && name != ".git" {
            find(&path, files)?;
        } else if name.starts_with("RUSTSEC-") && name.ends_with(".md") {
            files.push(path);
        }
    }
    Ok(())
}

fn cache() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| Path::new(&home).join(CACHE))
}

fn fetch(cache: &Path) -> Result<()> {
    let mut git = Command::new("git");
    if cache.join(".git").is_dir() {
        git.arg("-C").arg(cache).args(["pull", "--quiet", "--ff-only", "--depth=1"]);
    } else {
        git.args(["clone", "--quiet", "--depth=1", ORIGIN]).arg(cache);
    }
    git.env("GIT_TERMINAL_PROMPT", "0");
    crate::run(&mut git)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supply::crates::Package;

    const ADVISORY: &str = r#"[advisory]
id = "RUSTSEC-2099-0001"
package = "holey"
date = "2099-01-01"

[versions]
patched = [">= 1.2.3", "^0.9.7"]
unaffected = ["< 0.5.0"]"#;

    fn locked(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            source: Some("registry".to_owned()),
            checksum: None,
        }
    }

    fn found(entry: &str, packages: Vec<Package>) -> Vec<String> {
        let database = Database::of(String::new(), vec![entry.to_owned()]);
        let found = database.check(&Lock { packages }, &Shipped::new()).unwrap();
        found.into_iter().map(|finding| finding.about).collect()
    }

    #[test]
    fn a_planted_version_with_a_hole_is_reported_and_a_patched_one_is_not() {
        let versions = ["0.4.9", "0.5.0", "0.9.6", "0.9.7", "1.2.2", "1.2.3", "2.0.0"];
        let packages = versions.map(|version| locked("holey", version)).into();
        assert_eq!(found(ADVISORY, packages), ["holey 0.5.0", "holey 0.9.6", "holey 1.2.2"]);
    }

    #[test]
    fn a_withdrawn_advisory_and_a_crate_of_our_own_are_passed_over() {
        let withdrawn = ADVISORY.replace("date =", "withdrawn = \"2099-02-02\"\ndate =");
        assert!(found(&withdrawn, vec![locked("holey", "1.0.0")]).is_empty());
        let own = Package { source: None, ..locked("holey", "1.0.0") };
        assert!(found(ADVISORY, vec![own]).is_empty());
    }

    #[test]
    fn the_snapshot_of_the_tree_can_be_read_and_knows_a_hole_that_everybody_knows() {
        let database = Database::read_snapshot(&crate::root().join(SNAPSHOT)).unwrap();
        let lock = Lock { packages: vec![locked("time", "0.1.44")] };
        let found = database.check(&lock, &Shipped::new()).unwrap();
        assert!(found.iter().any(|finding| finding.rule == "RUSTSEC-2020-0071"), "{found:?}");
    }

    #[test]
    fn a_database_is_old_after_half_a_year() {
        let database = Database::of(String::new(), vec![ADVISORY.to_owned()]);
        assert!(!database.is_old("2099-06-30"));
        assert!(database.is_old("2099-08-01"));
    }
}
