//! Why an encoder is refused or fails.

use std::path::PathBuf;

/// A reason to refuse a model file, or a text that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not one that `qudao model pull` puts together.
    #[error("{path} is no encoder: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be used.
    #[error("the tokenizer is not usable: {0}")]
    Tokenizer(String),
    /// No threads to compute with.
    #[error("starting threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The device is not there, or too small.
    #[error(transparent)]
    Device(#[from] qudao_device::DeviceError),
    /// A computation failed.
    #[error("computing: {0}")]
    Compute(#[from] candle_core::Error),
}
