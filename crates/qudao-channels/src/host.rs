//! The host of adapters: everything that an adapter does not do itself. It receives requests and
//! makes them, keeps to rates, holds tokens, and writes down what came and what went.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use moka::future::Cache;
use qudao_core::{
    Core,
    channel::{
        adapter::{ChannelAdapter, Token},
        session::SessionAdapter,
        setup::{OpenChannel, SetupError},
    },
};
use qudao_domain::{ChannelId, TenantId, state::ChannelKind};
use qudao_egress::Egress;
use qudao_storage::{Limiter, LimiterSettings, StorageError};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

mod codes;
mod connect;
mod deliver;
mod files;
mod mail;
mod passive;
mod poll;
mod preview;
mod receive;
mod requests;
mod session;
mod take;
mod upload;

pub use codes::PhoneWay;
pub use connect::ConnectError;
pub use deliver::HostedChannel;
pub use receive::{ReceiveError, Received};

use crate::email::Dialer;

/// How many access tokens a node remembers.
const TOKENS: u64 = 20_000;

/// The adapters of a node and what they need of the world.
pub struct Host {
    core: Arc<Core>,
    egress: Option<Egress>,
    /// For mail servers.
    dialer: Option<Dialer>,
    adapters: HashMap<ChannelKind, Arc<dyn ChannelAdapter>>,
    /// Those of them whose platform keeps a socket open.
    sessions: HashMap<ChannelKind, Arc<dyn SessionAdapter>>,
    limiter: Limiter,
    /// Access tokens by channel and the revision of its secrets.
    tokens: Cache<(ChannelId, i64), Arc<HeldToken>>,
    previews: preview::Previews,
    /// Requests with files that may be made now.
    uploads: Semaphore,
    runtime: Handle,
    closing: CancellationToken,
}

struct HeldToken {
    token: Token,
    until: tokio::time::Instant,
}

/// Something that the platform itself could not do; a later try may help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The channel's setup cannot be read.
    #[error(transparent)]
    Setup(#[from] Arc<SetupError>),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no such channel, or this node has no adapter for it.
    #[error("this node has no adapter for the channel")]
    NoAdapter,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// A host of these adapters. Call it within the runtime that does the background work. Without
    /// `egress` nothing can be requested: a machine without certificates of authorities.
    pub fn new(
        core: Arc<Core>,
        egress: Option<Egress>,
        adapters: impl IntoIterator<Item = Arc<dyn ChannelAdapter>>,
    ) -> Arc<Self> {
        let adapters = adapters.into_iter().map(|one| (one.manifest().kind, one)).collect();
        let limiter = Limiter::new(&core.bus, LimiterSettings::default());
        Arc::new(Self {
            core,
            dialer: mail::dialer(egress.as_ref()),
            egress,
            adapters,
            sessions: crate::sessions().into_iter().map(|one| (one.manifest().kind, one)).collect(),
            limiter,
            tokens: Cache::builder().max_capacity(TOKENS).build(),
            previews: preview::Previews::default(),
            uploads: Semaphore::new(upload::AT_A_TIME),
            runtime: Handle::current(),
            closing: CancellationToken::new(),
        })
    }

    /// The adapter of a kind of channel.
    pub fn adapter(&self, kind: ChannelKind) -> Option<&Arc<dyn ChannelAdapter>> {
        self.adapters.get(&kind)
    }

    /// What every kind of channel is called and which settings it has.
    pub fn kinds(&self) -> impl Iterator<Item = ChannelKind> {
        self.adapters.keys().copied()
    }

    /// The host's channels, for the outbox.
    pub fn channels(self: &Arc<Self>) -> Vec<Arc<dyn qudao_core::Channel>> {
        let hosted = self.adapters.keys().map(|kind| HostedChannel::new(Arc::clone(self), *kind));
        hosted.map(|channel| Arc::new(channel) as Arc<dyn qudao_core::Channel>).collect()
    }

    /// Starts no more polls and previews, and lets go of sockets.
    pub fn close(&self) {
        self.closing.cancel();
    }

    async fn open(
        &self,
        tenant_id: TenantId,
        channel_id: ChannelId,
    ) -> Result<(Arc<OpenChannel>, &Arc<dyn ChannelAdapter>), HostError> {
        let channel = self.core.channel_setup(tenant_id, channel_id).await?;
        let channel = channel.ok_or(HostError::NoAdapter)?;
        let adapter = self.adapters.get(&channel.kind).ok_or(HostError::NoAdapter)?;
        Ok((channel, adapter))
    }
}

/// The longest that a delivery waits within its own turn for a rate; a longer wait goes back into
/// the outbox.
const SHORT_WAIT: Duration = Duration::from_secs(2);
