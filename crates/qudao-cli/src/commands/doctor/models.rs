//! Whether there is something to answer with.

use std::fs;

use qudao_plugin_host::{PluginReport, PluginState, misfits};

use super::Check;
use crate::{commands::plugin, context::Context, instances, serve::settings::plugin_host};

pub(super) async fn plugins(context: &Context) -> Vec<Check> {
    let name = "plugins";
    let found = match plugin::survey(context).await {
        Ok(found) => found,
        Err(error) => {
            let fix = "correct plugins.trusted_keys";
            return vec![Check::failed(name, format!("{error:#}"), fix)];
        }
    };
    if found.is_empty() {
        let looked: Vec<String> =
            context.plugin_dirs().iter().map(|dir| dir.display().to_string()).collect();
        let evidence = format!("none in {}", looked.join(", "));
        return vec![Check::failed(name, evidence, "build them with `cargo xtask plugins`")];
    }
    let verdict = |plugin: &PluginReport| match &plugin.state {
        PluginState::Accepted => {
            Check::ok(name, format!("{} {} is accepted", plugin.id, plugin.version))
        }
        PluginState::Refused { reason } => Check::warning(
            name,
            format!("{} is refused: {reason}", plugin.id),
            format!("replace or remove {}", plugin.path),
        ),
        PluginState::Quarantined { reason } => Check::warning(
            name,
            format!("{} is in quarantine: {reason}", plugin.id),
            format!("POST /v1/plugins/{}/lift-quarantine once it is mended", plugin.id),
        ),
    };
    found.iter().map(verdict).collect()
}

/// Whether the plugins take the settings that the operator gave their instances.
pub(super) fn instances(context: &Context) -> Vec<Check> {
    let name = "instances";
    let settings = match instances::decide(context).and_then(|all| plugin_host(context, &all)) {
        Ok(settings) => settings,
        Err(error) => {
            return vec![Check::failed(name, format!("{error:#}"), "correct the setting")];
        }
    };
    let misfits = misfits(&settings);
    if misfits.is_empty() {
        let count = settings.instances.len();
        return vec![Check::ok(name, format!("{count} fit the plugins that they name"))];
    }
    let warning = |(instance, reason): (String, String)| {
        let fix =
            "correct the [[instances]] of the file; docs/operator.md says what each plugin takes";
        Check::warning(name, format!("{instance}: {reason}"), fix)
    };
    misfits.into_iter().map(warning).collect()
}

pub(super) fn models(context: &Context) -> Vec<Check> {
    let name = "models";
    let instances = match instances::decide(context) {
        Ok(instances) => instances,
        Err(error) => {
            return vec![Check::failed(name, format!("{error:#}"), "correct models.catalogue")];
        }
    };
    let files = instances.iter().filter_map(|instance| {
        let path = instance.config.get("path")?.as_str()?;
        Some((instance, path.to_owned()))
    });
    let mut checks: Vec<Check> = files
        .map(|(instance, path)| match fs::metadata(&path) {
            Ok(metadata) => {
                Check::ok(name, format!("{}: {} MB", instance.name, metadata.len() / 1_000_000))
            }
            Err(error) => Check::failed(
                name,
                format!("{}: {path}: {error}", instance.name),
                format!("qudao model pull {}", instance.name),
            ),
        })
        .collect();
    if checks.is_empty() {
        let listed: Vec<&str> = instances
            .iter()
            .flat_map(|instance| &instance.models)
            .map(|model| model.name.as_str())
            .collect();
        checks.push(Check::warning(
            name,
            format!("no local model; offered are {}", listed.join(", ")),
            "qudao model pull --default",
        ));
    }
    checks
}

/// What the local models take, about the size of their files.
pub(super) fn bytes_present(context: &Context) -> u64 {
    let instances = instances::decide(context).unwrap_or_default();
    let paths = instances.iter().filter_map(|instance| instance.config.get("path")?.as_str());
    paths.filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
}
