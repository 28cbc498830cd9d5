//! How fast callers, visitors and administrators may go, and what a refusal tells them.
//!
//! All limits of one request are one decision: what one of them refuses is taken from none.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use qudao_domain::{ApiKeyId, AssistantId, ChannelId, TenantId, key::SecretHash};
use qudao_storage::{Bucket, Bus, Counted, Limiter, Owner, Rate, Standing, Verdict};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Core, settings::RateSettings};

/// Somebody goes too fast. Nothing was taken from any allowance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rate limit reached for this {}", words(.kind))]
pub struct TooFast {
    /// What is limited; see [`words`].
    pub kind: &'static str,
    /// When it will be allowed.
    pub retry_after: Duration,
    /// Where each allowance stands.
    pub standings: Vec<Standing>,
}

/// What a person calls a kind of bucket.
pub fn words(kind: &str) -> &'static str {
    match kind {
        KEY => "key",
        ADMIN => "key or member",
        SIGN_IN => "account",
        TENANT | TENANT_MESSAGES => "tenant",
        ADDRESS | CHAT_ADDRESS | ADMIN_ADDRESS | SIGN_IN_ADDRESS => "address",
        VISITOR | PARTNER_THREAD => "conversation",
        PARTNER => "channel",
        PROOF | MAIL => "visitor",
        PROOF_ADDRESS => "address",
        MAIL_TO => "recipient",
        ASSISTANT => "assistant",
        KEY_TOKENS => "key's tokens",
        TENANT_TOKENS => "tenant's tokens",
        _ => "caller",
    }
}

/// API calls of a key.
pub const KEY: &str = "key";
/// API calls of a tenant.
pub const TENANT: &str = "tenant";
/// API calls of a tenant from one address.
pub const ADDRESS: &str = "address";
/// Tokens of a key's API calls.
pub const KEY_TOKENS: &str = "key_tokens";
/// Tokens of a tenant's API calls.
pub const TENANT_TOKENS: &str = "tenant_tokens";
/// Messages of a conversation.
pub const VISITOR: &str = "visitor";
/// Messages to a channel from one address.
pub const CHAT_ADDRESS: &str = "chat_address";
/// Messages to an assistant.
pub const ASSISTANT: &str = "assistant";
/// Messages to a tenant.
pub const TENANT_MESSAGES: &str = "tenant_messages";
/// Requests to the admin API with one key.
pub const ADMIN: &str = "admin";
/// Requests to the admin API from one address.
pub const ADMIN_ADDRESS: &str = "admin_address";

/// Events of a partner's channel.
pub const PARTNER: &str = "partner_channel";
/// Events of one conversation of a partner.
pub const PARTNER_THREAD: &str = "partner_conversation";

/// Attempts to sign in to one account.
pub const SIGN_IN: &str = "sign_in";
/// Attempts to sign in from one address.
pub const SIGN_IN_ADDRESS: &str = "sign_in_address";

/// Tokens and codes that a visitor shows.
pub const PROOF: &str = "proof";
/// Tokens and codes that are shown, and mails that are asked for, from one address.
pub const PROOF_ADDRESS: &str = "proof_address";
/// Mails and codes that a visitor asks for.
pub const MAIL: &str = "mail";
/// Mails and codes to one recipient.
pub const MAIL_TO: &str = "mail_to";

/// A message on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// To whom.
    pub tenant_id: TenantId,
    /// Where.
    pub channel_id: ChannelId,
    /// To which assistant.
    pub assistant_id: AssistantId,
    /// Who writes, and so in which conversation.
    pub peer: &'a str,
    /// Where from, unless a platform brings everybody's messages from its own addresses.
    pub address: Option<IpAddr>,
}

/// The limits of a node.
pub(crate) struct Rates {
    limiter: Limiter,
    settings: RateSettings,
}

/// An API call to be let in.
pub(crate) struct Caller {
    pub(crate) tenant_id: TenantId,
    pub(crate) key_id: ApiKeyId,
    pub(crate) address: Option<IpAddr>,
}

/// Why an API call is not let in.
pub(crate) enum NotNow {
    TooFast(TooFast),
    /// It may use more tokens than are ever allowed at once.
    TooDear {
        burst: u32,
    },
}

/// What a call took from the allowances of tokens. What it does not use returns when this is
/// dropped.
pub(crate) struct TokenCharge {
    core: Arc<Core>,
    owner: Owner,
    buckets: Vec<Bucket>,
    counted: Counted,
}

impl Rates {
    pub(crate) fn new(bus: &Bus, settings: &RateSettings) -> Self {
        let limiter = Limiter::new(bus, settings.limiter.clone()).paying_ahead();
        Self { limiter, settings: settings.clone() }
    }

