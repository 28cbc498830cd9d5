//! What must hold before a commit, tests apart; and, when asked for, under faults.

use anyhow::Result;

use crate::{chaos, supply};

/// `cargo xtask check`
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// The pipeline under faults: points, random, mutants, deps, cancel, plugin; all when none is
    /// named.
    Chaos(chaos::Args),
    /// What somebody gets who tampers with plugins or model files, or is one: a table.
    Plugins,
    /// Licences, known holes, npm's locks and secrets in the tree; writes `target/sbom.json`.
    Supply(supply::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Chaos(args)) => chaos::run(args),
        Some(What::Plugins) => attempts(),
        Some(What::Supply(args)) => supply::run(args),
        None => before_a_commit(),
    }
}

/// Runs the tests that attack, and lets them say what they got.
fn attempts() -> Result<()> {
    for (package, tests) in [
        ("qudao-plugin-host", &["--test=host"][..]),
        ("qudao-plugin-candle-llm", &["--test=hostile"][..]),
    ] {
        let mut cargo = crate::cargo();
        cargo.args(["test", "--package", package]).args(tests).arg("--");
        cargo.args(["--nocapture", "--test-threads=1"]);
        if package == "qudao-plugin-host" {
            cargo.args(["tampering", "confinement"]);
        }
        crate::run(&mut cargo)?;
    }
    Ok(())
}

fn before_a_commit() -> Result<()> {
    crate::run(crate::cargo().args(["fmt", "--all", "--", "--check"]))?;
    crate::deps::run()?;
    crate::tidy::run()?;
    crate::migrations::run()?;
    supply::run(&supply::Args::default())?;
    crate::run(crate::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))?;
    // The checks under faults are compiled with a feature that nothing else is.
    crate::run(crate::cargo().args([
        "clippy",
        "--package=qudao-chaos",
        "--all-targets",
        "--features=failpoints",
        "--",
        "--deny=warnings",
    ]))?;
    crate::generate::run(&crate::generate::Args::checking())
}
