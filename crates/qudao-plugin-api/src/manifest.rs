//! `plugin.toml`: what a plugin is, which artifacts it has and what it needs; and the detached
//! ed25519 signature over the exact bytes of it. The hashes inside extend that trust to the
//! artifacts.

use std::path::{Component, Path};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::abi::{QD_ABI_MAJOR, QD_ABI_MINOR};

/// The file's name.
pub const MANIFEST_FILE: &str = "plugin.toml";
/// The signature's name beside it: hex of the signer's key, a space, hex of the signature.
pub const SIGNATURE_FILE: &str = "plugin.toml.sig";
/// The target the host was built for.
#[cfg(target_arch = "x86_64")]
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The target the host was built for.
#[cfg(target_arch = "aarch64")]
pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, or not this schema.
    #[error("plugin.toml: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A field breaks a rule.
    #[error("plugin.toml: {field}: {rule}")]
    Field {
        /// Path of the field.
        field: String,
        /// What it must be.
        rule: String,
    },
    /// Bytes that are no text.
    #[error("plugin.toml is not UTF-8")]
    NotText,
    /// The signature is not of the form written by [`sign`].
    #[error("plugin.toml.sig is malformed")]
    MalformedSignature,
    /// A well-formed signature by a key that is not trusted.
    #[error("plugin.toml is signed by {0}, which is not a trusted key")]
    UnknownSigner(String),
    /// The manifest was changed after it was signed.
    #[error("the signature does not match plugin.toml")]
    WrongSignature,
}

/// The whole of `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always 1.
    pub schema: u32,
    /// What it is.
    pub plugin: PluginSection,
    /// The libraries to choose from.
    #[serde(rename = "artifact")]
    pub artifacts: Vec<Artifact>,
    /// Concurrency and timeouts.
    #[serde(default)]
    pub runtime: Runtime,
    /// Resource limits of the child process.
    #[serde(default)]
    pub limits: Limits,
    /// What the plugin may be given.
    #[serde(default)]
    pub permissions: Permissions,
    /// How generations are swapped.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// JSON Schema of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigSection>,
    /// Models the plugin knows by itself.
    #[serde(default, rename = "model", skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelSection>,
    /// A request that a healthy instance answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selftest: Option<SelfTest>,
}

/// `[plugin]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSection {
    /// Lower-case letters, digits, `-` and `.`; names the plugin in settings.
    pub id: String,
    /// Its version, any text.
    pub version: String,
    /// `major.minor` of the ABI it was built for.
    pub abi: String,
    /// `chat`, `complete`, `embed`, `classify`, `detect`, `transcribe`, `tokenize`.
    pub kinds: Vec<String>,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// SPDX.
    #[serde(default)]
    pub license: String,
}

/// `[[artifact]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Such as `x86_64-unknown-linux-gnu`; `any` is for templates of the host's own target.
    pub target: String,
    /// Such as `cpu` or `cuda`.
    pub variant: String,
    /// Relative to the manifest, inside its folder.
    pub path: String,
    /// Hex. Empty in templates only.
    #[serde(default)]
    pub sha256: String,
    /// The highest that loads wins.
    #[serde(default)]
    pub score: i32,
    /// Shared libraries it needs, as `libcuda.so.1`.
    #[serde(default)]
    pub libs: Vec<String>,
}

/// `[runtime]`. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Requests at once.
    pub max_concurrency: u32,
    /// Events before the first grant.
    pub window: u32,
    /// Model loading.
    pub load_timeout_ms: u64,
    /// From the request to its first event.
    pub first_token_timeout_ms: u64,
    /// Between two events.
    pub inter_token_timeout_ms: u64,
    /// The whole request.
    pub total_timeout_ms: u64,
    /// For requests of an old generation.
    pub drain_timeout_ms: u64,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            max_concurrency: 16,
            window: crate::abi::QD_WINDOW,
            load_timeout_ms: 300_000,
            first_token_timeout_ms: 60_000,
            inter_token_timeout_ms: 20_000,
            total_timeout_ms: 600_000,
            drain_timeout_ms: 120_000,
        }
    }
}

/// `[limits]`; 0 leaves the limit of the platform's own process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Data segment and anonymous memory (`RLIMIT_DATA`).
    pub memory_mb: u64,
    /// Open files (`RLIMIT_NOFILE`).
    pub nofile: u64,
}

