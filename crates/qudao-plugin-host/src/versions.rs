//! The highest version of each plugin that has served here: an older one, signed as it is, may
//! have a hole that was mended since.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    artifact::{RefusalError, VerifiedPlugin},
    disk,
};

const FILE: &str = "versions.json";
/// Of the record, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The signer of what nobody signed.
const NOBODY: &str = "nobody";

/// The instances of one host start on threads of their own.
static WRITING: Mutex<()> = Mutex::new(());

/// Versions by signer, by plugin.
type Record = BTreeMap<String, BTreeMap<String, String>>;

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn load(state_dir: &Path) -> io::Result<Record> {
    match disk::read(&file(state_dir), FILE_BYTES_MAX) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::new()),
        Err(error) => Err(error),
    }
}

fn signer(plugin: &VerifiedPlugin) -> String {
    plugin.signer.map_or_else(|| NOBODY.to_owned(), hex::encode)
}

/// Refuses what is older than what has served here, and what has lost its signature since.
pub(crate) fn check(state_dir: &Path, plugin: &VerifiedPlugin) -> Result<(), RefusalError> {
    let record =
        load(state_dir).map_err(|source| RefusalError::Read { path: file(state_dir), source })?;
    let manifest = &plugin.manifest.plugin;
    let Some(known) = record.get(&manifest.id) else { return Ok(()) };
    let signer = signer(plugin);
    if let Some(highest) = known.get(&signer)
        && compare(&manifest.version, highest) == Ordering::Less
    {
        let (found, highest) = (manifest.version.clone(), highest.clone());
        return Err(RefusalError::Downgrade { found, highest });
    }
    let signed = known.keys().find(|signer| *signer != NOBODY);
    match signed {
        Some(before) if signer == NOBODY => Err(RefusalError::SignatureLost(before.clone())),
        _ => Ok(()),
    }
}

/// Remembers a version that serves. With `lower`, also one that is older than the one before.
pub(crate) fn record(state_dir: &Path, plugin: &VerifiedPlugin, lower: bool) -> io::Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut record = load(state_dir)?;
    let manifest = &plugin.manifest.plugin;
    let known = record.entry(manifest.id.clone()).or_default();
    let (signer, version) = (signer(plugin), &manifest.version);
    if lower && signer == NOBODY {
        known.clear();
    }
    let newer = known.get(&signer).is_none_or(|highest| match compare(version, highest) {
        Ordering::Greater => true,
        Ordering::Equal => false,
        Ordering::Less => lower,
    });
    if !newer {
        return Ok(());
    }
    known.insert(signer, version.clone());
    disk::replace(&file(state_dir), &serde_json::to_vec_pretty(&record)?)
}

/// By the rules of semantic versioning where both follow them, with absent numbers as zeros;
/// else number by number and word by word.
fn compare(a: &str, b: &str) -> Ordering {
    match (semantic(a), semantic(b)) {
        (Some(a), Some(b)) => a.cmp_precedence(&b),
        _ => pieces(a).cmp(&pieces(b)),
    }
}

fn semantic(version: &str) -> Option<semver::Version> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let zeros = ".0".repeat(2usize.saturating_sub(core.matches('.').count()));
    semver::Version::parse(&format!("{core}{zeros}{}", &version[core.len()..])).ok()
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    Word(&'a str),
    /// Its digits without leading zeros: more of them are more.
    Number(usize, &'a str),
}

fn pieces(version: &str) -> Vec<Piece<'_>> {
    let mut rest = version;
    let mut pieces = Vec::new();
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        let number = piece.trim_start_matches('0');
        pieces.push(if digits { Piece::Number(number.len(), number) } else { Piece::Word(piece) });
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_as_people_read_them() {
        let rising = ["0.9", "1.0.0-rc.1", "1", "1.0.1", "1.2", "1.10.0", "2"];
        for pair in rising.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("1", "1.0.0+build7"), Ordering::Equal);
        assert_eq!(compare("2026.09", "2026.10"), Ordering::Less);
        assert_eq!(compare("release 9", "release 10"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn any_two_texts_have_an_order_and_its_reverse(a in ".{0,40}", b in ".{0,40}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
        }
    }
}
