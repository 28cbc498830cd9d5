//! The web chat. Its visitors read from the database, so delivering means telling those who watch
//! that there is something to read; those who do not watch find it when they come back.

mod site_token;
mod widget;

pub use site_token::{MAX_CHARS as TOKEN_MAX, SiteToken, TokenFault};
pub use widget::{MANIFEST, Origin, Side, WidgetSettings};

use async_trait::async_trait;
use qudao_core::{Channel, DeliverError, PreviewEvent};
use qudao_domain::state::ChannelKind;
use qudao_storage::{Bus, OutboxClaim, Topic};

/// The web chat as the outbox sees it.
#[derive(Clone)]
pub struct WebChannel {
    bus: Bus,
}

impl WebChannel {
    /// A channel that tells watchers over this bus.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }
}

#[async_trait]
impl Channel for WebChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Web
    }

    /// Never fails: the message was durable before, and whoever misses the hint polls.
    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError> {
        let hint = PreviewEvent::Message { out_seq: message.out_seq };
        self.bus.publish(&Topic::Preview(message.conversation_id), hint.to_bytes()).await;
        Ok(())
    }
}
