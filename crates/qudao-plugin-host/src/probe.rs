//! Looks at a plugin without serving it: every check, then each artifact in a throw-away child.

use std::{path::Path, time::Duration};

use qudao_plugin_api::manifest::{Artifact, MANIFEST_FILE, Manifest, TARGET};
use serde::Serialize;

use crate::{
    artifact::{MANIFEST_BYTES_MAX, VerifiedPlugin, seal, verify_plugin},
    child::Create,
    confine::Confinement,
    disk::read_inside,
    instance::Ground,
    opening::open_child,
    settings::HostSettings,
};

const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a probe found.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeReport {
    /// The plugin's id, if the manifest could be read.
    pub id: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Hex of the key that signed it.
    pub signer: Option<String>,
    /// Why the manifest is refused.
    pub refusal: Option<String>,
    /// The artifacts for this machine, best first.
    pub artifacts: Vec<ArtifactProbe>,
}

impl ProbeReport {
    /// Whether a host with the same settings would start it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.refusal.is_none() && self.artifacts.iter().any(|artifact| artifact.refusal.is_none())
    }
}

/// What a probe found about one artifact.
#[derive(Debug, Clone, Serialize)]
pub struct ArtifactProbe {
    /// Such as `cpu`.
    pub variant: String,
    /// In the plugin's folder.
    pub path: String,
    /// Why it does not load here.
    pub refusal: Option<String>,
}

/// Probes the plugin of a manifest with the trust and the child program of `settings`.
#[must_use]
pub fn probe(manifest_path: &Path, settings: &HostSettings) -> ProbeReport {
    let folder = manifest_path.parent().unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let verified = verify_plugin(folder, settings);
    let text = read_inside(folder, MANIFEST_FILE, MANIFEST_BYTES_MAX).unwrap_or_default();
    let manifest = Manifest::parse(&String::from_utf8_lossy(&text)).ok();
    let ground = Ground::new(settings);
    let artifacts = verified.as_ref().map_or_else(
        |_| Vec::new(),
        |plugin| {
            let candidates = plugin.manifest.candidates(TARGET);
            candidates.iter().map(|artifact| probe_artifact(&ground, plugin, artifact)).collect()
        },
    );
    ProbeReport {
        id: manifest.as_ref().map(|manifest| manifest.plugin.id.clone()),
        version: manifest.map(|manifest| manifest.plugin.version),
        signer: verified.as_ref().ok().and_then(|plugin| plugin.signer).map(hex::encode),
        refusal: verified.err().map(|error| error.to_string()),
        artifacts,
    }
}

fn probe_artifact(ground: &Ground, plugin: &VerifiedPlugin, artifact: &Artifact) -> ArtifactProbe {
    let loaded = load_in_child(ground, plugin, artifact);
    ArtifactProbe {
        variant: artifact.variant.clone(),
        path: artifact.path.clone(),
        refusal: loaded.err(),
    }
}

fn load_in_child(
    ground: &Ground,
    plugin: &VerifiedPlugin,
    artifact: &Artifact,
) -> Result<(), String> {
    let sealed = seal(&plugin.folder, artifact).map_err(|error| error.to_string())?;
    let Manifest { limits, permissions, .. } = &plugin.manifest;
    let confinement =
        Confinement::new(ground.sandbox, permissions, &serde_json::Value::Null, sealed.gpu);
    let create = Create { config: None, window: 1, max_concurrency: 1, confinement };
    let opened = open_child(ground, &sealed, "probe", &[], limits, &create, PROBE_TIMEOUT)?;
    opened.link.reap();
    Ok(())
}

/// Whether any artifact of `plugin` loads, tried in children that serve nothing.
pub(crate) fn probe_child(
    ground: &std::sync::Arc<Ground>,
    plugin: &VerifiedPlugin,
) -> impl FnOnce() -> Result<(), String> + Send + 'static {
    let (ground, plugin) = (std::sync::Arc::clone(ground), plugin.clone());
    move || {
        let mut refusals = Vec::new();
        for artifact in plugin.manifest.candidates(TARGET) {
            match load_in_child(&ground, &plugin, artifact) {
                Ok(()) => return Ok(()),
                Err(reason) => refusals.push(format!("{}: {reason}", artifact.variant)),
            }
        }
        Err(format!("no artifact loads: {}", refusals.join("; ")))
    }
}
