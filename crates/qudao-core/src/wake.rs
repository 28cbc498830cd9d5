//! Hints that there is work. A lost hint costs one poll interval and nothing else.

use tokio::sync::Notify;

/// The hints within this process. Other nodes get theirs over the bus.
#[derive(Debug, Default)]
pub struct Wake {
    /// A conversation is ready to be claimed.
    pub turns: Notify,
    /// An outbound message is ready to be sent.
    pub outbox: Notify,
    /// An event for a partner is ready to be sent.
    pub partner: Notify,
    /// A letter of the platform itself is ready to be sent.
    pub letters: Notify,
}