/// `[permissions]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// Names of environment variables it asks for; the operator's settings grant them.
    pub env: Vec<String>,
    /// Hosts it talks to, for the operator to read. Without any it opens no socket.
    pub network: Vec<String>,
    /// Names of its settings that hold paths it reads; the operator's values grant them.
    pub files: Vec<String>,
    /// Names of files that it also reads beside those, such as `tokenizer.json`.
    pub beside: Vec<String>,
    /// Devices it uses: `nvidia`, granted to artifacts that need `libcuda`.
    pub devices: Vec<String>,
}

/// `[upgrade]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// What to do with the old generation while the new one starts.
    pub strategy: Strategy,
}

/// How generations are swapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Both live for a while.
    #[default]
    SideBySide,
    /// The old one ends first, for models of which memory holds one.
    DrainFirst,
}

/// `[config]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigSection {
    /// A JSON Schema file beside the manifest, for consoles and readers.
    pub schema: String,
}

/// `[[model]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// The plugin's name for it.
    pub id: String,
    /// Tokens of context.
    #[serde(default)]
    pub context: u32,
}

/// `[selftest]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// The text of a user's message, or the text that is embedded or classified; for models that look
    /// or listen, the base64 of a picture or a sound.
    pub message: String,
    /// How long the answer may take.
    #[serde(default = "selftest_timeout")]
    pub timeout_ms: u64,
}

const fn selftest_timeout() -> u64 {
    30_000
}

/// A week.
const TIMEOUT_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// A pebibyte.
const MEMORY_MB_MAX: u64 = 1 << 30;
const CONCURRENCY_MAX: u32 = 65_536;

const KINDS: &[&str] =
    &["chat", "complete", "embed", "classify", "detect", "transcribe", "tokenize"];

impl Manifest {
    /// Reads and checks a manifest that is ready to load.
    ///
    /// # Errors
    /// [`ManifestError::Syntax`] and [`ManifestError::Field`].
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest = Self::parse_template(text)?;
        for (at, artifact) in manifest.artifacts.iter().enumerate() {
            let hex = artifact.sha256.len() == 64
                && artifact
                    .sha256
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
            require(hex, &format!("artifact[{at}].sha256"), "must be 64 lower-case hex digits")?;
        }
        Ok(manifest)
    }

    /// Reads and checks a template, which has no hashes yet.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn parse_template(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        require(self.schema == 1, "schema", "must be 1")?;
        let id = &self.plugin.id;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let id_ok = (1..=64).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with('.');
        require(id_ok, "plugin.id", "must be 1 to 64 of a-z, 0-9, '-' and '.'")?;
        require(!self.plugin.version.is_empty(), "plugin.version", "must not be empty")?;
        self.check_abi()?;
        require(!self.plugin.kinds.is_empty(), "plugin.kinds", "must not be empty")?;
        for kind in &self.plugin.kinds {
            require(KINDS.contains(&kind.as_str()), "plugin.kinds", &format!("knows no {kind:?}"))?;
        }
        require(!self.artifacts.is_empty(), "artifact", "must name at least one")?;
        for (at, artifact) in self.artifacts.iter().enumerate() {
            let inside = is_inside(Path::new(&artifact.path));
            let field = format!("artifact[{at}].path");
            require(inside, &field, "must be relative and stay inside the plugin's folder")?;
        }
        for name in &self.permissions.beside {
            let plain = Path::new(name).file_name().is_some_and(|file| file == name.as_str());
            require(plain, "permissions.beside", "must be names of files, not paths")?;
        }
        for device in &self.permissions.devices {
            let rule = format!("knows no {device:?}");
            require(device == "nvidia", "permissions.devices", &rule)?;
        }
        if let Some(config) = &self.config {
            let inside = is_inside(Path::new(&config.schema));
            require(
                inside,
                "config.schema",
                "must be relative and stay inside the plugin's folder",
            )?;
        }
        self.check_bounds()
    }

    /// Numbers that a host computes with must not overflow what it computes.
    fn check_bounds(&self) -> Result<(), ManifestError> {
        let Runtime { max_concurrency, load_timeout_ms, total_timeout_ms, .. } = self.runtime;
        let Runtime { first_token_timeout_ms, inter_token_timeout_ms, drain_timeout_ms, .. } =
            self.runtime;
        let concurrency = (1..=CONCURRENCY_MAX).contains(&max_concurrency);
        require(concurrency, "runtime.max_concurrency", "must be 1 to 65536")?;
        let selftest = self.selftest.as_ref().map_or(0, |test| test.timeout_ms);
        let times = [
            ("runtime.load_timeout_ms", load_timeout_ms),
            ("runtime.first_token_timeout_ms", first_token_timeout_ms),
            ("runtime.inter_token_timeout_ms", inter_token_timeout_ms),
            ("runtime.total_timeout_ms", total_timeout_ms),
            ("runtime.drain_timeout_ms", drain_timeout_ms),
            ("selftest.timeout_ms", selftest),
        ];
        for (field, time) in times {
            require(time <= TIMEOUT_MS_MAX, field, "must be at most a week")?;
        }
        let memory = self.limits.memory_mb <= MEMORY_MB_MAX;
        require(memory, "limits.memory_mb", "must be at most a pebibyte")?;
        let window = (1..=4096).contains(&self.runtime.window);
        require(window, "runtime.window", "must be 1 to 4096")
    }

    fn check_abi(&self) -> Result<(), ManifestError> {
        let (major, minor) = self.plugin.abi.split_once('.').unwrap_or(("", ""));
        let parsed = major.parse::<u16>().ok().zip(minor.parse::<u16>().ok());
        let Some((major, _)) = parsed else {
            return require(false, "plugin.abi", "must be major.minor");
        };
        let rule = format!("is {major}, this host serves {QD_ABI_MAJOR}.{QD_ABI_MINOR}");
        require(major == QD_ABI_MAJOR, "plugin.abi", &rule)
    }

    /// The artifacts for `target`, best first.
    #[must_use]
    pub fn candidates(&self, target: &str) -> Vec<&Artifact> {
        let fits = |artifact: &&Artifact| artifact.target == target || artifact.target == "any";
        let mut found: Vec<_> = self.artifacts.iter().filter(fits).collect();
        found.sort_by_key(|artifact| std::cmp::Reverse(artifact.score));
        found
    }
}