    async fn take(&self, owner: Owner, buckets: &[Bucket]) -> Result<Vec<Standing>, TooFast> {
        match self.limiter.take(owner, buckets).await {
            Verdict::Allowed { standings, .. } => Ok(standings),
            Verdict::Refused { kind, retry_after, standings } => {
                Err(TooFast { kind, retry_after, standings })
            }
            // Every bucket holds at least one.
            Verdict::TooDear { kind, .. } => {
                Err(TooFast { kind, retry_after: Duration::from_secs(1), standings: Vec::new() })
            }
        }
    }
}

/// Gives back what was paid for calls that did not come, until the core closes or is dropped.
pub(crate) async fn give_back_unused(core: Weak<Core>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(Limiter::UNUSED) => {}
        }
        let Some(core) = core.upgrade() else { return };
        core.rates.limiter.give_back_unused().await;
    }
}

impl Core {
    /// Takes one message from all allowances that it touches, and tells where they stand.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_write(&self, sender: Sender<'_>) -> Result<Vec<Standing>, TooFast> {
        let Sender { tenant_id, channel_id, assistant_id, peer, address } = sender;
        let settings = &self.rates.settings;
        let mut buckets = Vec::with_capacity(4);
        let mut add = |kind, rate: Option<Rate>, id: &dyn Fn() -> String| {
            buckets.extend(rate.map(|rate| Bucket::one(kind, id(), rate)));
        };
        add(VISITOR, settings.visitor, &|| peer.to_owned());
        if let Some(address) = address {
            let id = || format!("{}:{address}", channel_id.as_uuid());
            add(CHAT_ADDRESS, settings.chat_address, &id);
        }
        add(ASSISTANT, settings.assistant, &|| assistant_id.as_uuid().to_string());
        add(TENANT_MESSAGES, settings.tenant_messages, &String::new);
        self.rates.take(Owner::Tenant(tenant_id), &buckets).await
    }

    /// Takes one event from the allowances of a partner's channel and of its conversation: 50 and 5
    /// per second, 100 of each at once.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_report(
        &self,
        tenant_id: TenantId,
        channel_id: ChannelId,
        thread: &str,
    ) -> Result<Vec<Standing>, TooFast> {
        let channel = || channel_id.as_uuid().to_string();
        // Redis need not know whom a conversation is with.
        let hash = SecretHash::of(&format!("{}\n{thread}", channel_id.as_uuid()));
        let one = Rate::per_second(50, 100).map(|rate| Bucket::one(PARTNER, channel(), rate));
        let lane = Rate::per_second(5, 100).filter(|_| !thread.is_empty());
        let lane =
            lane.map(|rate| Bucket::one(PARTNER_THREAD, hex::encode(&hash.as_bytes()[..16]), rate));
        let buckets: Vec<_> = one.into_iter().chain(lane).collect();
        self.rates.take(Owner::Tenant(tenant_id), &buckets).await
    }

    /// Takes one attempt to prove who somebody is from the allowances of the visitor and of the
    /// address: 30 and 60 a minute.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_prove(&self, sender: Sender<'_>) -> Result<Vec<Standing>, TooFast> {
        let own = Rate::per_minute(30, 30).map(|rate| Bucket::one(PROOF, sender.peer, rate));
        let address = Rate::per_minute(60, 60)
            .zip(sender.address)
            .map(|(rate, address)| Bucket::one(PROOF_ADDRESS, address.to_string(), rate));
        let buckets: Vec<_> = own.into_iter().chain(address).collect();
        self.rates.take(Owner::Tenant(sender.tenant_id), &buckets).await
    }

    /// Takes one mail or code from the allowances of whoever asks for it, of their address, of
    /// whoever is to get it and of the tenant: 5 at once and 20 an hour, 20 and 60, 3 and 6, 200 and
    /// 1,000.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_mail(&self, sender: Sender<'_>, to: &str) -> Result<Vec<Standing>, TooFast> {
        // Redis need not know who gets mail.
        let to = hex::encode(&SecretHash::of(to).as_bytes()[..16]);
        let own = Rate::per_hour(20, 5).map(|rate| Bucket::one(MAIL, sender.peer, rate));
        let address = Rate::per_hour(60, 20).zip(sender.address);
        let address = address.map(|(rate, from)| {
            let from = format!("mail:{from}");
            Bucket::one(PROOF_ADDRESS, from, rate)
        });
        let to = Rate::per_hour(6, 3).map(|rate| Bucket::one(MAIL_TO, to, rate));
        let tenant = Rate::per_hour(1000, 200).map(|rate| Bucket::one(MAIL, "", rate));
        let buckets: Vec<_> = own.into_iter().chain(address).chain(to).chain(tenant).collect();
        self.rates.take(Owner::Tenant(sender.tenant_id), &buckets).await
    }

    /// Takes one attempt to sign in from the allowances of the account and of the address. The
    /// address's is the smaller one, so that a stranger who guesses is stopped before the owner is.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_sign_in(
        &self,
        tenant_id: TenantId,
        account: &str,
        address: IpAddr,
    ) -> Result<Vec<Standing>, TooFast> {
        let settings = &self.rates.settings;
        // Redis need not know who signs in.
        let account = || hex::encode(&SecretHash::of(account).as_bytes()[..16]);
        let own = settings.sign_in.map(|rate| Bucket::one(SIGN_IN, account(), rate));
        let address = settings
            .sign_in_address
            .map(|rate| Bucket::one(SIGN_IN_ADDRESS, address.to_string(), rate));
        let buckets: Vec<_> = own.into_iter().chain(address).collect();
        self.rates.take(Owner::Tenant(tenant_id), &buckets).await
    }

    /// Takes one request to the admin API from the allowances of its key or member and of its
    /// address. `who` is `None` for the operator.
    ///
    /// # Errors
    /// [`TooFast`].
    pub async fn may_administer(
        &self,
        who: Option<(TenantId, Uuid)>,
        address: IpAddr,
    ) -> Result<Vec<Standing>, TooFast> {
        let settings = &self.rates.settings;
        let owner = who.map_or(Owner::Platform, |(tenant, _)| Owner::Tenant(tenant));
        let id = || who.map_or_else(|| "operator".to_owned(), |(_, who)| who.to_string());
        let own = settings.admin.map(|rate| Bucket::one(ADMIN, id(), rate));
        let address = settings
            .admin_address
            .map(|rate| Bucket::one(ADMIN_ADDRESS, address.to_string(), rate));
        let buckets: Vec<_> = own.into_iter().chain(address).collect();
        self.rates.take(owner, &buckets).await
    }

    /// Whether calls are limited by their tokens, so that their size has to be known.
    pub(crate) fn counts_tokens(&self) -> bool {
        let settings = &self.rates.settings;
        settings.key_tokens.is_some() || settings.tenant_tokens.is_some()
    }

    /// Takes one API call of at most `tokens` from all allowances that it touches.
    pub(crate) async fn may_call(
        self: &Arc<Self>,
        caller: &Caller,
        tokens: u32,
    ) -> Result<(Vec<Standing>, Option<TokenCharge>), NotNow> {
        let settings = &self.rates.settings;
        let owner = Owner::Tenant(caller.tenant_id);
        let key = || caller.key_id.as_uuid().to_string();
        let mut buckets = Vec::new();
        buckets.extend(settings.key.map(|rate| Bucket::one(KEY, key(), rate)));
        buckets.extend(settings.tenant.map(|rate| Bucket::one(TENANT, "", rate)));
        if let (Some(rate), Some(address)) = (settings.address, caller.address) {
            buckets.push(Bucket::one(ADDRESS, address.to_string(), rate));
        }
        let requests = buckets.len();
        let of = |kind, id, rate| Bucket { kind, id, rate, cost: tokens };
        buckets.extend(settings.key_tokens.map(|rate| of(KEY_TOKENS, key(), rate)));
        buckets.extend(settings.tenant_tokens.map(|rate| of(TENANT_TOKENS, String::new(), rate)));
        match self.rates.limiter.take(owner, &buckets).await {
            Verdict::Allowed { standings, counted } => {
                let buckets = buckets.split_off(requests);
                let charge = (!buckets.is_empty() && tokens != 0).then(|| TokenCharge {
                    core: Arc::clone(self),
                    owner,
                    buckets,
                    counted,
                });
                Ok((standings, charge))
            }
            Verdict::Refused { kind, retry_after, standings } => {
                Err(NotNow::TooFast(TooFast { kind, retry_after, standings }))
            }
            Verdict::TooDear { burst, .. } => Err(NotNow::TooDear { burst }),
        }
    }
}

impl TokenCharge {
    /// Keeps what the call used.
    pub(crate) fn used(&mut self, tokens: u32) {
        for bucket in &mut self.buckets {
            bucket.cost = bucket.cost.saturating_sub(tokens);
        }
    }
}

impl Drop for TokenCharge {
    fn drop(&mut self) {
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.retain(|bucket| bucket.cost != 0);
        if buckets.is_empty() {
            return;
        }
        let (core, owner, counted) = (Arc::clone(&self.core), self.owner, self.counted);
        self.core.spawn(async move {
            core.rates.limiter.give_back(owner, &buckets, counted).await;
        });
    }
}
