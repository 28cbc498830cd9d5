//! The adapters from outside, against platforms that mean harm.
#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod hostile;
mod hostile_cn;
mod signers;
