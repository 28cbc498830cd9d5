//! From published weights (Hugging Face's folder: config.json, tokenizer.json, safetensors) to one GGUF
//! file of fewer bits, as `candle-llm` and llama.cpp read it. A program of its own, beside the plugin:
//! it computes with weights, which the platform never does.
//!
//! Pieces of a matrix are read, compressed and written one after the other, so that a model larger than
//! the memory can be converted.

mod convert;
mod error;
mod family;
mod gguf;
mod source;
mod tokenizer;

pub use convert::{Kind, Summary, convert};
pub use error::QuantizeError;
