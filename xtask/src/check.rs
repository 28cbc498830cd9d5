//! What must hold before a commit, tests apart; and, when asked for, under faults.

use anyhow::Result;

use crate::{chaos, cuda, supply};

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
    /// The types of every plugin's CUDA artifact, without a toolkit: a stand-in compiler.
    Cuda,
    /// Whether tenants are apart: the rules of the catalogue and the faults that they find, every table
    /// probed, every operation of the API asked by whoever must not have it.
    Isolation,
    /// What somebody gets who tampers with plugins or model files, or is one: a table.
    Plugins,
    /// Licences, known holes, npm's locks and secrets in the tree; writes `target/sbom.json`.
    Supply(supply::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Chaos(args)) => chaos::run(args),
        Some(What::Cuda) => cuda::run(),
        Some(What::Isolation) => isolation(),
        Some(What::Plugins) => attempts(),
        Some(What::Supply(args)) => supply::run(args),
        None => before_a_commit(),
    }
}

/// Runs the tests that look for a way from one tenant to another, and lets them say what they found.
/// The programs and plugins that they start are built first.
fn isolation() -> Result<()> {
    let programs = ["qudao-cli", "qudao-plugin-host", "qudao-testkit"];
    let mut build = crate::cargo();
    build.args(["build", "--quiet", "--bins"]);
    crate::run(build.args(programs.iter().flat_map(|name| ["--package", name])))?;
    crate::run(crate::cargo().args([
        "xtask",
        "plugins",
        "--dev",
        "--only",
        "echo,rogue,openai",
        "--out",
        "target/test-plugins",
    ]))?;
    for (package, tests) in [
        ("qudao-storage", &["catalog::", "isolation::"][..]),
        ("qudao-server", &["identity::"]),
        ("qudao-tests", &["isolation_"]),
    ] {
        let mut cargo = crate::cargo();
        cargo.args(["test", "--package", package, "--test=it", "--"]).args(tests);
        crate::run(cargo.args(["--nocapture", "--test-threads=2"]))?;
    }
    Ok(())
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
        "--features=qudao-benches/engine",
        "--",
        "--deny=warnings",
    ]))?;
    // The checks under faults are compiled with a feature that nothing else is. Out of the whole
    // workspace and with a test beside them, so that other people's libraries are those of above.
    crate::run(crate::cargo().args([
        "clippy",
        "--workspace",
        "--features=qudao-benches/engine,qudao-chaos/failpoints",
        "--bin=chaos",
        "--bin=chaos-node",
        "--test=header",
        "--",
        "--deny=warnings",
    ]))?;
    cuda::run()?;
    crate::generate::run(&crate::generate::Args::checking())
}
