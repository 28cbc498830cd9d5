//! `qudao completions`

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::{args::Cli, terminal};

pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "qudao", &mut script);
    terminal::print_part(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
