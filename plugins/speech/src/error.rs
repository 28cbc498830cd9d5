//! Why a model is refused, or a sound cannot be listened to.

use std::path::PathBuf;

/// A reason to refuse a model file before any sound reaches it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is none of the form that `qudao model pull` writes.
    #[error("{path} is no Whisper that `qudao model pull` put together: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A setting is outside of its range.
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
    /// Where it should compute, it does not.
    #[error(transparent)]
    Device(#[from] qudao_device::DeviceError),
    /// No thread could be started.
    #[error("cannot start the threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// A reason to refuse a sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SoundError {
    /// More bytes than are read.
    #[error("too_large: the sound has {bytes} bytes, at most {limit} are read")]
    Bytes {
        /// What came.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A longer sound than is listened to.
    #[error("too_long: the sound is longer than {seconds} seconds")]
    Seconds {
        /// The limit.
        seconds: u32,
    },
    /// None of the containers that are read.
    #[error("unknown_format: this is no Ogg, WebM, WAV or MP3 file")]
    Format,
    /// A container whose sound is compressed in a way that is not read.
    #[error("unknown_codec: {0}")]
    Codec(String),
    /// The sound is damaged, or ends before it should.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// Why a sound was not written down.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Because of the sound.
    #[error(transparent)]
    Sound(#[from] SoundError),
    /// Because of a language that the model does not know.
    #[error("unknown_language: the model does not know `{0}`")]
    Language(String),
    /// The computation failed.
    #[error("the computation failed: {0}")]
    Computation(#[from] candle_core::Error),
    /// The tokens make no text.
    #[error("the tokens make no text: {0}")]
    Text(String),
}
