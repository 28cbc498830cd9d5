//! What an operator may tune in the use cases. Every wait, retry and buffer has its bound here.

use std::time::Duration;

use qudao_domain::{Micros, routing::BreakerSettings};
use qudao_storage::{LimiterSettings, Rate};

/// Bounds of the use cases. The defaults suit a node of a few cores.
#[derive(Debug, Clone)]
pub struct CoreSettings {
    /// How a conversation's turn is run.
    pub turns: TurnSettings,
    /// How the OpenAI-compatible path is run.
    pub api: ApiSettings,
    /// How fast anybody may go.
    pub rates: RateSettings,
    /// How much may wait for an answer.
    pub backlog: BacklogSettings,
    /// How models are watched and tried.
    pub routing: RoutingSettings,
    /// How long a key's record may be served from memory. A revoked key works for that long at
    /// most; never more than one second.
    pub key_cache: Duration,
    /// How long the price book may be served from memory.
    pub price_cache: Duration,
    /// Where the world finds this installation, such as `https://chat.example`; without it no
    /// platform can be told where to send messages.
    pub public_url: Option<String>,
    /// Whether the operator set a mail server, so that mails can be promised.
    pub sends_mail: bool,
}

impl Default for CoreSettings {
    fn default() -> Self {
        Self {
            turns: TurnSettings::default(),
            api: ApiSettings::default(),
            rates: RateSettings::default(),
            backlog: BacklogSettings::default(),
            routing: RoutingSettings::default(),
            key_cache: Duration::from_secs(1),
            price_cache: Duration::from_secs(5),
            public_url: None,
            sends_mail: false,
        }
    }
}

/// Bounds of a conversation's turn.
#[derive(Debug, Clone)]
pub struct TurnSettings {
    /// How long a claim is good without a heartbeat.
    pub lease: Duration,
    /// How often a running turn extends its lease. Well below the lease.
    pub heartbeat: Duration,
    /// The longest a turn may take in all, however alive it looks.
    pub hard_cap: Duration,
    /// How long a turn waits for a model that is still loading before it counts as a failure.
    pub ready_wait: Duration,
    /// How old a message may become while its turn waits for a busy model, or for credits that
    /// others have set aside. From then on such a turn counts as a failed attempt.
    pub patience: Duration,
    /// How often a turn is tried before it is given up.
    pub max_attempts: u32,
    /// The longest wait before the second, third, … attempt; the real wait is drawn below it.
    pub backoff: Vec<Duration>,
    /// How many earlier messages a model sees.
    pub history_messages: u32,
    /// The longest reply, in tokens, unless the assistant asks for less.
    pub max_reply_tokens: u32,
    /// The shortest reply worth a model call, in tokens. A wallet that does not afford it gets a
    /// notice in its place.
    pub min_reply_tokens: u32,
    /// The least time between two preview messages of a turn.
    pub preview_interval: Duration,
}

impl Default for TurnSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            hard_cap: Duration::from_secs(300),
            ready_wait: Duration::from_secs(60),
            patience: Duration::from_secs(900),
            max_attempts: 3,
            backoff: [2, 10, 60].map(Duration::from_secs).to_vec(),
            history_messages: 40,
            max_reply_tokens: 1024,
            min_reply_tokens: 16,
            preview_interval: Duration::from_millis(20),
        }
    }
}

/// Bounds of the OpenAI-compatible path.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Calls that are open at the same time on this node.
    pub in_flight: usize,
    /// Calls of one tenant among them.
    pub tenant_in_flight: usize,
    /// The longest a call may take.
    pub timeout: Duration,
    /// The longest reply when the caller names none, in tokens.
    pub default_max_tokens: u32,
    /// How long a tenant's models and currency may be served from memory.
    pub profile_cache: Duration,
    /// How credits are drawn from the wallet.
    pub blocks: BlockSettings,
    /// How calls are settled together.
    pub settle: SettleSettings,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            in_flight: 2048,
            tenant_in_flight: 1536,
            timeout: Duration::from_secs(300),
            default_max_tokens: 1024,
            profile_cache: Duration::from_secs(1),
            blocks: BlockSettings::default(),
            settle: SettleSettings::default(),
        }
    }
}

/// How fast anybody may go; `None` is no limit, and costs nothing.
#[derive(Debug, Clone, Default)]
pub struct RateSettings {
    /// How it is counted.
    pub limiter: LimiterSettings,
    /// API calls of a key.
    pub key: Option<Rate>,
    /// API calls of a tenant.
    pub tenant: Option<Rate>,
    /// API calls of a tenant from one address.
    pub address: Option<Rate>,
    /// Tokens of a key's API calls: as many as a call may use are taken before it, and what it did
    /// not use returns.
    pub key_tokens: Option<Rate>,
    /// Tokens of a tenant's API calls.
    pub tenant_tokens: Option<Rate>,
    /// Messages of one visitor, who has one conversation in a channel.
    pub visitor: Option<Rate>,
    /// Messages to one channel from one address.
    pub chat_address: Option<Rate>,
    /// Messages to one assistant.
    pub assistant: Option<Rate>,
    /// Messages to one tenant.
    pub tenant_messages: Option<Rate>,
    /// Requests to the admin API with one key.
    pub admin: Option<Rate>,
    /// Requests to the admin API from one address.
    pub admin_address: Option<Rate>,
    /// Attempts to sign in to one account.
    pub sign_in: Option<Rate>,
    /// Attempts to sign in from one address.
    pub sign_in_address: Option<Rate>,
}

/// How many messages may wait for an answer before new ones are refused.
#[derive(Debug, Clone)]
pub struct BacklogSettings {
    /// Of one tenant.
    pub tenant: u32,
    /// Of all tenants.
    pub platform: u32,
    /// How often they are counted while messages come.
    pub count_every: Duration,
}

/// How models are watched and tried.
#[derive(Debug, Clone)]
pub struct RoutingSettings {
    /// When a model is left alone, and for how long.
    pub breaker: BreakerSettings,
    /// How often a node looks how a route's model on trial does, at most.
    pub judge_every: Duration,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self { breaker: BreakerSettings::default(), judge_every: Duration::from_secs(5) }
    }
}

/// Bounds of the credits that a node sets aside to spend from in memory.
#[derive(Debug, Clone)]
pub struct BlockSettings {
    /// How long a block is good without a renewal. After a crash its rest returns then.
    pub lease: Duration,
    /// How often open blocks are renewed. Well below the lease.
    pub renew: Duration,
    /// How many calls of the present size a refill should last for.
    pub calls: u32,
    /// A refill takes at most one part in this many of what the wallet has left.
    pub balance_parts: u32,
    /// A refill takes at most this much.
    pub max_refill: Micros,
    /// A block that served no call for this long is given back.
    pub idle: Duration,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            renew: Duration::from_secs(20),
            calls: 1024,
            balance_parts: 4,
            max_refill: Micros::new(1_000 * Micros::UNIT.get()),
            idle: Duration::from_secs(30),
        }
    }
}

/// Bounds of the group commit.
#[derive(Debug, Clone)]
pub struct SettleSettings {
    /// How many calls one commit settles at most.
    pub max_batch: usize,
    /// How long the first call of a batch waits for others that are under way.
    pub max_wait: Duration,
    /// How long a caller waits for its settlement before it is told that something is wrong.
    /// The settlement itself goes on.
    pub timeout: Duration,
}

impl Default for SettleSettings {
    fn default() -> Self {
        Self { max_batch: 64, max_wait: Duration::from_millis(2), timeout: Duration::from_secs(30) }
    }
}
