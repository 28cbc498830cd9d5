//! Models that read texts and do not chat: vectors and classes. Each text's part of the answer is a
//! DATA event of its own, in any order.

use serde::{Deserialize, Serialize};

use super::is_false;

/// Names the form of [`EmbedRequest`].
pub const EMBED_SCHEMA: &str = "qudao.embed.v1";
/// Names the form of [`ClassifyRequest`].
pub const CLASSIFY_SCHEMA: &str = "qudao.classify.v1";

fn embed_schema() -> String {
    EMBED_SCHEMA.to_owned()
}

fn classify_schema() -> String {
    CLASSIFY_SCHEMA.to_owned()
}

/// Turn texts into vectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// [`EMBED_SCHEMA`].
    #[serde(default = "embed_schema")]
    pub schema: String,
    /// The model, by the name that the plugin knows it by.
    pub model: String,
    /// The texts. Each is answered by one [`Embedded`].
    pub texts: Vec<String>,
    /// What the vectors are for, where the model tells the two apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
}

impl EmbedRequest {
    /// A request for the vectors of these texts.
    pub fn new(model: impl Into<String>, texts: Vec<String>) -> Self {
        Self { schema: embed_schema(), model: model.into(), texts, purpose: None }
    }
}

/// What a vector is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To search with, or to compare texts of one kind.
    Query,
    /// To be found.
    Passage,
}

/// The vector of one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedded {
    /// Which text, from 0.
    pub index: u32,
    /// The vector; of length 1 where the model's vectors are compared by their angle.
    pub embedding: Vec<f32>,
    /// The text was longer than the model reads: the rest of it does not count.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

/// Sort texts into classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifyRequest {
    /// [`CLASSIFY_SCHEMA`].
    #[serde(default = "classify_schema")]
    pub schema: String,
    /// The model, by the name that the plugin knows it by.
    pub model: String,
    /// The texts. Each is answered by one [`Classified`].
    pub texts: Vec<String>,
    /// Whether to say which words decided. Takes as much longer as there are words.
    #[serde(default, skip_serializing_if = "is_false")]
    pub explain: bool,
}

impl ClassifyRequest {
    /// A request for the classes of these texts.
    pub fn new(model: impl Into<String>, texts: Vec<String>) -> Self {
        Self { schema: classify_schema(), model: model.into(), texts, explain: false }
    }
}

/// The class of one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    /// Which text, from 0.
    pub index: u32,
    /// The likeliest class; absent when the model is not sure enough to name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Every class, the likeliest first. The probabilities add up to 1.
    pub scores: Vec<Score>,
    /// What each word of the text did, if that was asked, in the order of the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// The text was longer than the model reads: the rest of it does not count.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

/// How likely a class is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The class.
    pub label: String,
    /// From 0 to 1.
    pub probability: f32,
}

/// What a word did for the likeliest class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word as it stands in the text.
    pub text: String,
    /// Where it begins, in characters from 0.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// Above 0 if it spoke for the class, below 0 if against it; comparable within one text.
    pub weight: f32,
}
