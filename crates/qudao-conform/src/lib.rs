//! The conformance kit of the partner channel protocol. As *the platform* it tries an adapter, as
//! *a partner* it tries a platform: the same forty cases, each of which has one meaning in either
//! role. It knows the wire (`qudao-pcp`) and nothing of the platform.

#![expect(clippy::disallowed_methods, reason = "a program of its own: it has the machine's clock")]

pub mod adapter;
pub mod case;
pub mod client;
pub mod http;
pub mod partner;
pub mod reference;
pub mod report;
