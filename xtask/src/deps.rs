//! The crate graph points downwards only.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// Who may import whom, lowest layer first. A crate absent from a list may not be named in
/// `[dependencies]`; dev-dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("qudao-domain", &[]),
    ("qudao-telemetry", &[]),
    ("qudao-plugin-api", &[]),
    ("qudao-config", &["qudao-domain"]),
    ("qudao-pcp", &["qudao-domain"]),
    ("qudao-egress", &["qudao-telemetry"]),
    ("qudao-billing", &["qudao-domain"]),
    ("qudao-models", &["qudao-domain"]),
    ("qudao-services", &["qudao-domain"]),
    ("qudao-vault", &["qudao-domain"]),
    ("qudao-storage", &["qudao-domain", "qudao-telemetry", "qudao-billing"]),
    ("qudao-plugin-host", &["qudao-plugin-api", "qudao-domain", "qudao-egress", "qudao-telemetry"]),
    (
        "qudao-core",
        &[
            "qudao-domain",
            "qudao-telemetry",
            "qudao-billing",
            "qudao-storage",
            "qudao-vault",
            "qudao-plugin-host",
            "qudao-plugin-api",
        ],
    ),
    ("qudao-identity", &["qudao-core", "qudao-domain", "qudao-egress", "qudao-storage"]),
    (
        "qudao-channels",
        &[
            "qudao-core",
            "qudao-domain",
            "qudao-egress",
            "qudao-pcp",
            "qudao-storage",
            "qudao-telemetry",
        ],
    ),
    (
        "qudao-server",
        &[
            "qudao-core",
            "qudao-storage",
            "qudao-billing",
            "qudao-domain",
            "qudao-telemetry",
            "qudao-channels",
            "qudao-egress",
            "qudao-identity",
            "qudao-pcp",
            "qudao-plugin-api",
            "qudao-plugin-host",
        ],
    ),
    (
        "qudao-worker",
        &["qudao-core", "qudao-storage", "qudao-domain", "qudao-telemetry", "qudao-channels"],
    ),
    (
        "qudao-cli",
        &[
            "qudao-domain",
            "qudao-telemetry",
            "qudao-plugin-api",
            "qudao-config",
            "qudao-egress",
            "qudao-billing",
            "qudao-models",
            "qudao-pcp",
            "qudao-services",
            "qudao-vault",
            "qudao-storage",
            "qudao-plugin-host",
            "qudao-core",
            "qudao-channels",
            "qudao-identity",
            "qudao-server",
            "qudao-worker",
        ],
    ),
    (
        "qudao-testkit",
        &[
            "qudao-domain",
            "qudao-plugin-api",
            "qudao-config",
            "qudao-billing",
            "qudao-services",
            "qudao-vault",
            "qudao-storage",
            "qudao-plugin-host",
            "qudao-core",
        ],
    ),
    ("qudao-plugin-echo", &["qudao-plugin-api"]),
    ("qudao-plugin-rogue", &["qudao-plugin-api"]),
    // Without code: it makes all selections of those below ask for the same features.
    ("qudao-workspace-hack", &["qudao-plugin-api"]),
    ("qudao-device", &["qudao-workspace-hack"]),
    ("qudao-kernels", &["qudao-workspace-hack"]),
    ("qudao-quantize", &["qudao-workspace-hack"]),
    ("qudao-plugin-candle-llm", &["qudao-plugin-api", "qudao-device"]),
    ("qudao-plugin-vision", &["qudao-plugin-api", "qudao-device", "qudao-kernels"]),
    (
        "qudao-plugin-speech",
        &["qudao-plugin-api", "qudao-device", "qudao-kernels", "qudao-workspace-hack"],
    ),
    ("qudao-encoder", &["qudao-device", "qudao-kernels"]),
    ("qudao-plugin-embedder", &["qudao-plugin-api", "qudao-encoder", "qudao-device"]),
    ("qudao-plugin-sentiment", &["qudao-plugin-api", "qudao-encoder", "qudao-device"]),
    ("qudao-plugin-openai", &["qudao-plugin-api", "qudao-egress"]),
    ("qudao-tests", &[]),
    (
        "qudao-chaos",
        &[
            "qudao-domain",
            "qudao-plugin-api",
            "qudao-billing",
            "qudao-storage",
            "qudao-plugin-host",
            "qudao-core",
            "qudao-channels",
            "qudao-egress",
            "qudao-pcp",
            "qudao-server",
            "qudao-worker",
            "qudao-testkit",
        ],
    ),
    (
        "qudao-benches",
        &[
            "qudao-domain",
            // The channels bench speaks the partner protocol, and drives the platform's own client.
            "qudao-egress",
            "qudao-pcp",
            "qudao-plugin-api",
            "qudao-plugin-host",
            "qudao-models",
            // Those of models call the engines themselves, beside their peers.
            "qudao-plugin-candle-llm",
            "qudao-encoder",
            "qudao-plugin-echo",
        ],
    ),
    // The kit is given to partners: nothing of the platform is in it but the wire.
    ("qudao-conform", &["qudao-domain", "qudao-pcp"]),
    ("xtask", &["qudao-plugin-api", "qudao-plugin-host"]),
];