fn require(holds: bool, field: &str, rule: &str) -> Result<(), ManifestError> {
    if holds {
        return Ok(());
    }
    Err(ManifestError::Field { field: field.to_owned(), rule: rule.to_owned() })
}

fn is_inside(path: &Path) -> bool {
    path.components().next().is_some()
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Hex of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The contents of the signature file for these exact bytes.
#[must_use]
pub fn sign(manifest: &[u8], secret: &[u8; 32]) -> String {
    let key = SigningKey::from_bytes(secret);
    let signature = key.sign(manifest);
    format!("{} {}\n", hex::encode(key.verifying_key()), hex::encode(signature.to_bytes()))
}

/// The public half of a secret key.
#[must_use]
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// Checks a signature file against the manifest's exact bytes and returns the signer's key.
///
/// # Errors
/// [`ManifestError::MalformedSignature`], [`ManifestError::UnknownSigner`] or
/// [`ManifestError::WrongSignature`].
pub fn verify(
    manifest: &[u8],
    signature: &str,
    trusted: &[[u8; 32]],
) -> Result<[u8; 32], ManifestError> {
    let (key, signature) =
        signature.trim().split_once(' ').ok_or(ManifestError::MalformedSignature)?;
    let mut key_bytes = [0; 32];
    let mut signature_bytes = [0; 64];
    hex::decode_to_slice(key, &mut key_bytes).map_err(|_| ManifestError::MalformedSignature)?;
    hex::decode_to_slice(signature, &mut signature_bytes)
        .map_err(|_| ManifestError::MalformedSignature)?;
    if !trusted.contains(&key_bytes) {
        return Err(ManifestError::UnknownSigner(key.to_owned()));
    }
    let key =
        VerifyingKey::from_bytes(&key_bytes).map_err(|_| ManifestError::MalformedSignature)?;
    // Strict: a weak key would let one signature hold for many manifests.
    key.verify_strict(manifest, &Signature::from_bytes(&signature_bytes))
        .map_err(|_| ManifestError::WrongSignature)?;
    Ok(key_bytes)
}

#[cfg(test)]
mod tests;
