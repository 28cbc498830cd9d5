//! The adapters from outside, against platforms that mean harm.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod hostile;
mod signers;
