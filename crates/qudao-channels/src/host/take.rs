//! Messages that came in, and presses, which are answered like messages.

use std::{borrow::Cow, sync::Arc};

use qudao_core::{
    AcceptError, Joined, Piece, Sender, TooFast,
    channel::{
        event::{Event, EventBody},
        reference::{recalled, referred},
        setup::OpenChannel,
    },
    rates,
};
use qudao_domain::{
    AssistantId,
    key::SecretHash,
    message::{Message, TextFormat},
};
use qudao_storage::{Inbound, StorageError};
use qudao_telemetry::Trace;
use serde_json::json;

use super::{
    Host,
    files::without_inline,
    receive::{ReceiveError, Stood, clipped, inbound, kind_of},
};

/// The longest name of an album that is kept.
const ALBUM_MAX: usize = 100;

/// A message of an event, on its way into the inbox.
#[derive(Clone, Copy)]
struct Came<'a> {
    event: &'a Event,
    external_id: &'a str,
    message: &'a Message,
    /// What it is a piece of, and whether it is for the assistant by itself.
    album: Option<(&'a str, bool)>,
}

impl Host {
    /// What a button says that could not carry it, from the message that was sent.
    pub(super) async fn recall<'a>(
        &self,
        channel: &OpenChannel,
        event: &'a Event,
    ) -> Result<Cow<'a, Event>, StorageError> {
        let EventBody::Recalled { reference } = &event.body else {
            return Ok(Cow::Borrowed(event));
        };
        let mut body = EventBody::Lapsed;
        if let Some(outbox_id) = referred(reference) {
            let (config, thread) = (&channel.config, clipped(&event.thread.external_id));
            let mut tx = self.core.store.begin(config.tenant_id).await?;
            let sent = tx.message_sent_to(config.channel_id, &thread, outbox_id).await?;
            tx.commit().await?;
            if let Some(value) = sent.and_then(|sent| recalled(reference, &sent.parts)) {
                body = EventBody::Pressed { value };
            }
        }
        Ok(Cow::Owned(Event { body, ..event.clone() }))
    }

    pub(super) async fn take_event(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        event: &Event,
        origin: Trace,
    ) -> Result<(bool, Stood), ReceiveError> {
        let came = |external_id, message, album| Came { event, external_id, message, album };
        match &event.body {
            EventBody::Message { external_id, message } => {
                self.take_message(channel, came(external_id, message, None), origin).await
            }
            EventBody::Piece { external_id, message, album, addressed } => {
                let album = Some((album.as_str(), *addressed));
                self.take_message(channel, came(external_id, message, album), origin).await
            }
            EventBody::Pressed { value } => {
                let message = Message::text(TextFormat::Plain, value.clone());
                let id = format!("press:{}", event.id);
                self.take_message(channel, came(&id, &message, None), origin).await
            }
            _ => Ok((self.note(channel, event, kind_of(&event.body)).await?, None)),
        }
    }

    async fn take_message(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        came: Came<'_>,
        origin: Trace,
    ) -> Result<(bool, Stood), ReceiveError> {
        let event = came.event;
        let Some(assistant_id) = channel.assistant_id else {
            return Ok((self.note(channel, event, "no_assistant").await?, None));
        };
        let (message, inline) = without_inline(came.message);
        let Some(inbound) = inbound(channel, event, came.external_id, &message) else {
            return Ok((self.note(channel, event, "empty").await?, None));
        };
        // What is only overheard costs nobody anything.
        let asks = came.album.is_none_or(|(_, addressed)| addressed);
        let thread = &event.thread.external_id;
        if asks && let Err(error) = self.may_write(channel, assistant_id, thread).await {
            // One person who writes too fast must not hold up all others of a platform.
            if error.kind == rates::VISITOR {
                return Ok((self.note(channel, event, "too_fast").await?, None));
            }
            return Err(error.into());
        }
        let joined = match self.store(channel, came, inbound, origin).await {
            Ok(Joined::Accepted(joined)) => joined,
            Ok(Joined::Overheard { new }) => return Ok((new, None)),
            Err(AcceptError::NoFunds) => {
                return Ok((self.note(channel, event, "no_funds").await?, None));
            }
            Err(AcceptError::ChannelClosed) => {
                return Ok((self.note(channel, event, "channel_closed").await?, None));
            }
            Err(error) => return Err(error.into()),
        };
        let Some((accepted, _)) = joined.first() else { return Ok((false, None)) };
        let accepted = *accepted;
        if !accepted.duplicate {
            self.meet(channel, event).await?;
            self.keep_inline(channel, accepted, &message, inline).await;
        }
        for (accepted, parts) in joined {
            if !accepted.duplicate {
                self.copy_files(channel, accepted, &Message { parts, reply_to: None });
            }
        }
        Ok((!accepted.duplicate, Some(accepted)))
    }

    async fn store(
        self: &Arc<Self>,
        channel: &OpenChannel,
        came: Came<'_>,
        mut inbound: Inbound,
        origin: Trace,
    ) -> Result<Joined, AcceptError> {
        let tenant_id = channel.config.tenant_id;
        if let Some((album, addressed)) = came.album {
            inbound.body.album = Some(album.chars().take(ALBUM_MAX).collect());
            let event_id = clipped(&came.event.id);
            let piece = Piece { inbound, addressed, event_id };
            return self.core.accept_piece(tenant_id, piece, origin).await;
        }
        let parts = inbound.body.parts.clone();
        let accepted = self.core.accept_from(tenant_id, inbound, origin).await?;
        Ok(Joined::Accepted(vec![(accepted, parts)]))
    }

    async fn may_write(
        &self,
        channel: &OpenChannel,
        assistant_id: AssistantId,
        thread: &str,
    ) -> Result<(), TooFast> {
        // Redis need not know who writes.
        let peer = hex::encode(SecretHash::of(thread).as_bytes());
        let sender = Sender {
            tenant_id: channel.config.tenant_id,
            channel_id: channel.config.channel_id,
            assistant_id,
            peer: &peer,
            address: None,
        };
        self.core.may_write(sender).await.map(|_| ())
    }

    /// What an accepted message says of its sender.
    async fn meet(&self, channel: &OpenChannel, event: &Event) -> Result<(), StorageError> {
        let (config, thread) = (&channel.config, &event.thread.external_id);
        let mut tx = self.core.store.begin(config.tenant_id).await?;
        let (name, locale) = (event.sender.name.as_deref(), event.sender.locale.as_deref());
        tx.meet_identity(config.channel_id, thread, name, locale).await?;
        if let Some(attribution) = &event.attribution {
            tx.attribute(config.channel_id, thread, &json!(attribution)).await?;
        }
        tx.commit().await
    }
}
