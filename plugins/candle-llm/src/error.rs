//! Why a model is refused, or a request cannot be served.

use std::path::PathBuf;

/// A reason to refuse a model file before any traffic reaches it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first bytes are not those of a GGUF file.
    #[error("{path} is not a GGUF file")]
    NotGguf {
        /// The file.
        path: PathBuf,
    },
    /// The header is damaged or names a quantisation nobody knows.
    #[error("{path} has an unreadable GGUF header: {reason}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The file ends before its tensors do.
    #[error(
        "{path} is truncated: tensor `{tensor}` needs {needed} bytes, the file has {present}. Download it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// First tensor that is not whole.
        tensor: String,
        /// Bytes the file must have for it.
        needed: u64,
        /// Bytes it has.
        present: u64,
    },
    /// The model family is not one that this plugin knows.
    #[error("architecture `{0}` is not supported; supported are llama, qwen2, qwen3 and gemma3")]
    Architecture(String),
    /// A metadata key or tensor that the family needs is absent or has an impossible value.
    #[error("the model file lacks a usable `{0}`")]
    Missing(String),
    /// The shape of a tensor contradicts the metadata.
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the metadata asks for.
        expected: Vec<usize>,
    },
    /// There is not enough memory for the weights and the conversations.
    #[error(
        "the model needs about {needed_mib} MiB of memory, {available_mib} MiB are available; \
         take a smaller model, or lower context_tokens or max_sequences"
    )]
    Memory {
        /// Estimated need.
        needed_mib: u64,
        /// What the system reports as available.
        available_mib: u64,
    },
    /// Neither the GGUF nor a `tokenizer.json` beside it yields a tokenizer.
    #[error("no usable tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template of the file does not compile.
    #[error("the chat template is not usable: {0}")]
    Template(String),
    /// The configured device does not exist in this build or on this machine.
    #[error("device `{device}` is not available: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A value of the configuration is outside its range.
    #[error("configuration `{key}`: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A computation on the weights failed.
    #[error("cannot load the weights: {0}")]
    Weights(#[from] candle_core::Error),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
