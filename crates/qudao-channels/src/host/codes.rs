//! Codes that go to telephone numbers: beside any conversation, so that they stand in none.

use qudao_core::{
    DeliverError,
    channel::{
        adapter::{ChannelAdapter, Outgoing},
        plan::{Plan, RawResponse},
        setup::OpenChannel,
    },
};
use qudao_domain::{
    ChannelId, MailId, TenantId,
    address::Phone,
    message::{Message, TextFormat},
};

use super::{Host, HostError, requests::NoAnswer};
use crate::letters::outcome;

/// How a telephone number is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneWay {
    /// Over which channel.
    pub channel_id: ChannelId,
    /// As whom the channel knows the number.
    pub peer: String,
}

impl Host {
    /// How a tenant reaches telephone numbers; `None` if it has no channel that does. Whether
    /// anybody has the number is not looked at.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn way_to_phone(
        &self,
        tenant_id: TenantId,
        phone: &Phone,
    ) -> Result<Option<PhoneWay>, HostError> {
        let reaching = self.adapters.values().filter(|adapter| adapter.reaches_phones());
        for adapter in reaching {
            let kind = adapter.manifest().kind;
            let mut tx = self.core.store.begin(tenant_id).await?;
            let found = tx.open_channel_of(kind).await?;
            tx.commit().await?;
            let Some(channel_id) = found else { continue };
            let (channel, adapter) = self.open(tenant_id, channel_id).await?;
            if let Some(peer) = adapter.phone_peer(&channel.config, phone.digits()) {
                return Ok(Some(PhoneWay { channel_id, peer }));
            }
        }
        Ok(None)
    }

    /// Sends a code over a channel: in the platform's own form for codes if the channel has one, as
    /// plain words if not.
    pub(crate) async fn send_code(
        &self,
        (tenant_id, channel_id): (TenantId, ChannelId),
        peer: &str,
        id: MailId,
        (code, text): (&str, &str),
    ) -> Result<(), DeliverError> {
        let opened = self.open(tenant_id, channel_id).await;
        let (channel, adapter) = opened.map_err(|error| DeliverError::retry(error.to_string()))?;
        if !channel.open {
            return Err(DeliverError::refused("the channel is closed"));
        }
        let (config, id) = (&channel.config, id.to_string());
        let message = Message::text(TextFormat::Plain, text.to_owned());
        let out = Outgoing {
            id: &id,
            piece: 0,
            thread: peer,
            message: &message,
            answered: None,
            preview_id: None,
            now: self.core.clock.now(),
        };
        let plans = match adapter.code(config, peer, code) {
            Some(plan) => vec![plan],
            None => adapter
                .render(config, &out)
                .map_err(|failure| DeliverError::refused(failure.to_string()))?,
        };
        for plan in &plans {
            let answer = self.answer_to_code(&channel, &**adapter, plan).await;
            let answer = answer.map_err(|error| DeliverError::retry(error.to_string()))?;
            outcome(adapter.classify(config, plan, &answer))?;
        }
        Ok(())
    }

    async fn answer_to_code(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        plan: &Plan,
    ) -> Result<RawResponse, NoAnswer> {
        match plan {
            Plan::Http(plan) => self.request(channel, adapter, plan).await,
            Plan::Mail(mail) => self.send_mail(mail).await,
            Plan::Passive => Err(NoAnswer::Impossible("the channel cannot begin".to_owned())),
        }
    }
}
