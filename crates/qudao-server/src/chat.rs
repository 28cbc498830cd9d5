//! The web chat: the same conversation over a WebSocket, an event stream, and plain requests.

pub(crate) mod claims;
pub(crate) mod door;
pub(crate) mod drive;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod frame;
pub(crate) mod requests;
pub(crate) mod session;
pub(crate) mod socket;
