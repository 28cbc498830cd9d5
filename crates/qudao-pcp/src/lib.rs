//! The partner channel protocol, PCP/1, without sockets and without the platform: what an event
//! looks like, how it is signed and verified, and the report of the conformance kit. Server, kit and
//! tests share it, so they cannot differ about the wire.

mod data;
mod event;
mod key;
mod parts;
mod report;
mod sign;

pub use data::{
    ErrorData, GapData, HandoffData, PingData, RotatedData, TypingData, UpdateData, VerifyData,
};
pub use event::{
    Accepted, Attribution, Conversation, Delivered, Event, EventError, EventId, MessageData,
    Sender, TurnData, WireMessage, kind,
};
pub use key::{KeyError, PrivateKey, PublicKey, Secret};
pub use parts::{read_part, read_parts};
pub use report::{CaseReport, Outcome, Report, ReportError, Role, SignedReport};
pub use sign::{Signed, Signer, TOLERANCE, Verifier, VerifyError};

/// What the envelope says it is.
pub const SPEC: &str = "pcp/1";
/// The dated version that this code speaks.
pub const VERSION: &str = "2026-11-01";
/// Every dated version that is understood.
pub const VERSIONS: &[&str] = &[VERSION];
/// Bytes of an event's body at most.
pub const BODY_MAX: usize = 256 * 1024;
/// Bytes of a file at most.
pub const MEDIA_MAX: usize = 25 * 1024 * 1024;

/// Names of header lines.
pub mod header {
    /// The dated version.
    pub const VERSION: &str = "pcp-version";
    /// A hint at the key that signed; the receiver may ignore it.
    pub const KEY_ID: &str = "pcp-key-id";
    /// Stands on what is sent again after it was given up.
    pub const REPLAY: &str = "pcp-replay";
    /// The event's id: the same at each attempt.
    pub const ID: &str = "webhook-id";
    /// Unix seconds of the attempt.
    pub const TIMESTAMP: &str = "webhook-timestamp";
    /// The signatures, separated by spaces.
    pub const SIGNATURE: &str = "webhook-signature";
}
