//! What lies in the models' directory: removing it, and carrying it to machines without a way out.

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use qudao_config::Instance;
use qudao_models::{export as write_bundle, file_of, import as read_bundle, remove as take_away};
use qudao_services::running_instance;
use serde_json::{Value, json};

use super::{clear, progress};
use crate::{
    args::{ExportOptions, ImportOptions, RemoveOptions},
    context::Context,
    instances::{self, catalogue},
    terminal,
};

/// `qudao model rm`
pub(super) fn remove(
    options: &RemoveOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(context)?;
    let dir = context.models_dir();
    let runs = running_instance(&context.home).is_some();
    let serving = instances::decide(context)?;
    // All are judged before the first goes.
    for name in &options.names {
        let Some(path) = file_of(name, &catalogue, &dir) else { continue };
        let Some(user) = user(&serving, &path) else { continue };
        if runs && !options.force {
            bail!(
                "{name} is in use: `{user}` of the instance that runs in {} serves it; stop that, or say --force",
                context.home.display()
            );
        }
        // Those that nobody listed follow what is in the directory.
        if context.settings.instances.iter().any(|listed| listed.name == user) {
            terminal::say(&format!(
                "{name}: the settings' instance `{user}` will not start without it"
            ));
        }
    }
    let mut gone: Vec<Value> = Vec::new();
    for name in &options.names {
        let removed = take_away(name, &catalogue, &dir)?;
        gone.push(json!({ "name": name, "path": removed.path, "bytes": removed.bytes }));
        if !json {
            let megabytes = removed.bytes / 1_000_000;
            terminal::print(&format!("{name}: {} is gone, {megabytes} MB", removed.path.display()));
        }
    }
    if json {
        terminal::print_json(&json!({ "removed": gone }));
    }
    Ok(ExitCode::SUCCESS)
}

/// The instance that reads this file, if one does.
fn user<'a>(serving: &'a [Instance], path: &Path) -> Option<&'a str> {
    let same = |text: &str| {
        let theirs = Path::new(text);
        theirs == path
            || matches!((theirs.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    let reads =
        |one: &&Instance| one.config.values().any(|value| value.as_str().is_some_and(&same));
    serving.iter().find(reads).map(|one| one.name.as_str())
}

/// `qudao model export`
pub(super) fn export(
    options: &ExportOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let ExportOptions { file, names } = options;
    let written =
        write_bundle(names, &catalogue(context)?, &context.models_dir(), file, &progress());
    clear();
    let written = written?;
    if json {
        terminal::print_json(&json!({ "file": file, "models": written }));
    } else {
        for one in &written {
            terminal::print(&format!(
                "{}: {} MB, sha256 {}",
                one.name,
                one.bytes / 1_000_000,
                one.sha256
            ));
        }
        terminal::print(&format!("{}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// `qudao model import`
pub(super) fn import(
    options: &ImportOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let ImportOptions { from, accept_unverified } = options;
    let dir = context.models_dir();
    let brought = read_bundle(from, &catalogue(context)?, &dir, *accept_unverified, &progress());
    clear();
    let brought = brought?;
    if json {
        terminal::print_json(&json!({ "models": brought }));
    } else {
        for one in &brought {
            let checked = if one.verified { "verified" } else { "not verified" };
            terminal::print(&format!("{}: {} ({checked})", one.name, one.path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
