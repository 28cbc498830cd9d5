//! Chores that CI or two people run: `cargo xtask deps | tidy | migrations | plugins | generate | check | bench`.
#![expect(clippy::print_stderr, reason = "a command-line tool talks on stderr")]

mod bench;
mod chaos;
mod check;
mod cuda;
mod deps;
mod generate;
mod migrations;
mod plugins;
mod supply;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Chores of the Qudao workspace.
#[derive(Parser)]
enum Task {
    /// The crate graph points downwards only, and each outside crate has one owner.
    Deps,
    /// Size ceilings, names and required comments.
    Tidy,
    /// Migrations take nothing from older nodes that still serve, and hold no lock for long.
    Migrations,
    /// Builds the plugins and lays them out, signed, under `dist/plugins`.
    Plugins(plugins::Args),
    /// Writes what is generated from code: OpenAPI, the settings' schema.
    Generate(generate::Args),
    /// What must hold before a commit: format, lints, deps, tidy, migrations, supply, generated files.
    /// `check chaos` proves the pipeline under faults and takes minutes.
    Check(check::Args),
    /// Measures against a named reference in the same run.
    Bench(bench::Args),
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Deps => deps::run(),
        Task::Tidy => tidy::run(),
        Task::Migrations => migrations::run(),
        Task::Plugins(args) => plugins::run(&args),
        Task::Generate(args) => generate::run(&args),
        Task::Check(args) => check::run(&args),
        Task::Bench(args) => bench::run(&args),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Runs a command in the workspace and fails when it fails.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    eprintln!("$ {shown}");
    let status =
        command.current_dir(root()).status().with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// How the platform is built, in the environment of `cargo`: its crates are optimised as one, which
/// takes a tenth off what a call costs. The same stands in the `Makefile`, for libraries that are built
/// otherwise are built twice. What computes gains nothing from it.
const AS_ONE: (&str, &str) = ("CARGO_PROFILE_RELEASE_LTO", "thin");

/// `cargo` as the one that runs us, or the one in the path. Not the one that built us: without
/// rustup's environment that one obeys the toolchain files of other people's packages.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
