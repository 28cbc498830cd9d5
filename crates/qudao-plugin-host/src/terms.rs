//! What an instance's manifest and settings come to. Resolved once per manifest, since every
//! call and every look of the watchdogs asks for it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use qudao_plugin_api::{
    abi::QdPluginApi,
    manifest::{Artifact, Runtime},
};

use crate::{
    artifact::{RefusalError, SealedArtifact, VerifiedPlugin, seal},
    settings::InstanceSettings,
    watch::Limits,
};

/// Where an instance's code comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Verified, and on disk.
    Folder(Box<VerifiedPlugin>),
    /// Linked into this program.
    Static(&'static QdPluginApi),
    /// Refused; the instance exists so that its models report why.
    Absent,
}

/// A source with the limits that go with it.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) source: Source,
    pub(crate) limits: Limits,
    pub(crate) window: u32,
    pub(crate) max_concurrency: u32,
    /// The bytes that run. A restart takes these and not what may have come onto the disk
    /// meanwhile, which nobody has asked to load yet.
    proven: Mutex<Option<(Artifact, SealedArtifact)>>,
}

impl Terms {
    pub(crate) fn new(source: Source, settings: &InstanceSettings) -> Self {
        let runtime = match &source {
            Source::Folder(plugin) => plugin.manifest.runtime.clone(),
            Source::Static(_) | Source::Absent => Runtime::default(),
        };
        let max_concurrency = match settings.max_concurrency {
            0 => runtime.max_concurrency,
            set => set,
        };
        let limits = limits(&runtime, settings);
        Self { source, limits, window: runtime.window, max_concurrency, proven: Mutex::default() }
    }

    /// The verified bytes of an artifact.
    pub(crate) fn seal(
        &self,
        plugin: &VerifiedPlugin,
        artifact: &Artifact,
    ) -> Result<SealedArtifact, RefusalError> {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sealed)) = proven.as_ref().filter(|(of, _)| of == artifact) {
            return Ok(sealed.clone());
        }
        drop(proven);
        seal(&plugin.folder, artifact)
    }

    /// Remembers the bytes that an instance started from.
    pub(crate) fn prove(&self, artifact: &Artifact, sealed: SealedArtifact) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        *proven = Some((artifact.clone(), sealed));
    }
}

fn limits(runtime: &Runtime, settings: &InstanceSettings) -> Limits {
    let set = &settings.timeouts;
    let or = |set: Option<Duration>, ms| set.unwrap_or(Duration::from_millis(ms));
    Limits {
        load: or(set.load, runtime.load_timeout_ms),
        first_token: or(set.first_token, runtime.first_token_timeout_ms),
        inter_token: or(set.inter_token, runtime.inter_token_timeout_ms),
        total: or(set.total, runtime.total_timeout_ms),
        cancel_grace: or(set.cancel_grace, 2_000),
        drain: or(set.drain, runtime.drain_timeout_ms),
    }
}
