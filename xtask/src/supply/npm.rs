//! npm's locks: every package has a hash and a licence, and runs nothing when it is installed.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Finding, licences::is_allowed};

/// Folders with a lock of their own.
const FOLDERS: &[&str] = &["web/chat", "web/console", "web/docs", "tests/e2e"];

/// A `package-lock.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    #[serde(skip)]
    pub(super) folder: String,
    #[serde(default, rename = "lockfileVersion")]
    version: u32,
    pub(super) packages: BTreeMap<String, Package>,
}

/// A package in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Package {
    pub(super) version: String,
    pub(super) integrity: Option<String>,
    pub(super) license: Option<String>,
    resolved: Option<String>,
    pub(super) dev: bool,
    link: bool,
    has_install_script: bool,
}

pub(super) fn locks(root: &Path) -> Result<Vec<Lock>> {
    FOLDERS
        .iter()
        .map(|folder| {
            let path = root.join(folder).join("package-lock.json");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            read(folder, &text)
        })
        .collect()
}

fn read(folder: &str, text: &str) -> Result<Lock> {
    let mut lock: Lock = serde_json::from_str(text).with_context(|| folder.to_owned())?;
    lock.folder = folder.to_owned();
    // The folder's own package.
    lock.packages.remove("");
    Ok(lock)
}

/// A package's name: what follows the last `node_modules/` of its place.
pub(super) fn name(place: &str) -> &str {
    place.rsplit_once("node_modules/").map_or(place, |(_, name)| name)
}

pub(super) fn check(lock: &Lock) -> Vec<Finding> {
    let shipped = lock.folder.starts_with("web/");
    let finding = |about: String, rule: &str, detail: String, shipped| Finding {
        kind: "npm",
        about,
        rule: rule.to_owned(),
        detail,
        shipped,
    };
    let mut findings = Vec::new();
    if lock.version < 3 {
        let detail = "is not of version 3".to_owned();
        findings.push(finding(lock.folder.clone(), "lock", detail, shipped));
    }
    for (place, package) in &lock.packages {
        let about = format!("{} {} in {}", name(place), package.version, lock.folder);
        let shipped = shipped && !package.dev;
        let mut refuse = |rule: &str, detail: String| {
            findings.push(finding(about.clone(), rule, detail, shipped));
        };
        let strong = |hash: &String| hash.starts_with("sha512-") && 80 < hash.len();
        if package.link || !package.integrity.as_ref().is_some_and(strong) {
            refuse("integrity", "has no sha512 in the lock".to_owned());
        }
        if package.resolved.as_ref().is_some_and(|from| !from.starts_with("https://")) {
            refuse("resolved", "does not come by https".to_owned());
        }
        let licence = package.license.clone().unwrap_or_default();
        if !is_allowed(&licence, shipped) {
            refuse("licence", format!("{licence:?} is not among the licences that we may use"));
        }
        if package.has_install_script {
            refuse("install-script", "runs a program when it is installed".to_owned());
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(package: &str) -> Vec<String> {
        let text = format!(
            r#"{{"lockfileVersion":3,"packages":{{"":{{}},"node_modules/a/node_modules/b":{package}}}}}"#
        );
        let findings = check(&read("web/chat", &text).unwrap());
        findings.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_planted_package_without_a_hash_or_with_a_script_is_reported() {
        let hash = format!("sha512-{}", "A".repeat(86));
        let good = format!(r#"{{"version":"1.0.0","integrity":"{hash}","license":"MIT"}}"#);
        assert!(rules(&good).is_empty());
        assert_eq!(rules(&good.replace(&hash, "sha1-x")), ["integrity"]);
        assert_eq!(rules(r#"{"version":"1.0.0","license":"MIT"}"#), ["integrity"]);
        assert_eq!(rules(&good.replace("MIT", "AGPL-3.0")), ["licence"]);
        assert_eq!(rules(&good.replace(r#","license":"MIT""#, "")), ["licence"]);
        assert_eq!(rules(&good.replace('}', r#","hasInstallScript":true}"#)), ["install-script"]);
        let plain = good.replace('}', r#","resolved":"http://example.com/b.tgz"}"#);
        assert_eq!(rules(&plain), ["resolved"]);
        assert_eq!(rules(&good.replace("MIT", "MPL-2.0")), ["licence"], "it is shipped");
        assert!(rules(&good.replace(r#""MIT""#, r#""MPL-2.0","dev":true"#)).is_empty());
    }

    #[test]
    fn a_package_is_named_by_the_end_of_its_place() {
        assert_eq!(name("node_modules/a/node_modules/@s/b"), "@s/b");
    }
}
