//! Settings of an instance.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use crate::{error::LoadError, sound::Limits};

/// Longer sounds would take minutes.
const SECONDS_MAX: u32 = 3_600;

/// The `config` of an instance of this plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file of the model.
    pub path: PathBuf,
    /// The language that is spoken, as two letters; found out if absent.
    #[serde(default)]
    pub language: Option<String>,
    /// The longest sound, in seconds.
    #[serde(default = "default_seconds")]
    pub max_seconds: u32,
    /// The most bytes of a sound's file.
    #[serde(default = "default_bytes")]
    pub max_bytes: usize,
    /// What stays below this level, in decibels of full scale, is silence.
    #[serde(default = "default_silence")]
    pub silence_dbfs: f32,
    /// By language, what the model shall think was said before: it goes on in the same script and with the
    /// same marks. Without it Chinese often comes in traditional characters and without punctuation.
    #[serde(default = "default_prompts")]
    pub prompts: BTreeMap<String, String>,
    /// Threads that compute; all cores if absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// `cpu`, `cuda:0` and so on, or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_seconds() -> u32 {
    Limits::default().seconds
}

fn default_bytes() -> usize {
    Limits::default().bytes
}

fn default_silence() -> f32 {
    -60.0
}

fn default_device() -> String {
    "auto".to_owned()
}

fn default_prompts() -> BTreeMap<String, String> {
    // "The following are sentences in Mandarin."
    BTreeMap::from([("zh".to_owned(), "以下是普通话的句子。".to_owned())])
}

impl Config {
    /// Settings with defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            language: None,
            max_seconds: default_seconds(),
            max_bytes: default_bytes(),
            silence_dbfs: default_silence(),
            prompts: default_prompts(),
            threads: None,
            device: default_device(),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LoadError::Config`].
    pub fn check(&self) -> Result<(), LoadError> {
        let wrong = |key, reason: &str| Err(LoadError::Config { key, reason: reason.to_owned() });
        if !(1..=SECONDS_MAX).contains(&self.max_seconds) {
            return wrong("max_seconds", "must be from 1 to 3600");
        }
        if !(-120.0..=0.0).contains(&self.silence_dbfs) {
            return wrong("silence_dbfs", "must be from -120 to 0");
        }
        if self.threads == Some(0) {
            return wrong("threads", "must be at least 1");
        }
        Ok(())
    }

    /// How much of a sound is read.
    pub fn limits(&self) -> Limits {
        Limits { bytes: self.max_bytes, seconds: self.max_seconds }
    }
}
