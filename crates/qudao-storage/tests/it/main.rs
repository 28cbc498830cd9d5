//! Storage against a real Postgres and a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests: a failed step is the report, and the bare pool is what one of them is about"
)]

mod accept;
mod admin;
mod audit;
mod blocks;
mod books;
mod bus;
mod catalog;
mod cost;
mod depths;
mod failover;
mod fairness;
mod invariants;
mod isolation;
mod limiter;
mod meanwhile;
mod once;
mod outbox;
mod people;
mod pieces;
mod proof;
mod schema;
mod together;
mod transactions;
mod turns;
mod upgrade;
mod world;
