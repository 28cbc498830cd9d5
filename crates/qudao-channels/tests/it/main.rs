//! Adapters as their host sees them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod hostile_cn;
