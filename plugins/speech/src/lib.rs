//! Writes down what is said: Whisper on the machine's own processor or GPU.
//!
//! [`sound`] decodes the file, [`mel`] makes the picture that the network looks at, half a minute of which
//! [`model`] lets the network listen to and speak about, token by token: [`encoder`] and [`decoder`] on the
//! processor, [`tensors`] on any device that candle knows.

pub mod config;
mod decoder;
mod encoder;
pub mod error;
pub mod file;
mod listen;
pub mod mel;
pub mod model;
mod network;
pub mod plugin;
mod rows;
mod rules;
pub mod sound;
mod tensors;
mod vocabulary;

/// A window's arrays are allocated and freed hundreds of times.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
