//! Which crates are locked, and which of them are linked into what is shipped.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// What is built together, as `make build` builds it: features are those of the whole group.
const SHIPPED: &[&[&str]] = &[
    &["qudao-cli", "qudao-plugin-host"],
    &["qudao-plugin-echo", "qudao-plugin-openai"],
    &["qudao-plugin-candle-llm", "qudao-plugin-speech", "qudao-plugin-vision"],
];

/// A crate that is linked, by name and version: its licence.
pub(super) type Shipped = BTreeMap<(String, String), String>;

/// `Cargo.lock`.
#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    #[serde(rename = "package")]
    pub(super) packages: Vec<Package>,
}

/// A crate in it.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// Absent for members of the workspace.
    pub(super) source: Option<String>,
    pub(super) checksum: Option<String>,
}

impl Lock {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context("reading Cargo.lock")?;
        toml::from_str(&text).context("reading Cargo.lock")
    }
}

/// Every crate that is linked into a program or a plugin, on this machine.
pub(super) fn shipped() -> Result<Shipped> {
    let mut all = Shipped::new();
    for group in SHIPPED {
        let mut tree = crate::cargo();
        tree.args(["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}|{l}"]);
        for package in *group {
            tree.args(["--package", package]);
        }
        let output = tree.current_dir(crate::root()).output().context("running cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        }
        all.extend(String::from_utf8_lossy(&output.stdout).lines().filter_map(linked));
    }
    Ok(all)
}

/// A line as `serde v1.0.228 (proc-macro)|MIT OR Apache-2.0 (*)`.
fn linked(line: &str) -> Option<((String, String), String)> {
    let (package, licence) = line.trim_end_matches(" (*)").rsplit_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(((name.to_owned(), version.to_owned()), licence.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_tree_names_crate_version_and_licence() {
        let line = "ring v0.17.14|Apache-2.0 AND ISC (*)";
        let found = (("ring".to_owned(), "0.17.14".to_owned()), "Apache-2.0 AND ISC".to_owned());
        assert_eq!(linked(line), Some(found));
        let own = linked("qudao-cli v0.1.0 (/q|r/crates/qudao-cli)|Apache-2.0").unwrap();
        assert_eq!(own.1, "Apache-2.0");
        assert_eq!(linked(""), None);
    }
}
