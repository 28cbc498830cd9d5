//! Why a model is not converted.

use std::path::{Path, PathBuf};

/// What is wrong with the folder, or with the disk.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} is unusable: {reason}")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model of another kind.
    #[error("this model cannot be converted: {0}")]
    Unknown(String),
    /// The computation failed.
    #[error("compressing {tensor}: {source}")]
    Compute {
        /// Which tensor.
        tensor: String,
        /// What candle said.
        source: candle_core::Error,
    },
}

impl QuantizeError {
    /// For `map_err` on a file operation.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(crate) fn form(path: &Path, reason: impl Into<String>) -> Self {
        Self::Form { path: path.to_owned(), reason: reason.into() }
    }
}
