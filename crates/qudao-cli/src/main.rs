//! The one binary `qudao`: it serves, migrates, checks, and manages plugins and models.

mod args;
mod catalogue;
mod commands;
mod context;
mod instances;
mod log;
mod master_key;
mod operator_key;
mod serve;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command, OperatorKeyCommand, PluginCommand},
    commands::{
        audit, backup, check, completions, doctor, keys, migrate, model, plugin, print, restore,
    },
    context::Context,
};

/// Most of what a call of the API costs in user space is small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return terminal::failed(&anyhow::Error::from(error)),
    };
    let code = runtime.block_on(run(cli));
    // Tasks that are left are those that a second signal gave up.
    runtime.shutdown_background();
    code.unwrap_or_else(|error| terminal::failed(&error))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let json = cli.json;
    match cli.command {
        Command::Completions { shell } => completions::run(shell),
        Command::Print { what } => print::run(what),
        Command::Plugin(PluginCommand::New { dir }) => plugin::new(&dir),
        // It reports bad settings instead of failing on them.
        Command::Doctor { quick } => {
            doctor::run(cli.config.as_deref(), cli.home, quick, json).await
        }
        command => {
            let context = Context::load(cli.config.as_deref(), cli.home)?;
            match command {
                Command::Serve(options) => serve::serve(options, context).await,
                Command::Migrate => migrate::run(&context, json).await,
                Command::Check => check::run(&context, json).await,
                Command::Backup(options) => backup::run(options, &context, json).await,
                Command::Restore(options) => restore::run(options, &context, json).await,
                Command::Plugin(command) => plugin::run(command, &context, json).await,
                Command::Model(command) => model::run(command, &context, json).await,
                Command::OperatorKey(OperatorKeyCommand::Show) => operator_key::show(&context),
                Command::Audit(command) => audit::run(command, &context, json).await,
                Command::Keys(command) => keys::run(command, &context, json).await,
                Command::Completions { .. } | Command::Print { .. } | Command::Doctor { .. } => {
                    Ok(ExitCode::SUCCESS) // handled above
                }
            }
        }
    }
}
