//! The envelope, the same in both directions and over every transport.

use std::fmt;

use jiff::Timestamp;
use qudao_domain::message::Part;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Kinds of events.
pub mod kind {
    /// Somebody said something.
    pub const MESSAGE_CREATED: &str = "message.created";
    /// A message says something else now.
    pub const MESSAGE_UPDATED: &str = "message.updated";
    /// A message was taken back.
    pub const MESSAGE_DELETED: &str = "message.deleted";
    /// More of a message that is being written; on event streams only.
    pub const MESSAGE_DELTA: &str = "message.delta";
    /// The other side's platform has a message.
    pub const MESSAGE_SENT: &str = "message.sent";
    /// A person's device has a message.
    pub const MESSAGE_DELIVERED: &str = "message.delivered";
    /// A person saw a message.
    pub const MESSAGE_READ: &str = "message.read";
    /// A message did not arrive.
    pub const MESSAGE_FAILED: &str = "message.failed";
    /// A button was pressed.
    pub const BUTTON_PRESSED: &str = "button.pressed";
    /// Somebody writes.
    pub const TYPING_STARTED: &str = "typing.started";
    /// The assistant asks for a person.
    pub const HANDOFF_REQUESTED: &str = "handoff.requested";
    /// A person answers from now on.
    pub const HANDOFF_ACCEPTED: &str = "handoff.accepted";
    /// The assistant answers again.
    pub const HANDOFF_RETURNED: &str = "handoff.returned";
    /// The person takes no messages any more.
    pub const CONTACT_UNREACHABLE: &str = "contact.unreachable";
    /// The person takes messages again.
    pub const CONTACT_REACHABLE: &str = "contact.reachable";
    /// Something is wrong with the channel.
    pub const CHANNEL_ERROR: &str = "channel.error";
    /// Show that the endpoint is yours.
    pub const ENDPOINT_VERIFY: &str = "endpoint.verify";
    /// There is a new key beside the old one.
    pub const KEY_ROTATED: &str = "endpoint.key_rotated";
    /// Messages of a conversation were given up.
    pub const DELIVERY_GAP: &str = "delivery.gap";
    /// Are you there?
    pub const PING: &str = "ping";
}

/// An event's id: 8 to 64 of `A-Za-z0-9_-`. It has no dot, so that a signature cannot be read in
/// two ways.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct EventId(String);

/// Why bytes are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The id.
    #[error("id has to be 8 to 64 of A-Z, a-z, 0-9, _ and -")]
    Id,
    /// Not JSON, or without what every event has.
    #[error("the body is not an event: {0}")]
    Json(String),
    /// Another protocol.
    #[error("spec has to be pcp/1")]
    Spec,
    /// Not what this kind of event carries.
    #[error("{0}")]
    Data(String),
}

impl EventId {
    /// Checks.
    ///
    /// # Errors
    /// [`EventError::Id`].
    pub fn parse(text: &str) -> Result<Self, EventError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let fits = (8..=64).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(EventError::Id) }
    }

    /// A new one of 128 random bits.
    pub fn generate() -> Self {
        Self(format!("evt_{}", hex::encode(rand::random::<[u8; 16]>())))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerEvent))]
