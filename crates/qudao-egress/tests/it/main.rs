//! The client against hosts that mean harm. Everything here is a real socket: an internal service
//! that counts who knocks, hosts that answer as they please, and a name server that lies.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod answers;
mod host;
mod hostile;
mod json;
mod names;
mod server;
