//! A language model on the machine's own processor: GGUF files of the llama, qwen2, qwen3 and
//! gemma3 families.

pub mod decoder;
pub mod error;
pub mod gguf;
pub mod ops;
pub mod pool;
pub mod shape;
pub mod tiles;
