//! Settings of an instance.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::LoadError;
use crate::picture::Limits;

/// The `config` of an instance of this plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The weights: a safetensors file of `qudao model pull`, or one's own.
    pub path: PathBuf,
    /// Side of the square that the network looks at, a multiple of 32; default: what the file says,
    /// else 416 for YOLOX and 640 for YOLOv8.
    #[serde(default)]
    pub side: Option<usize>,
    /// The lowest score of a finding.
    #[serde(default = "default_score")]
    pub min_score: f32,
    /// Of two boxes of a class that overlap by more than this part of their union one is kept.
    #[serde(default = "default_overlap")]
    pub max_overlap: f32,
    /// Names of the classes, in the model's order; default: what the file says, else COCO's 80.
    #[serde(default)]
    pub classes: Option<Vec<String>>,
    /// Threads; default: all cores.
    #[serde(default)]
    pub threads: Option<usize>,
    /// The most bytes of a picture.
    #[serde(default = "default_bytes")]
    pub max_bytes: usize,
    /// The most pixels of a picture.
    #[serde(default = "default_pixels")]
    pub max_pixels: u64,
    /// `cpu`, `cuda:0` and so on, or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_score() -> f32 {
    0.4
}

fn default_overlap() -> f32 {
    0.45
}

fn default_bytes() -> usize {
    Limits::default().bytes
}

fn default_pixels() -> u64 {
    Limits::default().pixels
}

fn default_device() -> String {
    "auto".to_owned()
}

impl Config {
    /// Settings with defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            side: None,
            min_score: default_score(),
            max_overlap: default_overlap(),
            classes: None,
            threads: None,
            max_bytes: default_bytes(),
            max_pixels: default_pixels(),
            device: default_device(),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LoadError::Config`].
    pub fn check(&self) -> Result<(), LoadError> {
        let wrong = |key, reason: &str| Err(LoadError::Config { key, reason: reason.to_owned() });
        if self.side.is_some_and(|side| side == 0 || side % 32 != 0 || side > 2048) {
            return wrong("side", "must be a multiple of 32, at most 2048");
        }
        if !(0.0..=1.0).contains(&self.min_score) {
            return wrong("min_score", "must be between 0 and 1");
        }
        if !(0.0..=1.0).contains(&self.max_overlap) {
            return wrong("max_overlap", "must be between 0 and 1");
        }
        if self.threads == Some(0) {
            return wrong("threads", "must be at least 1");
        }
        Ok(())
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores)
    }

    /// How much of a picture is read.
    pub fn limits(&self) -> Limits {
        Limits { bytes: self.max_bytes, pixels: self.max_pixels }
    }
}
