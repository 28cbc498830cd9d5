//! Bounds on what clients and models may use.

use schemars::JsonSchema;
use serde::Deserialize;

/// Bounds on what clients and models may use.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls of `/v1/chat/completions` per second and key over time; 0 for no limit.
    pub requests_per_second: u32,
    /// Calls that a key may make at once before the rate counts.
    pub burst: u32,
    /// Calls of all keys of a tenant per second over time; 0 for no limit.
    pub tenant_requests_per_second: u32,
    /// Calls that a tenant may make at once before the rate counts.
    pub tenant_burst: u32,
    /// Calls of a tenant from one address per second over time; 0 for no limit.
    pub address_requests_per_second: u32,
    /// Calls that may be made from it at once before the rate counts.
    pub address_request_burst: u32,
    /// Tokens of a key's calls per minute, and at once; 0 for no limit. As many as a call may use
    /// are taken before it (a token for each byte of the messages, and `max_tokens`), and what it
    /// did not use returns after it. A call that may use more is refused for good.
    pub key_tokens_per_minute: u32,
    /// The same for all calls of a tenant.
    pub tenant_tokens_per_minute: u32,
    /// Messages that one visitor of a web chat, who has one conversation, may write per minute over
    /// time; 0 for no limit.
    pub visitor_messages_per_minute: u32,
    /// Messages that a visitor may write at once before the rate counts.
    pub visitor_burst: u32,
    /// Messages that all visitors at one address may write per minute to one channel over time; 0
    /// for no limit. A visitor's token is made by the browser, so this is what stops a script that
    /// makes new ones. The address is that of the connection, and behind a proxy on the same
    /// machine the last one in `X-Forwarded-For`. Behind a proxy elsewhere all visitors have the
    /// proxy's: limit there, set 0 here.
    pub address_messages_per_minute: u32,
    /// Messages that they may write at once before the rate counts.
    pub address_burst: u32,
    /// Messages to one assistant per minute over time; 0 for no limit.
    pub assistant_messages_per_minute: u32,
    /// Messages that may be written to it at once before the rate counts.
    pub assistant_burst: u32,
    /// Messages to one tenant per minute over time; 0 for no limit.
    pub tenant_messages_per_minute: u32,
    /// Messages that may be written to it at once before the rate counts.
    pub tenant_message_burst: u32,
    /// Requests to the admin API per minute and key, the operator's included; 0 for no limit.
    pub admin_requests_per_minute: u32,
    /// Requests that a key may make at once before the rate counts.
    pub admin_burst: u32,
    /// Requests to the admin API per minute from one address, apart for each tenant; 0 for no
    /// limit.
    pub admin_address_requests_per_minute: u32,
    /// Requests that may be made from it at once before the rate counts.
    pub admin_address_burst: u32,
    /// Attempts per minute to sign in to one account; 0 for no limit.
    pub sign_in_attempts_per_minute: u32,
    /// Attempts at once before the rate counts.
    pub sign_in_burst: u32,
    /// Attempts per minute to sign in from one address, apart for each tenant; 0 for no limit. Keep
    /// it below the account's, or a stranger who guesses locks the owner out.
    pub address_sign_in_attempts_per_minute: u32,
    /// Attempts from it at once before the rate counts.
    pub address_sign_in_burst: u32,
    /// Nodes that share these rates. They count together in Redis; while it is away each allows its
    /// part.
    pub nodes: u32,
    /// Milliseconds that an answer of Redis is waited for before a node counts alone.
    pub redis_patience_ms: u64,
    /// Milliseconds that Redis is left alone after that.
    pub redis_rest_ms: u64,
    /// API calls that are open at the same time on this node; what is over it is answered with 503.
    pub calls_in_flight: usize,
    /// API calls of one tenant among them; what is over it is answered with 429. 0 for three
    /// quarters.
    pub tenant_calls_in_flight: usize,
    /// Unanswered messages of a tenant; new ones are answered with 429 until they are fewer.
    pub tenant_backlog: u32,
    /// Unanswered messages of all tenants; new ones are answered with 503 until they are fewer.
    pub platform_backlog: u32,
    /// Kibibytes of a body of the admin and chat endpoints.
    pub body_kib: usize,
    /// Kibibytes of a body of `/v1/chat/completions`, which may carry images.
    pub completion_body_kib: usize,
    /// The longest reply in a conversation, in tokens.
    pub max_reply_tokens: u32,
    /// The longest reply to an API call that names no limit, in tokens.
    pub default_max_tokens: u32,
    /// Earlier messages of a conversation that a model sees.
    pub history_messages: u32,
    /// Seconds that a turn may take in all.
    pub turn_timeout_s: u64,
    /// Seconds that an API call may take in all.
    pub call_timeout_s: u64,
    /// API calls that one commit settles at most.
    pub settle_batch: usize,
    /// Seconds that a caller waits for the settlement before it is told that something is wrong.
    pub settle_timeout_s: u64,
    /// Seconds after which credits that a node had set aside for API calls return if it died.
    pub block_lease_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: 0,
            burst: 64,
            tenant_requests_per_second: 0,
            tenant_burst: 256,
            address_requests_per_second: 0,
            address_request_burst: 128,
            key_tokens_per_minute: 0,
            tenant_tokens_per_minute: 0,
            visitor_messages_per_minute: 60,
            visitor_burst: 30,
            address_messages_per_minute: 600,
            address_burst: 300,
            assistant_messages_per_minute: 0,
            assistant_burst: 300,
            tenant_messages_per_minute: 0,
            tenant_message_burst: 1000,
            admin_requests_per_minute: 6000,
            admin_burst: 1000,
            admin_address_requests_per_minute: 0,
            admin_address_burst: 1000,
            sign_in_attempts_per_minute: 30,
            sign_in_burst: 60,
            address_sign_in_attempts_per_minute: 10,
            address_sign_in_burst: 20,
            nodes: 1,
            redis_patience_ms: 50,
            redis_rest_ms: 250,
            calls_in_flight: 2048,
            tenant_calls_in_flight: 0,
            tenant_backlog: 10_000,
            platform_backlog: 100_000,
            body_kib: 256,
            completion_body_kib: 20_480,
            max_reply_tokens: 1024,
            default_max_tokens: 1024,
            history_messages: 40,
            turn_timeout_s: 300,
            call_timeout_s: 300,
            settle_batch: 64,
            settle_timeout_s: 30,
            block_lease_s: 60,
        }
    }
}
