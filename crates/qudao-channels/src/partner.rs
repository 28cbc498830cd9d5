//! Channels of partners, over the partner channel protocol (PCP/1). What a conversation is told goes
//! into the channel's log; from there the [`Postman`] sends it to the partner's endpoint, or the
//! partner reads it, by one envelope and one cursor.

use std::sync::Arc;

use async_trait::async_trait;
use qudao_core::{
    Channel, Core, DeliverError,
    channel::config::{Field, FieldForm, Manifest},
};
use qudao_domain::{
    capability::Capabilities,
    message::{Message, Part, TextFormat},
    state::ChannelKind,
};
use qudao_storage::{OutboxClaim, OutboxKind, StorageError, Topic};
use serde_json::Value;

mod courier;
mod keys;
mod media;
mod metrics;
mod postman;
mod queue;
mod receive;
mod rules;
mod sandbox;

use queue::say_with;

pub use courier::{Courier, Posted};
pub use keys::{
    Keys, NewKeys, PUBLIC_KEY, SIGNING_KEY, SIGNING_SECRET, drop_keys, keep_keys, rotate,
    set_endpoint,
};
pub use media::{MEDIA_GOOD_FOR, MediaLink};
pub use metrics::METRICS;
pub use postman::{Postman, PostmanHandle};
pub use queue::{Asked, Place, Say, announce, say};
pub use receive::{Received, Refused, Setting, receive};
pub use rules::{BREAKER, GOOD_FOR};
pub use sandbox::Refusal;

/// Which settings a partner's channel has. The endpoint's address comes from here and never from a
/// message.
pub const MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Partner,
    name: "Partner (PCP/1)",
    name_zh: "合作伙伴（PCP/1）",
    fields: &[
        Field::text("endpoint_url", "Endpoint", "接收地址").optional().form(FieldForm::Url).help(
            "Where events are sent, over https. Not needed to read them over SSE or by pulling.",
        ),
        Field::text("transport", "Transport", "传输方式")
            .optional()
            .form(FieldForm::Choice(&["webhook", "sse", "pull"])),
        Field::text("contact_email", "Whom to write to", "联系邮箱")
            .optional()
            .form(FieldForm::Text(254))
            .help("Gets a mail when the endpoint keeps failing and is paused."),
        Field::secret(SIGNING_SECRET, "Signing secret", "签名密钥").optional(),
        Field::secret(SIGNING_KEY, "Private signing key", "签名私钥").optional(),
        Field::secret(PUBLIC_KEY, "The partner's public key", "合作伙伴公钥").optional(),
    ],
    webhook: false,
};

/// What a partner declares, as far as it can be read.
pub fn capabilities(declared: &Value) -> Capabilities {
    serde_json::from_value(declared.clone()).unwrap_or_default()
}

/// Partners' channels as the outbox sees them.
pub struct PartnerChannel {
    core: Arc<Core>,
}

impl PartnerChannel {
    /// A channel that writes into the logs of this platform's partners.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn keep(&self, claim: &OutboxClaim) -> Result<(), Fault> {
        let core = &self.core;
        let setup = core.channel_setup(claim.tenant_id, claim.channel_id).await;
        let setup = setup.map_err(|error| Fault::Later(error.to_string()))?;
        let links = setup.and_then(|setup| MediaLink::of(&setup.config, core.public_url()));
        let mut tx = core.store.begin(claim.tenant_id).await?;
        tx.ensure_partner_channel(claim.channel_id).await?;
        let partner = tx.partner_channel(claim.channel_id).await?;
        let declared = partner.map(|partner| partner.capabilities).unwrap_or_default();
        // The lock comes before the look: of two who deliver the same message one waits.
        tx.lock_partner_thread(claim.channel_id, &claim.peer).await?;
        if tx.has_partner_pieces(claim.outbox_id).await? {
            return Ok(());
        }
        let asked = tx.inbound_external_id(claim.conversation_id, claim.to_seq).await?;
        let turn = claim.turn_id.map(|turn| turn.to_string());
        let say = Say {
            message: &message(claim, asked.as_deref()),
            role: match claim.kind {
                OutboxKind::Reply => "assistant",
                OutboxKind::Notice => "notice",
            },
            turn: turn.as_deref(),
            in_reply_to: asked.as_deref(),
            answers: claim.to_seq,
            from: Some(claim.outbox_id),
            ..Say::default()
        };
        let conversation = claim.conversation_id.to_string();
        let place = Place {
            tenant_id: claim.tenant_id,
            channel_id: claim.channel_id,
            thread: &claim.peer,
            conversation_id: Some(&conversation),
        };
        let (caps, now) = (capabilities(&declared), core.clock.now());
        let said = say_with(&mut tx, place, &caps, links.as_ref(), &[say], now).await?;
        said.map_err(|rejected| Fault::Never(rejected.to_string()))?;
        tx.commit().await?;
        announce(core, claim.channel_id).await;
        core.bus
            .publish(
                &Topic::Preview(claim.conversation_id),
                qudao_core::PreviewEvent::Message { out_seq: claim.out_seq }.to_bytes(),
            )
            .await;
        Ok(())
    }
}

enum Fault {
    Later(String),
    Never(String),
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Later(error.to_string())
    }
}

/// What the outbox holds, as a message.
fn message(claim: &OutboxClaim, asked: Option<&str>) -> Message {
    let parts = if claim.body.parts.is_empty() {
        vec![Part::Text { format: TextFormat::Markdown, text: claim.body.text.clone() }]
    } else {
        claim.body.parts.clone()
    };
    Message { parts, reply_to: asked.map(str::to_owned) }
}

#[async_trait]
impl Channel for PartnerChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Partner
    }

    /// Hands the message to the log, once; what becomes of it there is the postman's business, who
    /// keeps the conversation's order as the outbox does.
    async fn deliver(&self, claim: &OutboxClaim) -> Result<(), DeliverError> {
        self.keep(claim).await.map_err(|fault| match fault {
            Fault::Later(detail) => DeliverError::retry(detail),
            Fault::Never(detail) => DeliverError::refused(detail),
        })
    }
}
