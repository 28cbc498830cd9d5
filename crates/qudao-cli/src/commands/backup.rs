//! `qudao backup`: a base backup of the private database, whether the platform runs or not.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use qudao_domain::SystemClock;
use qudao_services::{BackupSettings, Environment, back_up, database_major};
use serde_json::json;

use crate::{args::BackupOptions, context::Context, terminal};

pub(crate) async fn run(
    options: BackupOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    refuse_other_servers(context)?;
    if database_major(&context.home).is_none() {
        bail!("{} holds no private database to back up", context.home.display());
    }
    let dir = folder(options.to.as_deref(), context, "--to")?;
    let database = context.database().await?;
    let settings = BackupSettings {
        home: context.home.clone(),
        database_url: database.url.clone(),
        dir,
        keep: options.keep.map(usize::from),
    };
    let work = move || back_up(&settings, &Environment::read(), &SystemClock);
    let outcome = tokio::task::spawn_blocking(work).await;
    database.close().await;
    let report = outcome.context("taking the backup")??;
    if json {
        terminal::print_json(&json!(report));
    } else {
        let backup = &report.backup;
        terminal::print(&format!("{} ({} bytes, verified)", report.path.display(), backup.bytes));
        for name in &report.removed {
            terminal::print(&format!("removed {name}"));
        }
        for name in &report.kept_out {
            terminal::say(&format!(
                "{name} is not in this backup: keep a copy elsewhere, for without it no secret of \
                 a restored database opens"
            ));
        }
        if context.archive().is_none() {
            terminal::say("backup.dir is not set: what comes after this backup is not archived");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A server that is not ours has its own tools, and its own rights.
pub(crate) fn refuse_other_servers(context: &Context) -> anyhow::Result<()> {
    if context.settings.database.url.is_some() {
        bail!(
            "the database is a server of its own (DATABASE_URL): back it up and restore it with \
             its own tools, see `Backup` in docs/operator.md"
        );
    }
    Ok(())
}

/// The folder of backups that is meant.
pub(crate) fn folder(
    option: Option<&Path>,
    context: &Context,
    name: &str,
) -> anyhow::Result<PathBuf> {
    match option.or(context.settings.backup.dir.as_deref()) {
        Some(dir) => std::path::absolute(dir).context("resolving the folder of backups"),
        None => bail!("name the folder of backups with {name}, or set backup.dir"),
    }
}
