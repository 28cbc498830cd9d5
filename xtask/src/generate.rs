//! Files that are generated from code, kept in the repository so that a change shows in review.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};

/// What is written, and the words to the `qudao` binary that print it.
const GENERATED: &[(&str, &[&str])] = &[
    ("docs/openapi.json", &["print", "openapi"]),
    ("docs/config.schema.json", &["print", "config-schema"]),
    ("docs/errors.md", &["print", "errors"]),
    ("docs/metrics.md", &["print", "metrics"]),
];

/// `cargo xtask generate`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when a file is not what the code says.
    #[arg(long)]
    pub(crate) check: bool,
    /// The binary to ask; built when absent.
    #[arg(long, env = "QUDAO_BIN")]
    binary: Option<std::path::PathBuf>,
}

impl Args {
    /// Compares, with the binary of `QUDAO_BIN` where that is set.
    pub(crate) fn checking() -> Self {
        Self { check: true, binary: std::env::var_os("QUDAO_BIN").map(Into::into) }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut stale = Vec::new();
    for (file, words) in GENERATED {
        let mut command = match &args.binary {
            Some(binary) => Command::new(binary),
            None => {
                let mut cargo = crate::cargo();
                cargo.args(["run", "--quiet", "--package", "qudao-cli", "--"]);
                cargo
            }
        };
        let output =
            command.args(*words).current_dir(crate::root()).output().context("starting qudao")?;
        if !output.status.success() {
            bail!("qudao {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        let path = crate::root().join(file);
        if args.check {
            if fs::read(&path).unwrap_or_default() != output.stdout {
                stale.push(*file);
            }
        } else {
            fs::write(&path, &output.stdout).with_context(|| format!("writing {file}"))?;
        }
    }
    if !stale.is_empty() {
        bail!("stale: {}. Run `cargo xtask generate` and commit.", stale.join(", "));
    }
    Ok(())
}
