//! Trying a channel's credentials, and telling its platform where to send messages.

use std::sync::Arc;

use qudao_core::channel::{adapter::ChannelAdapter, setup::OpenChannel};
use qudao_domain::{ChannelId, TenantId, state::ChannelKind};
use qudao_storage::StorageError;

use super::{Host, HostError, mail, requests::NoAnswer};

/// Why a channel is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// What is wrong and what to do, in words for the tenant.
    #[error("{0}")]
    Refused(String),
    /// The platform itself cannot try it now.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl From<StorageError> for ConnectError {
    fn from(error: StorageError) -> Self {
        HostError::from(error).into()
    }
}

impl Host {
    /// Tries a channel's credentials at its platform and tells it where to send messages. As whom
    /// the platform knows the channel, if it says so. What comes of it is kept with the channel.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        tenant_id: TenantId,
        channel_id: ChannelId,
    ) -> Result<Option<String>, ConnectError> {
        self.core.forget_channel(tenant_id, channel_id).await;
        let (channel, adapter) = self.open(tenant_id, channel_id).await?;
        self.drop_token(&channel).await;
        let tried = self.try_credentials(&channel, adapter).await;
        let mut tx = self.core.store.begin(tenant_id).await?;
        let outcome = tried.as_ref().map(Option::as_deref).map_err(String::as_str);
        tx.record_channel_connection(channel_id, outcome).await?;
        if tried.is_ok() {
            let asked = adapter.poll(&channel.config, None).is_some();
            let session = self.sessions.get(&channel.kind);
            let held = session.is_some_and(|session| session.is_held(&channel.config));
            let polled = asked || held || mail::is_fetched(&channel);
            tx.set_polled(channel_id, polled).await?;
        }
        tx.commit().await?;
        self.core.forget_channel(tenant_id, channel_id).await;
        tried.map_err(ConnectError::Refused)
    }

    async fn try_credentials(
        &self,
        channel: &OpenChannel,
        adapter: &Arc<dyn ChannelAdapter>,
    ) -> Result<Option<String>, String> {
        let config = &channel.config;
        adapter.check(config).map_err(|(field, fault)| format!("{field}: {fault}"))?;
        let mut account = None;
        if channel.kind == ChannelKind::Email {
            self.try_mailbox(config).await?;
            account = config.setting("address").map(str::to_owned);
        }
        for plan in adapter.connect(config) {
            let response =
                self.request(channel, &**adapter, &plan).await.map_err(|error| match error {
                    NoAnswer::Failed(why) => format!("the platform cannot be reached: {why}"),
                    other => other.to_string(),
                })?;
            account = adapter.connected(config, &plan, &response)?.or(account);
        }
        Ok(account)
    }
}
