//! The OpenAI-compatible endpoints.

pub(crate) mod answer;
pub(crate) mod classifications;
pub(crate) mod completions;
pub(crate) mod detections;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod pictures;
pub(crate) mod rate;
pub(crate) mod served;
mod stream;
pub(crate) mod transcript;
pub(crate) mod transcriptions;
pub(crate) mod whole;
pub(crate) mod wire;
