//! The host against real plugins: echo, rogue and the example in C, as libraries on disk.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod artifacts;
mod confinement;
mod flavours;
mod loading;
mod recovery;
mod stage;
mod tampering;
mod upgrade;
mod violations;
