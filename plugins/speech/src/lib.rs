//! Writes down what is said: Whisper on the machine's own processor.
//!
//! [`sound`] decodes the file, [`mel`] makes the picture that the network looks at, half a minute of which
//! [`model`] lets the encoder listen to and the decoder speak about, token by token.

pub mod config;
mod decoder;
mod encoder;
pub mod error;
pub mod file;
mod listen;
pub mod mel;
pub mod model;
pub mod plugin;
mod rows;
mod rules;
pub mod sound;
mod vocabulary;

/// A window's arrays are allocated and freed hundreds of times.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
