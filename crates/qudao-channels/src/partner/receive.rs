//! What a partner tells the platform: taken once, whatever is repeated.

use std::sync::Arc;

use qudao_core::{AcceptError, Core, Trace, channel::setup::OpenChannel};
use qudao_domain::{
    ConversationId,
    message::{Message, Part},
    text::ExternalId,
};
use qudao_pcp::{Accepted, Event, EventError, kind};
use qudao_storage::{Inbound, MessageBody, PartnerChannel, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    capabilities, metrics,
    queue::{Asked, Place, announce_asked, tell},
    sandbox,
};

/// Where an event came in.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The platform.
    pub core: &'a Arc<Core>,
    /// The channel.
    pub channel: &'a OpenChannel,
    /// The channel as a partner's.
    pub partner: &'a PartnerChannel,
    /// How the partner reaches the platform.
    pub base: Option<&'a str>,
    /// The request that brought the event.
    pub origin: Trace,
}

/// An event that was taken.
#[derive(Debug, Clone)]
pub struct Received {
    /// What the partner is told.
    pub accepted: Accepted,
    /// The partner's conversation.
    pub thread: String,
    /// The place of the message in it, if it is one that is answered.
    pub answers: Option<i64>,
    /// The platform's conversation, outside of the sandbox.
    pub conversation_id: Option<ConversationId>,
    /// In the sandbox: how the answer grows.
    pub deltas: Vec<String>,
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another body came under its id.
    #[error("this id was used for another event")]
    IdReused,
    /// A field is wrong.
    #[error("{1}")]
    Field(&'static str, String),
    /// The message is not accepted.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// In the sandbox: refused because the event asks for it.
    #[error("the sandbox refuses, as it was asked to")]
    OnPurpose(sandbox::Refusal),
}

impl From<EventError> for Refused {
    fn from(error: EventError) -> Self {
        Self::Field("/data", error.to_string())
    }
}

/// What is kept of an event, beside its id.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Empty in the record of a message.
    #[serde(default)]
    sha256: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    refused: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Accepted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers: Option<i64>,
    /// What is kept nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What an event means here.
enum Heard {
    Said(Said),
    Receipt { message: String, state: &'static str },
    HandedOff(bool),
    Reachable(bool),
    Noted,
    Unknown,
}

/// Words of a person.
pub(super) struct Said {
    pub(super) external_id: String,
    pub(super) parts: Vec<Part>,
    pub(super) text: String,
    pub(super) reply_to: Option<String>,
}

/// Takes an event whose bytes were verified.
///
/// # Errors
/// [`Refused`]; the event may come again then, under the same id.
pub async fn receive(
    setting: &Setting<'_>,
    event: &Event,
    body: &[u8],
) -> Result<Received, Refused> {
    let taken = take(setting, event, body).await;
    metrics::received(match &taken {
        Ok(taken) if taken.accepted.duplicate => "duplicate",
        Ok(_) if !is_known(&event.kind) => "unknown_kind",
        Ok(_) => "accepted",
        Err(_) => "refused",
    });
    taken
}

async fn take(setting: &Setting<'_>, event: &Event, body: &[u8]) -> Result<Received, Refused> {
    let config = &setting.channel.config;
    let heard = hear(event)?;
    let whole = serde_json::to_value(event).unwrap_or_default();
    if has_nul(&whole) {
        return Err(Refused::Field("", "must not hold U+0000".to_owned()));
    }
    let thread = thread_of(event);
    let mut kept = Kept { sha256: hex::encode(Sha256::digest(body)), ..Kept::default() };
    let named = (event.id.as_str(), event.kind.as_str(), thread);
    let mut tx = setting.core.store.begin(config.tenant_id).await?;
    let first = serde_json::to_value(&kept).unwrap_or_default();
    if let Some(known) = tx.claim_channel_event(config.channel_id, named, &first).await? {
        let known: Kept = serde_json::from_value(known.body).unwrap_or_default();
        if known.sha256 != kept.sha256 {
            return Err(Refused::IdReused);
        }
        if let Some(answer) = known.answer {
            let accepted = Accepted { duplicate: true, ..answer };
            return Ok(received(accepted, thread, known.answers, None));
        }
        // It was begun and not brought to its end: everything below may be repeated.
        kept = known;
    }
    tx.commit().await?;
    match heard {
        Heard::Said(said) if setting.partner.sandbox => {
            sandbox::answer(setting, event, &said, kept).await
        }
        Heard::Said(said) => accept(setting, event, said, whole, kept).await,
        heard => note(setting, event, heard, whole, kept).await,
    }
}

/// Hands a person's words to the platform.
async fn accept(
    setting: &Setting<'_>,
    event: &Event,
    said: Said,
    whole: Value,
    kept: Kept,
) -> Result<Received, Refused> {
    let config = &setting.channel.config;
    let thread = thread_of(event);
    let mut tx = setting.core.store.begin(config.tenant_id).await?;
    let state = tx.lock_partner_thread(config.channel_id, thread).await?;
    tx.commit().await?;
    if state.handed_off {
        return note(setting, event, Heard::Noted, whole, kept).await;
    }
    let wrong = |at, error: &dyn std::fmt::Display| Refused::Field(at, error.to_string());
    let external_id = ExternalId::parse(&said.external_id)
        .map_err(|error| wrong("/data/message/external_id", &error))?;
    let peer =
        ExternalId::parse(thread).map_err(|error| wrong("/conversation/external_id", &error))?;
    let inbound = Inbound {
        channel_id: config.channel_id,
        external_id,
        peer,
        body: MessageBody {
            text: said.text,
            parts: said.parts,
            reply_to: said.reply_to,
            sender: event.sender.as_ref().and_then(|sender| serde_json::to_value(sender).ok()),
            album: None,
            raw: Some(whole),
        },
    };
    let accepted = setting.core.accept_from(config.tenant_id, inbound, setting.origin).await?;
    let conversation = accepted.conversation_id;
    let answer = Accepted {
        event_id: event.id.clone(),
        message_id: Some(message_id(&conversation.as_uuid().simple().to_string(), accepted.seq)),
        conversation_id: Some(conversation.to_string()),
        duplicate: accepted.duplicate,
    };
    let kept = Kept { answer: Some(answer.clone()), answers: Some(accepted.seq), ..kept };
    let mut tx = setting.core.store.begin(config.tenant_id).await?;
    if let Some(attribution) = &event.attribution {
        let attribution = serde_json::to_value(attribution).unwrap_or_default();
        tx.attribute_conversation(config.channel_id, conversation, &attribution).await?;
    }
    keep(&mut tx, setting, event, &kept).await?;
    if !accepted.duplicate {
        type_if_shown(&mut tx, setting, thread).await?;
    }
    tx.commit().await?;
    let asked = Asked { conversation_id: conversation, thread: thread.to_owned() };
    announce_asked(setting.core, config.channel_id, &asked).await;
    Ok(received(answer, thread, Some(accepted.seq), Some(conversation)))
}

/// Keeps what is no message, and does what it says.
async fn note(
    setting: &Setting<'_>,
    event: &Event,
    heard: Heard,
    whole: Value,
    kept: Kept,
) -> Result<Received, Refused> {
    let (config, thread) = (&setting.channel.config, thread_of(event));
    let mut tx = setting.core.store.begin(config.tenant_id).await?;
    match heard {
        Heard::Receipt { message, state } => {
            let message = message.replacen("msg_", "evt_", 1);
            tx.record_partner_receipt(config.channel_id, &message, state).await?;
        }
        Heard::HandedOff(handed_off) if !thread.is_empty() => {
            let state = tx.lock_partner_thread(config.channel_id, thread).await?;
            let state = qudao_storage::PartnerThread { handed_off, ..state };
            tx.set_partner_thread(config.channel_id, thread, state).await?;
        }
        Heard::Reachable(reachable) => {
            tx.set_peer_reachable(config.channel_id, thread, reachable).await?;
        }
        _ => {}
    }
    let answer = Accepted {
        event_id: event.id.clone(),
        message_id: None,
        conversation_id: None,
        duplicate: false,
    };
    let kept = Kept { answer: Some(answer.clone()), event: Some(whole), ..kept };
    keep(&mut tx, setting, event, &kept).await?;
    tx.commit().await?;
    Ok(received(answer, thread, None, None))
}

pub(super) fn received(
    accepted: Accepted,
    thread: &str,
    answers: Option<i64>,
    conversation_id: Option<ConversationId>,
) -> Received {
    Received { accepted, thread: thread.to_owned(), answers, conversation_id, deltas: Vec::new() }
}

pub(super) async fn keep(
    tx: &mut qudao_storage::Tx,
    setting: &Setting<'_>,
    event: &Event,
    kept: &Kept,
) -> Result<(), StorageError> {
    let kept = serde_json::to_value(kept).unwrap_or_default();
    tx.keep_channel_event(setting.channel.config.channel_id, event.id.as_str(), &kept).await
}

impl Kept {
    pub(super) fn with_answer(self, answer: &Accepted, answers: i64) -> Self {
        Self { answer: Some(answer.clone()), answers: Some(answers), ..self }
    }

