//! The use cases against a real database and a scripted model.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test reports")]

mod api;
mod audit;
mod charging;
mod listening;
mod looking;
mod money;
mod people;
mod routing;
mod stage;
mod steps;
mod turns;
mod vault;
