//! Requests to addresses that a tenant chose: webhooks, models, media, sign-in providers.
//!
//! Whoever chooses an address could choose one inside the operator's network, and have the platform
//! knock there. So nothing of a tenant's is requested but through [`Egress`], which takes a
//! [`PublicUrl`] and nothing else:
//!
//! 1. The text is read once, by [`PublicUrl::parse`]. What was read is what is requested, so no two
//!    readers can differ about it. Spellings about which other readers are known to differ are
//!    refused as well.
//! 2. A literal address is judged when the text is read, a name when it is connected to: the
//!    resolver of the client drops every address that is not public, and the addresses that it
//!    leaves are the ones that are dialled. There is no second look-up that could say otherwise.
//! 3. Nothing is followed: no redirect, no proxy of the environment, no cookie, no referrer.
//! 4. Time and size are bounded, and a body that asks to be unpacked is refused.
//! 5. Nothing is sent that the caller did not give for this very request: the client has no
//!    credentials of its own.
//!
//! What a refusal says is the same, and takes as long, whether something answers at an internal
//! address or not.

mod address;
mod client;
mod dial;
mod error;
mod metrics;
mod resolve;
mod rules;
mod target;

pub use address::is_public;
pub use client::{Egress, Limits};
pub use dial::DialError;
pub use error::{EgressError, Refusal};
pub use metrics::METRICS;
pub use resolve::{Guard, Lookup, SystemLookup};
pub use rules::{Rules, RulesError};
pub use target::PublicUrl;