pub struct Event {
    /// `pcp/1`.
    pub spec: String,
    /// Which; equal to `webhook-id`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: EventId,
    /// What happened: one of [`kind`], or something newer.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub time: Timestamp,
    /// Whose; from the platform only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// On which channel; from the platform only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// In which conversation, unless it concerns the whole channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// How the person came here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<Attribution>,
    /// Its place among the conversation's events of this direction, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// When it is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    /// What the kind of event carries.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: Value,
    /// What the partner's own system wants to keep beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub channel_data: Option<Value>,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerConversation))]
pub struct Conversation {
    /// The platform's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The partner's id; 1 to 200 characters.
    pub external_id: String,
    /// `direct` or `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A thread within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerSender))]
pub struct Sender {
    /// The partner's id of the person.
    pub external_id: String,
    /// What they are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The language that they read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// The partner knows who they are.
    #[serde(default)]
    pub verified: bool,
    /// Their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// How a person came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerAttribution))]
pub struct Attribution {
    /// The link's or campaign's own name.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The reseller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseller: Option<String>,
    /// The click.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub click_id: Option<String>,
    /// The page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
}

/// What `message.created` carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerMessageData))]
pub struct MessageData {
    /// Which turn the message belongs to; from the platform only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnData>,
    /// The message.
    pub message: WireMessage,
}

/// A place in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerTurn))]
pub struct TurnData {
    /// Which turn.
    pub id: String,
    /// The partner's id of the last message that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// Which message of the answer, from 0.
    pub index: usize,
    /// Nothing follows.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerMessage))]
pub struct WireMessage {
    /// The platform's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The partner's id: unique in the channel, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// `assistant`, or `notice` for words of the platform itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Equal to `id`: whoever sends the message on uses it to send it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Which message it answers, by the id that its receiver gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// What it is made of, unread: a part of a newer kind must not make the message unreadable.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub parts: Vec<Value>,
}

impl WireMessage {
    /// A message of these parts.
    pub fn of(parts: &[Part]) -> Self {
        let parts = parts.iter().map(|part| serde_json::to_value(part).unwrap_or_default());
        Self { parts: parts.collect(), ..Self::default() }
    }

    /// The parts, read; see [`crate::read_parts`].
    pub fn read(&self) -> Vec<Part> {
        crate::read_parts(&self.parts)
    }
}

/// What the platform says to an event that it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerAccepted))]
pub struct Accepted {
    /// The event's id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event_id: EventId,
    /// The platform's id of the message, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The platform's id of the conversation, if the event has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// It had been taken before; nothing changed.
    pub duplicate: bool,
}

/// What a partner says to a message that it took.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerDelivered))]
pub struct Delivered {
    /// `sent`, or `queued` if receipts follow.
    #[serde(default)]
    pub status: String,
    /// The partner's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_message_id: Option<String>,
    /// The answer to `endpoint.verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

impl Event {
    /// A new event.
    pub fn new(kind: &str, time: Timestamp, data: Value) -> Self {
        Self {
            spec: crate::SPEC.to_owned(),
            id: EventId::generate(),
            kind: kind.to_owned(),
            time,
            tenant: None,
            channel: None,
            conversation: None,
            sender: None,
            attribution: None,
            seq: None,
            expires_at: None,
            data,
            channel_data: None,
        }
    }

    /// Reads bytes that were verified.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn read(body: &[u8]) -> Result<Self, EventError> {
        let json = |error: serde_json::Error| EventError::Json(error.to_string());
        let event: Self = serde_json::from_slice(body).map_err(json)?;
        if event.spec != crate::SPEC {
            return Err(EventError::Spec);
        }
        if !(1..=60).contains(&event.kind.chars().count()) {
            return Err(EventError::Data("type has 1 to 60 characters".into()));
        }
        let long = |text: &str| text.is_empty() || text.chars().count() > 200;
        if event.conversation.as_ref().is_some_and(|it| long(&it.external_id)) {
            return Err(EventError::Data(
                "conversation.external_id has 1 to 200 characters".into(),
            ));
        }
        Ok(event)
    }

    /// The bytes to sign and send.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a message event carries.
    ///
    /// # Errors
    /// [`EventError::Data`].
    pub fn message(&self) -> Result<MessageData, EventError> {
        serde_json::from_value(self.data.clone())
            .map_err(|error| EventError::Data(format!("data is no message: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_read_and_written_alike() {
        let json = r#"{"spec":"pcp/1","id":"evt_01JD0AAA","type":"message.created","time":"2026-11-23T14:00:00.12Z","conversation":{"external_id":"room-42","kind":"direct"},"sender":{"external_id":"u-9","verified":true},"attribution":{"ref":"spring"},"data":{"message":{"external_id":"m-1","parts":[{"fallback_text":"a cat","type":"hologram"}]}}}"#;
        let event = Event::read(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        let message = event.message().unwrap().message;
        assert_eq!(message.read()[0].to_text(), "a cat");
    }

    #[test]
    fn an_id_with_a_dot_or_of_another_length_is_none() {
        for wrong in ["", "short", "has.a.dot", "ünicode_", &"x".repeat(65)] {
            assert!(EventId::parse(wrong).is_err(), "{wrong}");
        }
        assert!(EventId::parse(EventId::generate().as_str()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::read(&body);
        }
    }
}
