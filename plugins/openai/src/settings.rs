//! What an operator sets for one provider.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_openai::config::OpenAIConfig;
use qudao_egress::{PublicUrl, Rules};
use reqwest::{
    Url,
    header::{self, HeaderName, HeaderValue},
};
use serde::Deserialize;

use crate::failure::Failure;

/// Variables of the platform: their values must not go to an address that is a tenant's.
const PLATFORM_VARIABLES: &[&str] = &["OPENAI_", "QUDAO_", "DATABASE_URL", "REDIS_URL", "OTEL_"];
/// Headers that decide where a request goes and where it ends.
const CLIENTS_OWN: &[HeaderName] = &[
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::ACCEPT_ENCODING,
    header::COOKIE,
];

/// The `config` of an instance of this plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the API begins, with its version: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Whose choice the address is, and so what may be reached.
    #[serde(default)]
    pub egress: Reach,
    /// The key itself. Prefer [`Settings::api_key_env`], which keeps it out of files.
    #[serde(default)]
    pub api_key: Option<String>,
    /// The environment variable that holds the key. The instance must list it under `env`.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Sent as `OpenAI-Organization`.
    #[serde(default)]
    pub organization: Option<String>,
    /// Sent as `OpenAI-Project`.
    #[serde(default)]
    pub project: Option<String>,
    /// How long to wait for what.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Further attempts after one that failed before its first byte.
    #[serde(default = "two")]
    pub max_retries: u32,
    /// Added to every request; they win over the plugin's own.
    #[serde(default)]
    pub extra_headers: BTreeMap<String, String>,
    /// How the provider calls the limit of an answer's length.
    #[serde(default)]
    pub max_tokens_field: MaxTokensField,
    /// Sends `top_k` and `repetition_penalty`, which vLLM and others know and OpenAI refuses.
    #[serde(default)]
    pub sampling_extensions: bool,
    /// Asks for the usage at the end of a stream. Off for providers that refuse
    /// `stream_options`; the usage is then estimated.
    #[serde(default = "yes")]
    pub stream_usage: bool,
}

/// What an instance may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Whatever the operator wrote: the address is the operator's own.
    #[default]
    Unrestricted,
    /// Hosts on the public internet, by https: the address is a tenant's.
    Public,
}

/// Limits of patience, in milliseconds. The deadline of a request ends all of them early.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect_ms: u64,
    /// From the request to the head of a streamed reply.
    pub first_byte_ms: u64,
    /// Between two reads of a reply.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, first_byte_ms: 60_000, idle_ms: 60_000 }
    }
}

impl Timeouts {
    /// [`Timeouts::connect_ms`] as a duration.
    #[must_use]
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// [`Timeouts::first_byte_ms`] as a duration.
    #[must_use]
    pub fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms)
    }

    /// [`Timeouts::idle_ms`] as a duration.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

/// The name of the length limit on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// The name that every compatible server knows.
    #[default]
    MaxTokens,
    /// What OpenAI's reasoning models insist on.
    MaxCompletionTokens,
}

fn two() -> u32 {
    2
}

fn yes() -> bool {
    true
}

/// Without the key and the headers, which may hold one.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("base_url", &self.base_url)
            .field("egress", &self.egress)
            .field("api_key_env", &self.api_key_env)
            .field("timeouts", &self.timeouts)
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The key, from the file or the environment; `None` for servers that want none.
    ///
    /// # Errors
    /// A named variable that is not set or empty: going on without it would end in a 401 for
    /// every request, long after the operator looked.
    pub fn key(&self) -> Result<Option<String>, Failure> {
        match (&self.api_key, &self.api_key_env) {
            (Some(_), Some(_)) => Err(refused("set `api_key` or `api_key_env`, not both")),
            (Some(key), None) if key.is_empty() => Err(refused("`api_key` is empty")),
            (Some(key), None) => Ok(Some(key.clone())),
            (None, Some(name)) => match variable(name) {
                Some(key) if !key.is_empty() => Ok(Some(key)),
                _ => Err(refused(&format!(
                    "the environment variable `{name}` (api_key_env) is not set; is it listed \
                     under `env` of the instance?"
                ))),
            },
            (None, None) => Ok(None),
        }
    }

    /// The rules for what may be reached; `None` for an address that is the operator's own.
    #[must_use]
    pub fn rules(&self) -> Option<Rules> {
        (self.egress == Reach::Public).then(Rules::default)
    }

    /// Holds the settings of a tenant's address against the rules.
    ///
    /// # Errors
    /// Names the setting that would let the address, or what is sent there, be another's than the
    /// tenant's.
    pub fn check_reach(&self, rules: &Rules) -> Result<(), Failure> {
        PublicUrl::parse(&self.base_url, rules).map_err(|refusal| {
            let code = refusal.code();
            refused(&format!("`base_url` with `egress = \"public\"`: {refusal} ({code})"))
        })?;
        let variable = self.api_key_env.as_deref().unwrap_or_default();
        if PLATFORM_VARIABLES.iter().any(|prefix| variable.starts_with(prefix)) {
            return Err(refused(&format!(
                "`api_key_env` with `egress = \"public\"`: `{variable}` is a variable of the \
                 platform, and its key must not go to a tenant's address; name another"
            )));
        }
        let own = |name: &&String| {
            let name = HeaderName::from_bytes(name.as_bytes());
            name.is_ok_and(|name| CLIENTS_OWN.contains(&name))
        };
        match self.extra_headers.keys().find(own) {
            Some(name) => Err(refused(&format!(
                "`extra_headers.{name}` with `egress = \"public\"`: it decides where the request goes"
            ))),
            None => Ok(()),
        }
    }

    /// The client's configuration; every value is checked here, because the client itself
    /// panics on a header that it cannot send.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn client_config(&self, key: Option<&str>) -> Result<OpenAIConfig, Failure> {
        let base = base_url(&self.base_url)?;
        header_value("api_key", key.unwrap_or_default())?;
        let organization = self.organization.as_deref().unwrap_or_default();
        header_value("organization", organization)?;
        let project = self.project.as_deref().unwrap_or_default();
        header_value("project", project)?;
        let mut config = OpenAIConfig::new()
            .with_api_base(base)
            .with_api_key(key.unwrap_or_default())
            .with_org_id(organization)
            .with_project_id(project);
        for (name, value) in &self.extra_headers {
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                refused(&format!("`{name}` (extra_headers) is not a header's name"))
            })?;
            header_value(&format!("extra_headers.{name}"), value)?;
            config = config
                .with_header(header, value.as_str())
                .map_err(|_| refused(&format!("`extra_headers.{name}` cannot be sent")))?;
        }
        Ok(config)
    }
}

/// Checks the address and takes off a closing slash, because paths are appended to it.
fn base_url(text: &str) -> Result<String, Failure> {
    let url = Url::parse(text).map_err(|error| refused(&format!("`base_url`: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refused("`base_url` is not an http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("`base_url` holds a password; use `api_key_env`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("`base_url` has a query; give the address before it"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn header_value(setting: &str, text: &str) -> Result<(), Failure> {
    HeaderValue::from_str(text)
        .map(drop)
        .map_err(|_| refused(&format!("`{setting}` has characters that a header cannot hold")))
}

fn refused(message: &str) -> Failure {
    Failure::settings(message)
}

#[expect(clippy::disallowed_methods, reason = "the instance names the one variable it may read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