    /// One refusal more, unless there were so many.
    pub(super) fn refuse_once_more(&mut self, times: u32) -> bool {
        let more = self.refused < times;
        self.refused += u32::from(more);
        more
    }
}

/// Shows that an answer is being made, where the partner shows that.
pub(super) async fn type_if_shown(
    tx: &mut qudao_storage::Tx,
    setting: &Setting<'_>,
    thread: &str,
) -> Result<(), StorageError> {
    let caps = capabilities(&setting.partner.capabilities);
    if caps.typing.level != qudao_domain::capability::Level::Native {
        return Ok(());
    }
    let config = &setting.channel.config;
    let (tenant_id, channel_id) = (config.tenant_id, config.channel_id);
    let place = Place { tenant_id, channel_id, thread, conversation_id: None };
    let data = json!({ "ttl_s": caps.typing.ttl_s });
    tell(tx, place, kind::TYPING_STARTED, data, setting.core.clock.now()).await
}

pub(super) fn thread_of(event: &Event) -> &str {
    event.conversation.as_ref().map_or("", |conversation| conversation.external_id.as_str())
}

pub(super) fn message_id(conversation: &str, seq: i64) -> String {
    format!("msg_{conversation}_{seq}")
}

fn is_known(of: &str) -> bool {
    hear_kind(of).is_some()
}

/// Kinds that mean something here; `true` for those that need a conversation.
fn hear_kind(of: &str) -> Option<bool> {
    match of {
        kind::MESSAGE_CREATED
        | kind::MESSAGE_UPDATED
        | kind::MESSAGE_DELETED
        | kind::BUTTON_PRESSED
        | kind::TYPING_STARTED
        | kind::HANDOFF_REQUESTED
        | kind::HANDOFF_ACCEPTED
        | kind::HANDOFF_RETURNED
        | kind::CONTACT_REACHABLE
        | kind::CONTACT_UNREACHABLE
        | "conversation.started"
        | "conversation.updated"
        | "conversation.closed"
        | "reaction.added"
        | "reaction.removed" => Some(true),
        kind::MESSAGE_SENT
        | kind::MESSAGE_DELIVERED
        | kind::MESSAGE_READ
        | kind::MESSAGE_FAILED
        | kind::CHANNEL_ERROR
        | kind::PING => Some(false),
        _ => None,
    }
}

fn hear(event: &Event) -> Result<Heard, Refused> {
    if hear_kind(&event.kind) == Some(true) && event.conversation.is_none() {
        return Err(Refused::Field("/conversation", "is missing".to_owned()));
    }
    let text = |name: &str| event.data.get(name).and_then(Value::as_str).unwrap_or_default();
    let receipt = |state| {
        let message = [text("message_id"), text("external_message_id")];
        let message = message.into_iter().find(|id| !id.is_empty());
        let missing = || Refused::Field("/data/message_id", "is missing".to_owned());
        Ok(Heard::Receipt { message: message.ok_or_else(missing)?.to_owned(), state })
    };
    match event.kind.as_str() {
        kind::MESSAGE_CREATED => Ok(Heard::Said(said(event)?)),
        kind::BUTTON_PRESSED => {
            let value = [text("value"), text("item_id")].into_iter().find(|text| !text.is_empty());
            let missing = || Refused::Field("/data/value", "is missing".to_owned());
            let text = value.ok_or_else(missing)?.to_owned();
            let external_id = event.id.as_str().to_owned();
            Ok(Heard::Said(Said { external_id, parts: Vec::new(), text, reply_to: None }))
        }
        kind::MESSAGE_SENT => receipt("sent"),
        kind::MESSAGE_DELIVERED => receipt("delivered"),
        kind::MESSAGE_READ => receipt("read"),
        kind::MESSAGE_FAILED => receipt("failed"),
        kind::HANDOFF_ACCEPTED => Ok(Heard::HandedOff(true)),
        kind::HANDOFF_RETURNED => Ok(Heard::HandedOff(false)),
        kind::CONTACT_REACHABLE => Ok(Heard::Reachable(true)),
        kind::CONTACT_UNREACHABLE => Ok(Heard::Reachable(false)),
        other if hear_kind(other).is_some() => Ok(Heard::Noted),
        _ => Ok(Heard::Unknown),
    }
}

fn said(event: &Event) -> Result<Said, Refused> {
    let wire = event.message()?.message;
    if wire.parts.is_empty() || 50 < wire.parts.len() {
        return Err(Refused::Field("/data/message/parts", "has 1 to 50 parts".to_owned()));
    }
    let message = Message { parts: wire.read(), reply_to: wire.reply_to.clone() };
    let text = message.to_text();
    if 16_000 < text.chars().count() {
        let detail = "holds more than 16000 characters of text".to_owned();
        return Err(Refused::Field("/data/message/parts", detail));
    }
    let id = wire.external_id.as_deref().filter(|id| !id.is_empty());
    let external_id = id.unwrap_or(event.id.as_str()).to_owned();
    if 200 < external_id.chars().count() {
        let detail = "has at most 200 characters".to_owned();
        return Err(Refused::Field("/data/message/external_id", detail));
    }
    // A message of parts without words was sent all the same, and is answered.
    let text = if text.trim().is_empty() { "…".to_owned() } else { text };
    Ok(Said { external_id, parts: message.parts, text, reply_to: message.reply_to })
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(all) => all.iter().any(has_nul),
        Value::Object(all) => all.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

impl Kept {
    /// What was said to a message that came before under another event.
    pub(super) fn known_message(body: Value) -> Option<(Accepted, i64)> {
        let kept: Self = serde_json::from_value(body).ok()?;
        kept.answer.zip(kept.answers)
    }
}
