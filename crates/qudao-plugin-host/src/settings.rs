//! What the operator decides: which plugins may load, and which instances serve which models.

use std::{path::PathBuf, time::Duration};

use qudao_plugin_api::{abi, wire::Ask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::confine::Sandbox;

/// Settings of the whole host.
#[derive(Debug, Clone, Default)]
pub struct HostSettings {
    /// Folders with one folder per plugin, each with a `plugin.toml`.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where quarantines outlive a restart.
    pub state_dir: PathBuf,
    /// The program `qudao-plugin-host`.
    pub host_binary: PathBuf,
    /// Keys whose signatures count.
    pub trusted_keys: Vec<[u8; 32]>,
    /// Loads plugins without a signature; a wrong signature is refused all the same.
    pub allow_unsigned: bool,
    /// Whether children are confined.
    pub sandbox: Sandbox,
    /// Ids of plugins that may be older than what has run here before.
    pub allow_downgrade: Vec<String>,
    /// What to run.
    pub instances: Vec<InstanceSettings>,
}

/// One running copy of a plugin with its configuration.
#[derive(Debug, Clone)]
pub struct InstanceSettings {
    /// Unique.
    pub name: String,
    /// The plugin's id.
    pub plugin: String,
    /// Where it runs.
    pub placement: Placement,
    /// The models it serves.
    pub models: Vec<ModelEntry>,
    /// Given to the plugin's `create`.
    pub config: Value,
    /// Requests at once; 0 takes the manifest's.
    pub max_concurrency: u32,
    /// What is absent is taken from the manifest.
    pub timeouts: Timeouts,
    /// Names of environment variables passed to the child.
    pub env: Vec<String>,
}

impl InstanceSettings {
    /// An instance with one chat model, in a child process, with the manifest's limits.
    #[must_use]
    pub fn new(name: &str, plugin: &str, model: &str) -> Self {
        Self {
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            placement: Placement::Process,
            models: vec![ModelEntry::chat(model)],
            config: Value::Object(serde_json::Map::new()),
            max_concurrency: 0,
            timeouts: Timeouts::default(),
            env: Vec::new(),
        }
    }
}

/// Overrides of the manifest's timeouts.
#[derive(Debug, Clone, Default)]
pub struct Timeouts {
    /// Model loading.
    pub load: Option<Duration>,
    /// From the request to its first event.
    pub first_token: Option<Duration>,
    /// Between two events.
    pub inter_token: Option<Duration>,
    /// The whole request.
    pub total: Option<Duration>,
    /// From a cancellation to the end of the child that ignores it; 2 s if absent.
    pub cancel_grace: Option<Duration>,
    /// For requests of an old generation.
    pub drain: Option<Duration>,
}

/// Where an instance runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// In a child that may crash.
    #[default]
    Process,
    /// In this process, for plugins the operator trusts with it.
    Inproc,
}

/// One model of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name routes use; unique.
    pub name: String,
    /// The plugin's name for it, if another.
    pub upstream: Option<String>,
    /// What it does.
    pub kind: ModelKind,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Tokens of an answer, at most.
    pub max_output_tokens: u32,
    /// Whether a tenant's words leave the machine.
    pub data_class: DataClass,
}

impl ModelEntry {
    /// A local model of some kind with small limits.
    #[must_use]
    pub fn of_kind(name: &str, kind: ModelKind) -> Self {
        Self { kind, ..Self::chat(name) }
    }

    /// A local chat model with small limits.
    #[must_use]
    pub fn chat(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            upstream: None,
            kind: ModelKind::Chat,
            context_tokens: 4096,
            max_output_tokens: 1024,
            data_class: DataClass::Local,
        }
    }
}

/// What a model does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Conversations.
    #[default]
    Chat,
    /// Raw text.
    Complete,
    /// Vectors of texts.
    Embed,
    /// Labels of texts.
    Classify,
    /// Objects in pictures.
    Detect,
    /// Speech to text.
    Transcribe,
    /// Token counts.
    Tokenize,
}

impl ModelKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Chat,
        Self::Complete,
        Self::Embed,
        Self::Classify,
        Self::Detect,
        Self::Transcribe,
        Self::Tokenize,
    ];

    /// As it stands in manifests, settings and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Complete => "complete",
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Detect => "detect",
            Self::Transcribe => "transcribe",
            Self::Tokenize => "tokenize",
        }
    }

    /// What a model of this kind does, for a sentence.
    #[must_use]
    pub const fn deed(self) -> &'static str {
        match self {
            Self::Chat => "chats",
            Self::Complete => "continues texts",
            Self::Embed => "turns texts into vectors",
            Self::Classify => "classifies texts",
            Self::Detect => "finds things in pictures",
            Self::Transcribe => "writes down speech",
            Self::Tokenize => "counts tokens",
        }
    }

    /// The kind that answers a request.
    #[must_use]
    pub const fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Chat(_) => Self::Chat,
            Ask::Embed(_) => Self::Embed,
            Ask::Classify(_) => Self::Classify,
            Ask::Detect(_) => Self::Detect,
            Ask::Transcribe(_) => Self::Transcribe,
        }
    }

    /// The ABI's number.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Chat => abi::QD_KIND_CHAT,
            Self::Complete => abi::QD_KIND_COMPLETE,
            Self::Embed => abi::QD_KIND_EMBED,
            Self::Classify => abi::QD_KIND_CLASSIFY,
            Self::Detect => abi::QD_KIND_DETECT,
            Self::Transcribe => abi::QD_KIND_TRANSCRIBE,
            Self::Tokenize => abi::QD_KIND_TOKENIZE,
        }
    }
}

/// Whether a tenant's words leave the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataClass {
    /// They stay.
    #[default]
    Local,
    /// They are sent to somebody else.
    Remote,
}
