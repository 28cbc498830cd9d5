//! What rules ask about.

use serde::{Deserialize, Serialize};

use super::Personal;
use crate::Micros;

/// A signal that was gathered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reading<T> {
    /// It could not be had. No condition on it holds.
    Unknown {
        /// Why, as a word.
        unknown: String,
    },
    /// It is this.
    Known(T),
}

impl<T> Reading<T> {
    /// One that could not be had.
    pub fn unknown(why: &str) -> Self {
        Self::Unknown { unknown: why.to_owned() }
    }

    /// The value, if there is one.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }
}

/// How messages sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentiment {
    /// The likeliest class, as the model calls it.
    pub label: String,
    /// From 0 to 1.
    pub probability: f64,
}

/// What messages are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Words.
    Text,
    /// A picture.
    Image,
    /// Sound; somebody may speak.
    Audio,
    /// A moving picture.
    Video,
    /// Any other file.
    File,
}

/// The names of the signals that have to be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// [`Signals::characters`].
    Characters,
    /// [`Signals::prompt_tokens`].
    PromptTokens,
    /// [`Signals::modality`].
    Modality,
    /// [`Signals::balance`].
    Balance,
    /// [`Signals::language`].
    Language,
    /// [`Signals::personal_data`].
    PersonalData,
    /// [`Signals::spent_this_month`].
    SpentThisMonth,
    /// [`Signals::sentiment`].
    Sentiment,
}

/// What has been gathered. What nobody asked for is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Characters of the messages to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub characters: Option<Reading<u64>>,
    /// Tokens of all that a model would read, as they are estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Reading<u64>>,
    /// What the messages to answer are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modality: Option<Reading<Vec<Modality>>>,
    /// What the tenant can spend, in micro-units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Reading<Micros>>,
    /// The language of the messages to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Reading<String>>,
    /// The kinds of personal data in all that a model would read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal_data: Option<Reading<Vec<Personal>>>,
    /// What the tenant was charged since the month began, in micro-units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent_this_month: Option<Reading<Micros>>,
    /// How the messages to answer sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentiment: Option<Reading<Sentiment>>,
}
