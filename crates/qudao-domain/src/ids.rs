//! Typed ids. Text form is a prefix and 32 hexadecimal digits, so that an id of one kind
//! in the place of another does not parse and is answered like an unknown id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A text is not an id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_<32 hexadecimal digits>")]
pub struct ParseIdError {
    /// The prefix that the id would have had.
    pub prefix: &'static str,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id that sorts after the ones made before it.
            #[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
            #[expect(clippy::new_without_default, reason = "a default id would be a surprise")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with this value, as the database keeps it.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The value, as the database keeps it.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Accepts exactly what `Display` writes: other spellings of a UUID are not ids.
fn parse(text: &str, prefix: &'static str) -> Result<Uuid, ParseIdError> {
    let error = ParseIdError { prefix };
    let hex = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(error)?;
    let lower = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex.len() != 32 || !lower {
        return Err(error);
    }
    Uuid::try_parse(hex).map_err(|_| error)
}

id_type!(/** A business on the platform; owns everything below it. */ TenantId, "ten");
id_type!(/** A messaging surface of a tenant. */ ChannelId, "chn");
id_type!(/** A tenant's persona. */ AssistantId, "ast");
id_type!(/** Which models may serve, in which order. */ RouteId, "rte");
id_type!(/** An end user. */ ContactId, "cnt");
id_type!(/** Two contacts that turned out to be one person. */ MergeId, "mrg");
id_type!(/** An address that somebody says is theirs, and the code that was sent there. */ ClaimId, "clm");
id_type!(/** A mail of the platform itself. */ MailId, "eml");
id_type!(/** One thread of a contact on a channel. */ ConversationId, "cnv");
id_type!(/** One or more unanswered messages and the reply to them; the unit of charge. */ TurnId, "trn");
id_type!(/** A credential of a tenant for the HTTP API. */ ApiKeyId, "key");
id_type!(/** A person who works for a tenant. */ MemberId, "mbr");
id_type!(/** A way in for somebody who is not a member yet. */ InvitationId, "inv");
id_type!(/** A member who is signed in. */ SessionId, "ses");
id_type!(/** A role that a tenant made up. */ RoleId, "rol");
id_type!(/** A service that a tenant lets its members sign in with. */ IdentityProviderId, "idp");
id_type!(/** One message on its way out. */ OutboxId, "out");
id_type!(/** A copy of a file that came in or goes out. */ MediaId, "upl");
id_type!(/** A group of ledger entries that sums to zero. */ LedgerTxnId, "txn");
id_type!(/** One line of the ledger. */ EntryId, "ent");
id_type!(/** Credits that a node reserved to spend from in memory. */ BlockId, "blk");
id_type!(/** One call of a model. */ AttemptId, "att");
id_type!(/** What a route decided about a turn or a call. */ DecisionId, "dec");
id_type!(/** One running process of the platform. */ NodeId, "nod");

impl TurnId {
    /// The turn that answers the messages of a conversation from `first_seq` on.
    ///
    /// Deterministic, so that a worker that takes over a dead one's conversation finds the hold
    /// that was already taken instead of taking another.
    pub fn derive(conversation_id: ConversationId, first_seq: i64) -> Self {
        let mut hash = Sha256::new();
        hash.update(conversation_id.as_uuid().as_bytes());
        hash.update(first_seq.to_be_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// A call that a turn makes beside its answer, such as a look at the picture that is part `place`
    /// of message `seq`. Deterministic, so that a turn that begins anew does not pay for it again.
    pub fn beside(conversation_id: ConversationId, seq: i64, place: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"beside");
        hash.update(conversation_id.as_uuid().as_bytes());
        hash.update(seq.to_be_bytes());
        hash.update(place.to_be_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// A call that is made for this turn or call, such as the question how its messages sound.
    /// Deterministic as [`Self::beside`] is.
    #[must_use]
    pub fn aside(self, purpose: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"aside");
        hash.update(self.as_uuid().as_bytes());
        hash.update(purpose.as_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests;
