//! The OpenAI-compatible endpoints.

pub(crate) mod answer;
pub(crate) mod completions;
pub(crate) mod models;
pub(crate) mod pictures;
pub(crate) mod rate;
pub(crate) mod wire;
