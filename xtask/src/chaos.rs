//! Builds the node with failpoints and the check that ends it, and starts the check.

use std::process::Command;

use anyhow::Result;

/// `cargo xtask check chaos`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to the check; `help` lists the modes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    mode: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    crate::run(&mut Command::new("scripts/build-tests.sh"))?;
    crate::plugins::run(&crate::plugins::Args::for_tests())?;
    crate::run(Command::new(crate::root().join("target/debug/chaos")).args(&args.mode))
}
