//! The nouns of Qudao as types: ids, money, texts, states. No I/O, no async.

pub mod access;
pub mod address;
pub mod capability;
pub mod clock;
pub mod ids;
pub mod key;
pub mod message;
pub mod money;
pub mod render;
pub mod routing;
pub mod state;
pub mod text;

pub use clock::{Clock, SystemClock};
pub use ids::{
    ApiKeyId, AssistantId, AttemptId, BlockId, ChannelId, ClaimId, ContactId, ConversationId,
    DecisionId, EntryId, IdentityProviderId, InvitationId, LedgerTxnId, MailId, MediaId, MemberId,
    MergeId, NodeId, OutboxId, RoleId, RouteId, SessionId, TenantId, TurnId,
};
pub use money::{Currency, Micros, MoneyError};