/// Outside crates that these members alone may name.
const OWNED: &[(&str, &[&str])] = &[
    ("sqlx", &["qudao-storage"]),
    ("redis", &["qudao-storage"]),
    ("libloading", &["qudao-plugin-host"]),
    ("teloxide", &["qudao-channels"]),
    ("async-imap", &["qudao-channels"]),
    ("jsonwebtoken", &["qudao-channels"]),
    ("lettre", &["qudao-channels"]),
    ("mail-builder", &["qudao-channels"]),
    ("mail-parser", &["qudao-channels"]),
    ("quick-xml", &["qudao-channels"]),
    ("chacha20poly1305", &["qudao-vault"]),
    (
        "candle-core",
        &[
            "qudao-device",
            "qudao-quantize",
            "qudao-plugin-candle-llm",
            "qudao-plugin-speech",
            "qudao-plugin-vision",
            "qudao-encoder",
        ],
    ),
    ("candle-nn", &["qudao-plugin-candle-llm", "qudao-plugin-speech", "qudao-encoder"]),
    ("candle-transformers", &["qudao-plugin-candle-llm"]),
    ("tokenizers", &["qudao-plugin-candle-llm", "qudao-plugin-speech", "qudao-encoder"]),
    ("async-openai", &["qudao-plugin-openai"]),
    ("fail", &["qudao-core", "qudao-chaos"]),
    ("opentelemetry", &["qudao-cli"]),
    ("opentelemetry-otlp", &["qudao-cli"]),
    ("opentelemetry_sdk", &["qudao-cli"]),
];

/// What an operator runs, and what is built together with it (`make build`).
const SHIPPED: &[&str] = &["qudao-cli", "qudao-plugin-host", "xtask"];

pub(crate) fn run() -> Result<()> {
    let output = crate::cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(crate::root())
        .output()
        .context("running cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let broken = forbidden(&metadata)?;
    if !broken.is_empty() {
        bail!("forbidden dependencies:\n  {}", broken.join("\n  "));
    }
    no_failpoints()
}

/// What is shipped is built without failpoints, in whichever company it is built.
fn no_failpoints() -> Result<()> {
    let mut tree = crate::cargo();
    tree.args(["tree", "--edges=normal,build", "--prefix=none", "--format={p} {f}"]);
    for package in SHIPPED {
        tree.args(["--package", package]);
    }
    let output = tree.current_dir(crate::root()).output().context("running cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    match failpoint(&String::from_utf8_lossy(&output.stdout)) {
        Some(line) => bail!("what is shipped would have failpoints: {line}"),
        None => Ok(()),
    }
}

/// The first line of a tree that names the crate of failpoints or their feature.
fn failpoint(tree: &str) -> Option<&str> {
    let mut lines = tree.lines();
    lines.find(|line| line.starts_with("fail v") || line.contains("failpoints"))
}

fn forbidden(metadata: &serde_json::Value) -> Result<Vec<String>> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(permitted) = allowed.get(name) else {
            bail!("`{name}` is in no layer: add it to ALLOWED in xtask/src/deps.rs");
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Only `[dependencies]`: the kind of those is null.
            if !dependency["kind"].is_null() {
                continue;
            }
            let target = dependency["name"].as_str().unwrap_or_default();
            let sideways = allowed.contains_key(target) && !permitted.contains(&target);
            let owned = OWNED.iter().find(|(outside, _)| *outside == target);
            let stolen = owned.is_some_and(|(_, owners)| !owners.contains(&name));
            if sideways || stolen {
                broken.push(format!("{name} -> {target}"));
            }
        }
    }
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{failpoint, forbidden};

    fn graph(name: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
        let dependency = json!({ "name": dependency, "kind": kind });
        forbidden(&json!({ "packages": [{ "name": name, "dependencies": [dependency] }] })).unwrap()
    }

    #[test]
    fn an_import_upwards_or_of_a_foreign_crate_is_reported() {
        assert_eq!(graph("qudao-storage", "qudao-core", None), ["qudao-storage -> qudao-core"]);
        assert_eq!(graph("qudao-server", "sqlx", None), ["qudao-server -> sqlx"]);
        assert_eq!(
            graph("qudao-cli", "qudao-plugin-candle-llm", None),
            ["qudao-cli -> qudao-plugin-candle-llm"]
        );
    }

    #[test]
    fn a_failpoint_in_the_tree_of_what_is_shipped_is_reported() {
        assert_eq!(failpoint("qudao-cli v0.1.0\nserde v1.0.0 derive\nfailure v0.1.0"), None);
        assert_eq!(failpoint("qudao-core v0.1.0\nfail v0.5.1"), Some("fail v0.5.1"));
        let core = "qudao-core v0.1.0 (/q/core) failpoints";
        assert_eq!(failpoint(core), Some(core));
    }

    #[test]
    fn an_import_downwards_and_a_dev_dependency_pass() {
        assert!(graph("qudao-core", "qudao-storage", None).is_empty());
        assert!(graph("qudao-storage", "qudao-testkit", Some("dev")).is_empty());
    }
}
