//! `qudao plugin list|probe|new|reload`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use qudao_plugin_api::manifest::MANIFEST_FILE;
use qudao_plugin_host::{
    PluginHost, PluginReport, PluginState, SdkSource, probe as probe_plugin, scaffold,
};
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

async fn probe(plugin: &str, context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let manifest = directory(plugin, context)?.join(MANIFEST_FILE);
    let settings = plugin_host(context, &[])?;
    let looking = tokio::task::spawn_blocking(move || probe_plugin(&manifest, &settings));
    let report = looking.await.context("probing the plugin")?;
    let usable = report.is_usable();
    if json {
        terminal::print_json(&json!({ "usable": usable, "report": report }));
    } else {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
        terminal::print(&format!("{} {}", text(&report.id), text(&report.version)));
        let signer = report.signer.as_deref().unwrap_or("nobody");
        terminal::print(&format!("signed by {signer}"));
        if let Some(reason) = &report.refusal {
            terminal::print(&format!("refused: {reason}"));
        }
        for artifact in &report.artifacts {
            let verdict = artifact.refusal.as_deref().unwrap_or("loads");
            terminal::print(&format!("{:<8} {}: {verdict}", artifact.variant, artifact.path));
        }
    }
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `qudao plugin new`: a plugin that compiles, to start from.
pub(crate) fn new(dir: &Path) -> anyhow::Result<ExitCode> {
    let dir = std::path::absolute(dir).context("resolving the directory")?;
    let name =
        dir.file_name().and_then(|name| name.to_str()).context("a directory's name is needed")?;
    let parent = dir.parent().context("a directory's name is needed")?;
    // In the source tree the SDK beside it is taken, elsewhere the published one.
    let tree = parent.ancestors().map(|dir| dir.join("crates/qudao-plugin-api"));
    let sdk = match tree.into_iter().find(|sdk| sdk.join("Cargo.toml").is_file()) {
        Some(path) => SdkSource::Path(path),
        None => SdkSource::Version(env!("CARGO_PKG_VERSION").to_owned()),
    };
    let made = scaffold(parent, name, &sdk)
        .with_context(|| format!("starting a plugin in {}", dir.display()))?;
    terminal::print(&format!(
        "{} is ready: docs/plugin-author.md goes on from there",
        made.display()
    ));
    Ok(ExitCode::SUCCESS)
}
