//! What must hold before a commit, tests apart.

use anyhow::Result;

pub(crate) fn run() -> Result<()> {
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
    crate::generate::run(&crate::generate::Args::checking())
}
