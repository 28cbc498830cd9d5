//! `qudao plugin list|probe|new|reload`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use qudao_plugin_host::{PluginHost, PluginReport, PluginState};
use qudao_services::running_instance;
use serde_json::{Value, json};

use crate::{
    args::PluginCommand, context::Context, operator_key, serve::settings::plugin_host, terminal,
};

/// A reload waits until the old generation has finished what it had begun.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) async fn run(
    command: PluginCommand,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::List => list(context, json).await,
        PluginCommand::Probe { plugin } => probe(&plugin, context, json).await,
        PluginCommand::Reload { plugin } => reload(&plugin, context, json).await,
        PluginCommand::New { dir } => new(&dir),
    }
}

/// The plugins that are found, verified and not started.
pub(crate) async fn survey(context: &Context) -> anyhow::Result<Vec<PluginReport>> {
    let host = PluginHost::start(plugin_host(context, &[])?).await;
    let reports = host.plugins();
    host.shutdown(Duration::from_secs(1)).await;
    Ok(reports)
}

async fn list(context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let found = survey(context).await?;
    if json {
        terminal::print_json(&json!({ "plugins": found }));
        return Ok(ExitCode::SUCCESS);
    }
    for plugin in &found {
        let verdict = match &plugin.state {
            PluginState::Accepted => "accepted".to_owned(),
            PluginState::Refused { reason } => format!("refused: {reason}"),
            PluginState::Quarantined { reason } => format!("in quarantine: {reason}"),
        };
        terminal::print(&format!("{:<16} {:<10} {verdict}", plugin.id, plugin.version));
        terminal::print(&format!("{:<16} {}", "", plugin.path));
    }
    if found.is_empty() {
        terminal::say("No plugins were found: see plugins.dirs in config/qudao.toml.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn reload(plugin: &str, context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let instance = running_instance(&context.home).filter(|one| !one.base_url.is_empty());
    let Some(instance) = instance else {
        bail!("no instance with an HTTP door runs in {}", context.home.display());
    };
    let url = format!("{}/v1/plugins/{plugin}/reload", instance.base_url);
    let client = reqwest::Client::builder().no_proxy().timeout(RELOAD_TIMEOUT).build()?;
    let key = operator_key::find_or_make(context)?;
    let answer = client.post(&url).bearer_auth(key).send().await.with_context(|| url.clone())?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    if !status.is_success() {
        bail!("{plugin} was not reloaded ({status}): {}", body["detail"].as_str().unwrap_or("-"));
    }
    if json {
        terminal::print_json(&body);
    } else {
        terminal::print(&format!("{plugin} is reloaded: {body}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A plugin by its directory, or by its id in the directories of the settings.
fn directory(plugin: &str, context: &Context) -> anyhow::Result<PathBuf> {
    let named = Path::new(plugin);
    if named.is_dir() {
        return Ok(named.to_owned());
    }
    let found = context.plugin_dirs().into_iter().map(|dir| dir.join(plugin));
    found.into_iter().find(|dir| dir.is_dir()).with_context(|| {
        let looked: Vec<String> =
            context.plugin_dirs().iter().map(|dir| dir.display().to_string()).collect();
        format!("there is no plugin {plugin}: looked in {}", looked.join(", "))
    })
}
