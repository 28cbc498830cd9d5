//! Which plugins lie in the folders, and what operators read about them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use qudao_plugin_api::manifest::MANIFEST_FILE;

use crate::{
    artifact::{RefusalError, VerifiedPlugin, verify_plugin},
    config, crash,
    generation::Generation,
    instance::{Ground, Instance},
    report::{PluginReport, PluginState},
    settings::{HostSettings, InstanceSettings},
};

/// A folder with a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) verified: Result<VerifiedPlugin, String>,
}

/// Verifies every plugin of the folders.
pub(crate) fn discover(settings: &HostSettings) -> Vec<Known> {
    let mut found: Vec<Known> = Vec::new();
    for folder in settings.plugin_dirs.iter().flat_map(|dir| folders(dir)) {
        let verified = verify_plugin(&folder, settings).and_then(|plugin| {
            let same =
                |known: &&Known| known.verified.is_ok() && known.id == plugin.manifest.plugin.id;
            match found.iter().find(same) {
                Some(first) => Err(RefusalError::Twice(first.folder.clone())),
                None => Ok(plugin),
            }
        });
        let verified = verified.map_err(|error| error.to_string());
        let id = match &verified {
            Ok(plugin) => plugin.manifest.plugin.id.clone(),
            Err(reason) => {
                tracing::warn!(folder = %folder.display(), reason, "a plugin is refused");
                folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
        };
        found.push(Known { id, folder, verified });
    }
    found
}

/// Why instances would not start, by their names: no plugin, or settings that it does not take. Runs
/// no plugin's code.
#[must_use]
pub fn misfits(settings: &HostSettings) -> Vec<(String, String)> {
    let found = discover(settings);
    let misfit = |instance: &InstanceSettings| {
        let plugin = found.iter().find(|known| known.id == instance.plugin);
        let reason = match plugin.map(|known| &known.verified) {
            None => format!("there is no plugin {}", instance.plugin),
            Some(Err(reason)) => format!("the plugin {} is refused: {reason}", instance.plugin),
            Some(Ok(plugin)) => config::check(plugin, &instance.config).err()?.to_string(),
        };
        Some((instance.name.clone(), reason))
    };
    settings.instances.iter().filter_map(misfit).collect()
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(MANIFEST_FILE).symlink_metadata().is_ok())
        .collect();
    folders.sort();
    folders
}

/// The protections that none of these runs without.
fn held_by_all(running: impl Iterator<Item = Arc<Generation>>) -> Vec<String> {
    let lists = running.map(|generation| generation.sandbox.clone());
    lists
        .reduce(|all, one| all.into_iter().filter(|name| one.contains(name)).collect())
        .unwrap_or_default()
}

pub(crate) fn plugin_report(
    ground: &Ground,
    known: &Known,
    instances: &[Arc<Instance>],
) -> PluginReport {
    let state = match (&known.verified, crash::find_quarantine(&ground.state_dir, &known.id)) {
        (Err(reason), _) => PluginState::Refused { reason: reason.clone() },
        (Ok(_), Some(reason)) => PluginState::Quarantined { reason },
        (Ok(_), None) => PluginState::Accepted,
    };
    let verified = known.verified.as_ref().ok();
    let own = || instances.iter().filter(|instance| instance.settings.plugin == known.id);
    PluginReport {
        id: known.id.clone(),
        version: verified.map_or_else(String::new, |plugin| plugin.manifest.plugin.version.clone()),
        path: known.folder.display().to_string(),
        state,
        signer: verified.and_then(|plugin| plugin.signer).map(hex::encode),
        sandbox: held_by_all(own().filter_map(|instance| instance.current())),
        instances: own().map(|instance| instance.settings.name.clone()).collect(),
    }
}
