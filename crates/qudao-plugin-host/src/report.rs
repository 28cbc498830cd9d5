//! What operators, readiness and routing see of plugins.

use serde::Serialize;

use crate::settings::{DataClass, ModelKind, Placement};

/// One plugin found in the folders.
#[derive(Debug, Clone, Serialize)]
pub struct PluginReport {
    /// Its id, or the folder's name when the manifest does not say.
    pub id: String,
    /// Its version, if known.
    pub version: String,
    /// The folder.
    pub path: String,
    /// Usable or not.
    #[serde(flatten)]
    pub state: PluginState,
    /// Hex of the key that signed it.
    pub signer: Option<String>,
    /// Names of its instances.
    pub instances: Vec<String>,
    /// The protections under which every running instance of it runs.
    pub sandbox: Vec<String>,
}

/// Whether a plugin may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PluginState {
    /// Verified.
    Accepted,
    /// Not loaded.
    Refused {
        /// Why.
        reason: String,
    },
    /// Crashed too often; an operator lifts it.
    Quarantined {
        /// Why.
        reason: String,
    },
}

/// One model and how it is.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The name routes use.
    pub name: String,
    /// The plugin's name for it, if another.
    pub upstream: Option<String>,
    /// The instance that serves it.
    pub instance: String,
    /// The instance's plugin.
    pub plugin: String,
    /// What it does.
    pub kind: ModelKind,
    /// Whether it serves.
    #[serde(flatten)]
    pub state: ModelState,
    /// Counts starts of the instance, from 1.
    pub generation: u64,
    /// Where it runs.
    pub placement: Placement,
    /// Which artifact runs.
    pub variant: String,
    /// The protections under which it runs, such as `landlock:7`; none in the platform's process.
    pub sandbox: Vec<String>,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Tokens of an answer, at most.
    pub max_output_tokens: u32,
    /// Whether a tenant's words leave the machine.
    pub data_class: DataClass,
    /// Requests under way in the instance.
    pub in_flight: usize,
    /// Crashes since the platform started.
    pub crashes: u64,
    /// Events that broke the rules since the platform started.
    pub violations: u64,
    /// The last call of the instance that failed.
    pub last_failure: Option<FailureReport>,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureReport {
    /// What kind of failure, a word of a closed set.
    pub class: &'static str,
    /// What the plugin or its provider said: short, and without what looks like a key, an address
    /// or a number of a person.
    pub message: String,
    /// How many seconds ago.
    pub seconds_ago: u64,
}

/// Whether a model serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ModelState {
    /// Not yet.
    Loading {
        /// What it does meanwhile.
        note: String,
    },
    /// Serves.
    Ready,
    /// Serves, but a request would not end.
    Degraded,
    /// Does not start.
    Failed {
        /// Why.
        reason: String,
    },
    /// Crashed too often; an operator lifts it.
    Quarantined {
        /// Why.
        reason: String,
    },
}

impl ModelState {
    /// As it stands in JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loading { .. } => "loading",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Failed { .. } => "failed",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    /// Whether calls are taken.
    #[must_use]
    pub const fn serves(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// One swap of a reload.
#[derive(Debug, Clone, Serialize)]
pub struct GenerationReport {
    /// Whose.
    pub instance: String,
    /// What it was before, 0 for nothing.
    pub from: u64,
    /// What it is now.
    pub to: u64,
    /// Which artifact runs.
    pub variant: String,
    /// Requests that the old generation finished after the swap.
    pub drained: usize,
}
