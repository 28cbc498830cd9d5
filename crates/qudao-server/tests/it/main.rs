//! The server as its callers see it: a real socket, a real database, a real Redis, and a worker
//! with a model that follows a script.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

mod admin;
mod assignment;
mod chat;
#[expect(clippy::disallowed_methods, reason = "a partner has a clock and tasks of its own")]
mod conform;
mod endings;
mod events;
mod files;
mod http;
mod identity;
mod limits;
mod looking;
mod model;
mod money;
mod oidc;
mod once;
mod openai;
#[expect(clippy::disallowed_methods, reason = "a partner has a clock and tasks of its own")]
mod partner;
mod people;
mod proof;
mod reading;
mod routing;
mod socket;
mod speaking;
mod transcribing;
mod widget;
mod world;
