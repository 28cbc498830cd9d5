//! Everything Qudao keeps: Postgres, the system of record and the only queue; and Redis, which
//! carries hints, previews and rates and may vanish at any moment. No other crate names sqlx or redis.
//!
//! The one way to a tenant's rows is [`Store::begin`]: a transaction in which row-level security
//! shows that tenant alone. Steps that find work across tenants go through [`Store`] itself and
//! return ids only; the work is then done inside the tenant's transaction.

mod accept;
mod admin;
mod audit;
mod block;
mod bus;
mod channel;
mod check;
mod claim;
mod decisions;
mod depths;
mod error;
mod keys;
mod limiter;
mod mails;
mod media;
mod metrics;
mod once;
mod outbox;
mod page;
mod partner;
mod people;
mod pieces;
mod prices;
mod reading;
mod row;
mod sealed;
mod servers;
mod statements;
mod store;
mod timeline;
mod traffic;
mod turn;
mod visitors;

pub use accept::{Accept, Inbound, MessageBody, ReplyBody};
pub use admin::{
    api_keys::{ApiKeyRecord, KeyHolder, NewApiKey},
    assistants::{Assistant, NewAssistant, NewRoute, Route, RouteChange},
    channel_setups::ChannelSetup,
    channels::{
        ChannelActivity, ChannelChange, ChannelDoor, ChannelRecord, NewChannel, SealedSecrets,
    },
    identity_providers::{IdentityProvider, NewIdentityProvider},
    invitations::{Invitation, NewInvitation},
    members::{Lock, Member, NewMember},
    roles::{CustomRole, MemberRole},
    sessions::{NewSession, SessionHolder, SessionRecord, SignIn},
    tenants::{CreditOutcome, CreditSource, NewCredit, NewTenant, ReverseOutcome, Tenant, Wallet},
};
pub use audit::{
    AuditEvent, AuditFault, AuditHead, AuditRecord, AuditReport, AuditSigner, KnownHead, SignedHead,
};
pub use block::{Extend, Settle, Swept, UsageLine};
pub use bus::{Bus, BusEvent, OpenBreaker, Subscription, Topic};
pub use channel::{AnsweredMessage, ChannelEvent, Poll, SentPiece};
pub use check::{Finding, Scope, UNCHECKED, Unchecked};
pub use claim::{Claim, Message, PastMessage, Shares, Speaker, TurnAssistant, TurnContext};
pub use decisions::{DecisionFilter, DecisionRecord, NewDecision, Outcome, ShadowRun};
pub use error::{BusUrlError, StorageError};
pub use keys::{AddKey, MasterKeyRecord, WrappedKey};
pub use limiter::{Bucket, Counted, Limiter, LimiterSettings, Owner, Rate, Standing, Verdict};
pub use mails::{MailClaim, NewMail};
pub use media::{MediaFacts, MediaFile, NewMedia};
pub use metrics::METRICS;
pub use once::{Found, KeptCall, KeptReply, Once, Ticket};
pub use outbox::{OutboxClaim, OutboxKind, PassiveReply};
pub use page::{Listing, Page};
pub use partner::{
    KnownInbound, NewPartnerEvent, PartnerChannel, PartnerClaim, PartnerEnd, PartnerEvent,
    PartnerState, PartnerThread,
};
pub use people::{
    Calling, ClaimKind, Contact, ContactClaim, Erase, Evidence, Export, ExportOf, ExportedRows,
    Fence, Identity, Link, Merge, Merged, NewClaimCode, NewMerge, Proof, Proven, TABLES, TableRule,
    TriedCode, Unfinished,
};
pub use prices::{ModelPrice, PriceRow};
pub use reading::{Conversation, LedgerEntry, UsageRecord};
pub use sealed::{SEALED, SealedColumn};
pub use statements::connect_here;
pub use store::{PlatformTx, Store, StoreSettings, Tx};
pub use timeline::{TimelineCursor, TimelineItem, TimelineRole};
pub use traffic::{ModelTraffic, PassedOver, RuleTraffic, Traffic};
pub use turn::{Commit, CommitTurn, EndTurn, Hold, HoldTurn};
pub use visitors::{NewUpload, Rating, RatingCount, UploadedBytes};

/// What a storage function returns.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
