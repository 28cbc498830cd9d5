//! Why a request was not made, or has no answer.

/// An address that is refused before anything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No address, or one about which readers differ.
    #[error(
        "not a plain address: write it as `https://host/path`, without spaces, backslashes, escapes in the host or a part after `#`"
    )]
    Malformed,
    /// More than 2,048 bytes.
    #[error("the address is longer than 2048 bytes")]
    TooLong,
    /// Not https.
    #[error("only https addresses are requested")]
    SchemeNotAllowed,
    /// A port that is not on the operator's list.
    #[error(
        "this port is not requested; ask the operator which are (443 and 8443, if nothing else was set)"
    )]
    PortNotAllowed,
    /// A name or password in the address.
    #[error("the address holds a name or password; leave them out and use a header")]
    HasUserInfo,
    /// The host is not on the public internet, or nowhere. One wording for both: who asks must not
    /// learn which internal addresses exist.
    #[error("the host has no public address; only hosts on the public internet are requested")]
    AddressNotPublic,
}

impl Refusal {
    /// A word for programs, which does not change.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "url_malformed",
            Self::TooLong => "url_too_long",
            Self::SchemeNotAllowed => "scheme_not_allowed",
            Self::PortNotAllowed => "port_not_allowed",
            Self::HasUserInfo => "has_user_info",
            Self::AddressNotPublic => "address_not_public",
        }
    }
}

/// A request that has no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The address is refused; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It answered that the thing is elsewhere. That place is not requested.
    #[error("the host answered {status}: it redirects; give the address that it leads to")]
    Redirected {
        /// Its status.
        status: u16,
    },
    /// No whole answer in time.
    #[error("no whole answer came within {after_ms} ms")]
    TimedOut {
        /// The time that it had, in milliseconds.
        after_ms: u64,
    },
    /// No connection, none that TLS accepts, or one that broke.
    #[error("the host could not be reached, or the connection broke")]
    Unreachable(#[source] reqwest::Error),
    /// More than the bound.
    #[error("the answer has more than {cap} bytes")]
    TooManyBytes {
        /// The bound.
        cap: usize,
    },
    /// The body is packed although that was not asked for. It is not unpacked: a few kilobytes may
    /// become gigabytes.
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
    /// A status other than success, where an answer was to be read.
    #[error("the host answered {status}")]
    Status {
        /// Its status.
        status: u16,
    },
    /// Not the JSON that was asked for.
    #[error("the answer is not the JSON that was expected")]
    NotJson(#[source] serde_json::Error),
    /// The caller built a request that cannot be sent.
    #[error("the request cannot be sent")]
    Unsendable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl EgressError {
    /// Every word that [`EgressError::code`] may say.
    pub(crate) const CODES: &[&str] = &[
        "url_malformed",
        "url_too_long",
        "scheme_not_allowed",
        "port_not_allowed",
        "has_user_info",
        "address_not_public",
        "redirected",
        "timed_out",
        "unreachable",
        "too_many_bytes",
        "encoded",
        "status",
        "not_json",
        "unsendable",
    ];

    /// A word for programs, which does not change.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Redirected { .. } => "redirected",
            Self::TimedOut { .. } => "timed_out",
            Self::Unreachable(_) => "unreachable",
            Self::TooManyBytes { .. } => "too_many_bytes",
            Self::Encoded => "encoded",
            Self::Status { .. } => "status",
            Self::NotJson(_) => "not_json",
            Self::Unsendable(_) => "unsendable",
        }
    }

    /// Whether the same request may succeed later. A host without a public address may have had
    /// no answer from the name servers, which cannot be told apart.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Unreachable(_) => true,
            Self::Refused(refusal) => *refusal == Refusal::AddressNotPublic,
            Self::Status { status } => matches!(status, 408 | 425 | 429 | 500..),
            Self::Redirected { .. }
            | Self::TooManyBytes { .. }
            | Self::Encoded
            | Self::NotJson(_)
            | Self::Unsendable(_) => false,
        }
    }
}
