//! The CUDA artifacts are type-checked on every machine: a stand-in for NVIDIA's compiler answers with a
//! version and leaves empty outputs. What comes of that cannot be linked, so it has a target directory of
//! its own, whose state is the key: a second run without a change takes a second.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Where the stand-in lies.
const STAND_IN: &str = "plugins/candle-llm/cuda/typecheck";
const TARGET: &str = "target/cuda-typecheck";
/// A generation of GPUs; without it the build looks for one in the machine.
const GENERATION: &str = "80";
/// Outside crates by which a plugin computes.
const COMPUTES: &[&str] = &["candle-core", "qudao-encoder"];

pub(crate) fn run() -> Result<()> {
    let plugins = plugins()?;
    let mut path = std::ffi::OsString::from(crate::root().join(STAND_IN));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut clippy = crate::cargo();
    clippy.args(["clippy", "--target-dir", TARGET, "--lib"]);
    clippy.args(plugins.iter().flat_map(|name| ["--package", name]));
    let features: Vec<String> = plugins.iter().map(|name| format!("{name}/cuda")).collect();
    clippy.args(["--features", &features.join(","), "--", "--deny=warnings"]);
    clippy.env("PATH", path).env("CUDA_COMPUTE_CAP", GENERATION).env("CUDAFORGE_THREADS", "1");
    crate::run(&mut clippy)
}

/// Every plugin that computes; each has an artifact for GPUs, in its features as in its manifest.
fn plugins() -> Result<Vec<String>> {
    let output = crate::cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(crate::root())
        .output()
        .context("running cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let template = manifest.with_file_name("plugin.toml");
        let needs = |wanted: &str| {
            let all = package["dependencies"].as_array().into_iter().flatten();
            all.into_iter().any(|one| one["name"] == wanted && one["kind"].is_null())
        };
        let computes = COMPUTES.iter().any(|computes| needs(computes));
        if !template.is_file() || !computes {
            continue;
        }
        let text = std::fs::read_to_string(&template)
            .with_context(|| format!("reading {}", template.display()))?;
        if package["features"]["cuda"].is_null() || !text.contains("variant = \"cuda\"") {
            bail!(
                "{name} computes and has no CUDA artifact: a feature `cuda`, and one in plugin.toml"
            );
        }
        found.push(name.to_owned());
    }
    Ok(found)
}
