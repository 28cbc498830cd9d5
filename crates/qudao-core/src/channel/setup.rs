//! Channels with their settings read and their secrets opened.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use qudao_domain::{AssistantId, ChannelId, TenantId, state::ChannelKind};
use qudao_storage::{ChannelSetup, StorageError};
use qudao_vault::Place;

use super::{config::ChannelConfig, secrets::Secrets};
use crate::{Core, vault::VaultError};

/// How long a setup is served from memory. A change takes effect within that time on every node.
const CACHED: Duration = Duration::from_secs(1);
/// How many setups are remembered.
const CACHE_SIZE: u64 = 20_000;

/// Where a channel's inbound address begins, after the platform's public address.
pub const INBOUND: &str = "/v1/inbound/";

/// A channel that can be worked with.
#[derive(Debug)]
pub struct OpenChannel {
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Whether messages are accepted.
    pub open: bool,
    /// Under which key strangers and platforms find it.
    pub public_key: Option<String>,
    /// Who answers; nobody on the API.
    pub assistant_id: Option<AssistantId>,
    /// Raised with each change.
    pub revision: i64,
    /// What its adapter works with.
    pub config: ChannelConfig,
}

/// Why a channel's setup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its secrets cannot be opened or sealed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Its secrets are not what was sealed.
    #[error("the secrets are not in the form in which they were sealed")]
    Malformed,
}

pub(crate) struct Setups(Cache<(TenantId, ChannelId), Option<Arc<OpenChannel>>>);

impl Setups {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(CACHE_SIZE).time_to_live(CACHED).build())
    }
}

impl Core {
    /// A channel's setup, as it was a second ago at the earliest; `None` if the channel is not
    /// this tenant's.
    ///
    /// # Errors
    /// [`SetupError`], shared by all who asked at the same moment.
    pub async fn channel_setup(
        &self,
        tenant_id: TenantId,
        id: ChannelId,
    ) -> Result<Option<Arc<OpenChannel>>, Arc<SetupError>> {
        let read = async {
            let mut tx = self.store.begin(tenant_id).await.map_err(SetupError::from)?;
            let setup = tx.channel_setup(id).await.map_err(SetupError::from)?;
            tx.commit().await.map_err(SetupError::from)?;
            let Some(setup) = setup else { return Ok(None) };
            Ok(Some(Arc::new(self.open_channel(tenant_id, id, setup).await?)))
        };
        self.setups.0.try_get_with((tenant_id, id), read).await
    }

    /// Where the world finds this installation, if it knows.
    pub fn public_url(&self) -> Option<&str> {
        self.settings.public_url.as_deref()
    }

    /// Forgets what is remembered of a channel, after it was changed on this node.
    pub async fn forget_channel(&self, tenant_id: TenantId, id: ChannelId) {
        self.setups.0.invalidate(&(tenant_id, id)).await;
    }

    async fn open_channel(
        &self,
        tenant_id: TenantId,
        id: ChannelId,
        setup: ChannelSetup,
    ) -> Result<OpenChannel, SetupError> {
        let secrets = match &setup.secrets_sealed {
            Some(sealed) => self.open_channel_secrets(tenant_id, id, sealed).await?,
            None => Secrets::default(),
        };
        let inbound_url = match (&self.settings.public_url, &setup.public_key) {
            (Some(url), Some(key)) => format!("{}{INBOUND}{key}", url.trim_end_matches('/')),
            _ => String::new(),
        };
        Ok(OpenChannel {
            kind: setup.kind,
            open: setup.open,
            public_key: setup.public_key,
            assistant_id: setup.assistant_id,
            revision: setup.revision,
            config: ChannelConfig {
                tenant_id,
                channel_id: id,
                locale: setup.locale,
                settings: setup.settings,
                secrets: secrets.valid(self.clock.now()),
                account: setup.account,
                inbound_url,
            },
        })
    }

    /// Opens a channel's secrets.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn open_channel_secrets(
        &self,
        tenant_id: TenantId,
        id: ChannelId,
        sealed: &[u8],
    ) -> Result<Secrets, SetupError> {
        let opened = self.vault.open(tenant_id, place(id), sealed).await?;
        serde_json::from_slice(opened.reveal()).map_err(|_| SetupError::Malformed)
    }

    /// Seals a channel's secrets.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn seal_channel_secrets(
        &self,
        tenant_id: TenantId,
        id: ChannelId,
        secrets: &Secrets,
    ) -> Result<Vec<u8>, SetupError> {
        let plain = serde_json::to_vec(secrets).map_err(|_| SetupError::Malformed)?;
        Ok(self.vault.seal(tenant_id, place(id), &plain).await?)
    }
}

fn place(id: ChannelId) -> Place {
    Place { table: "channels", column: "secrets_sealed", row: id.as_uuid() }
}
