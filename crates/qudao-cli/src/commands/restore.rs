//! `qudao restore`: the private database as it was, in a home that has none.

use std::process::ExitCode;

use qudao_services::{
    Environment, HomeLock, RestoreReport, RestoreSettings, prepare_home, restore,
};
use serde_json::json;

use crate::{
    args::RestoreOptions,
    commands::backup::{folder, refuse_other_servers},
    context::Context,
    master_key, terminal,
};

pub(crate) async fn run(
    options: RestoreOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    refuse_other_servers(context)?;
    let dir = folder(options.from.as_deref(), context, "--from")?;
    let home = prepare_home(&context.home)?;
    let _lock = HomeLock::acquire(&home)?;
    let settings = RestoreSettings {
        home: home.clone(),
        dir,
        backup: options.backup,
        to_time: options.to_time,
        archive: context.archive(),
        rehearsal: options.rehearse,
    };
    let report = restore(settings, &Environment::read()).await?;
    if json {
        terminal::print_json(&json!(report));
    } else {
        terminal::print(&line(&report));
    }
    if !json && options.rehearse {
        terminal::say("this was a rehearsal: look with `qudao check`, then remove the home");
    } else if !json {
        terminal::say(&format!(
            "{} is restored: start it with `qudao serve`, then look with `qudao check`",
            home.display()
        ));
        let lacks_key = matches!(
            master_key::find(context)?,
            qudao_core::MasterKeySource::File(path) if !path.exists()
        );
        if lacks_key {
            terminal::say(
                "put master.key back into it before, or set QUDAO_MASTER_KEY: no backup holds it",
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(report: &RestoreReport) -> String {
    let RestoreReport { backup, segments, last_segment, to_time, .. } = report;
    let until = match (to_time, last_segment) {
        (Some(time), _) => format!("up to {time}"),
        (None, Some(last)) => format!("up to the end of {last}"),
        (None, None) => format!("as of {}", backup.finished_at),
    };
    format!("restored {} and {segments} segments of the log, {until}", backup.name)
}
