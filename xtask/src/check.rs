//! What must hold before a commit, tests apart; and, when asked for, under faults.

use anyhow::Result;

use crate::chaos;

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
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Chaos(args)) => chaos::run(args),
        None => before_a_commit(),
    }
}

fn before_a_commit() -> Result<()> {
    crate::run(crate::cargo().args(["fmt", "--all", "--", "--check"]))?;
    crate::deps::run()?;
    crate::tidy::run()?;
    crate::migrations::run()?;
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
