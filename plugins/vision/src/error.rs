//! Why a model is refused, or a picture cannot be looked at.

use std::path::PathBuf;

/// A reason to refuse a model file before any picture reaches it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read or is no safetensors file.
    #[error("cannot read the weights in {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A tensor that the family needs is not there.
    #[error("the weights lack the tensor `{0}`")]
    Missing(String),
    /// A tensor has a shape that its place in the network does not allow.
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// What its place asks for.
        expected: String,
    },
    /// The names of the tensors are those of no family that this plugin knows.
    #[error("the weights are neither YOLOX (`head.stems.…`) nor YOLOv8 (`model.22.…`)")]
    Family,
    /// A value of the configuration is outside its range.
    #[error("configuration `{key}`: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The configured device is not there, or too small.
    #[error(transparent)]
    Device(#[from] qudao_device::DeviceError),
    /// A computation on the weights failed.
    #[error("cannot load the weights: {0}")]
    Weights(#[from] candle_core::Error),
    /// No thread could be started.
    #[error("cannot start the threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// A reason to refuse a picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// More bytes than are read.
    #[error("the picture has {bytes} bytes, at most {limit} are read")]
    Bytes {
        /// What came.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More pixels than are unpacked: a few bytes may claim to be billions of them.
    #[error("the picture is {width} × {height} pixels, at most {limit} pixels are unpacked")]
    Pixels {
        /// As its header says.
        width: u32,
        /// As its header says.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// None of the formats that are read.
    #[error("this is no JPEG, PNG, WebP or GIF picture")]
    Format,
    /// The picture is damaged.
    #[error("the picture is damaged: {0}")]
    Damaged(String),
}
