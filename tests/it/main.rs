//! The assembled system, tested from outside: the real binary with its own Postgres and Redis,
//! plugins loaded from files, over HTTP.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test cannot go on without what it asks for, and the panic is its report"
)]

mod admin;
mod bot_api;
mod bytes;
mod chaos;
mod chat;
mod collector;
mod death;
mod discord;
mod discord_api;
mod isolation;
mod locality;
mod metrics;
mod nodes;
mod person;
mod platform;
mod provider;
mod recovery;
mod rolling;
mod scale;
mod secrets;
mod telegram;
mod telegram_more;
mod traces;
mod vault;
mod visitor;
