//! A language model on the machine's own processor: GGUF files of the llama, qwen2, qwen3 and
//! gemma3 families.

mod attention;
pub mod backend;
pub mod config;
pub mod constraint;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod logprobs;
pub mod ops;
mod packing;
pub mod pages;
pub mod plugin;
pub mod pool;
pub mod prompt;
pub mod sampling;
pub mod shape;
mod store;
pub mod stream;
pub mod template;
pub mod tensors;
pub mod tiles;
pub mod tokens;
pub mod turns;

/// Activations are allocated and freed hundreds of times per token.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
