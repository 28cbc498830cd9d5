//! Plugin instances as the operator writes them.

use std::collections::BTreeMap;

use qudao_domain::{Currency, Micros};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// A plugin with settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// What reports and metrics call it.
    pub name: String,
    /// The id in the plugin's manifest.
    pub plugin: String,
    /// Where it runs.
    #[serde(default)]
    pub placement: Placement,
    /// Requests that it gets at the same time; the plugin's own limit when absent.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// How long it is waited for; the plugin's own times where absent.
    #[serde(default)]
    pub timeouts: PluginTimeouts,
    /// Variables of the environment that its process may see, by name. One that may use the network sees
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` as well.
    #[serde(default)]
    pub env: Vec<String>,
    /// The plugin's own settings, see its documentation.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
    /// What it offers.
    pub models: Vec<Model>,
}

/// How many seconds a plugin is waited for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginTimeouts {
    /// While it loads a model.
    pub load_s: Option<u64>,
    /// From a request to its first event.
    pub first_token_s: Option<u64>,
    /// Between two events.
    pub inter_token_s: Option<u64>,
    /// For a whole request.
    pub total_s: Option<u64>,
    /// For its last words after a request was cancelled; then its process is ended.
    pub cancel_grace_s: Option<u64>,
    /// For requests under way when it is loaded anew.
    pub drain_s: Option<u64>,
}

/// Where a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// In a process of its own; a crash harms nothing else.
    #[default]
    Process,
    /// In Qudao's process and not confined, for plugins that the operator trusts like Qudao
    /// itself.
    Inproc,
}

/// A model that an instance offers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What tenants and routes call it; unique on the platform.
    pub name: String,
    /// What the plugin calls it; the same when absent.
    #[serde(default)]
    pub upstream: Option<String>,
    /// What it does.
    #[serde(default)]
    pub kind: ModelKind,
    /// Tokens that question and answer have together.
    #[serde(default = "default_context")]
    pub context_tokens: u32,
    /// Tokens that an answer has at most.
    #[serde(default = "default_output")]
    pub max_output_tokens: u32,
    /// Whether what is said to it leaves this machine.
    #[serde(default)]
    pub data_class: DataClass,
    /// What it costs, once per currency. A model without a price in a tenant's currency is not
    /// served to that tenant.
    #[serde(default)]
    pub prices: Vec<Price>,
}

fn default_context() -> u32 {
    4096
}

fn default_output() -> u32 {
    1024
}

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Answers in a conversation.
    #[default]
    Chat,
    /// Turns texts into vectors.
    Embed,
    /// Sorts texts into classes.
    Classify,
    /// Finds things in pictures.
    Detect,
    /// Turns speech into text.
    Transcribe,
}

/// Whether what is said to a model leaves this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataClass {
    /// It stays here.
    #[default]
    Local,
    /// It goes to somebody else.
    Remote,
}

/// What a model costs in one currency. Amounts are decimal numbers in quotes: `"2.50"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Three capital letters.
    #[schemars(with = "String")]
    pub currency: Currency,
    /// For a million tokens of the question.
    #[serde(default, with = "amount")]
    #[schemars(with = "String")]
    pub input_per_mtok: Micros,
    /// For a million tokens of the answer.
    #[serde(default, with = "amount")]
    #[schemars(with = "String")]
    pub output_per_mtok: Micros,
    /// For each call.
    #[serde(default, with = "amount")]
    #[schemars(with = "String")]
    pub per_call: Micros,
}

/// Amounts as decimal text: a float in the file would not be what the operator wrote.
pub(crate) mod amount {
    use qudao_domain::Micros;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Micros, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }

    /// Only the schema's defaults are written.
    pub(crate) fn serialize<S: Serializer>(amount: &Micros, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(amount)
    }
}
