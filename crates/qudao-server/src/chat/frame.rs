//! The JSON frames of the web chat, the same on the WebSocket and on the event stream.

use std::fmt;

use jiff::Timestamp;
use qudao_core::PreviewEvent;
use qudao_domain::{TurnId, message::Part};
use qudao_storage::TimelineCursor;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The visitor.
    User,
    /// The assistant.
    Assistant,
    /// The platform itself.
    Notice,
}

/// Names a message of a conversation for ever: `i:<seq>` inbound, `o:<out_seq>` outbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKey {
    Inbound(i64),
    Outbound(i64),
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound(seq) => write!(f, "i:{seq}"),
            Self::Outbound(seq) => write!(f, "o:{seq}"),
        }
    }
}

impl Serialize for MessageKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct MessageFrame {
    /// Pass it as `after` to read what follows.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, example = "3.2")]
    pub(crate) cursor: TimelineCursor,
    /// Names the message for ever.
    #[schema(value_type = String, example = "i:3")]
    pub(crate) key: MessageKey,
    /// Who wrote it.
    pub(crate) role: Role,
    /// What was written.
    pub(crate) text: String,
    /// What it is made of, if that is more than the text: words, files, buttons, cards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>, required = false)]
    pub(crate) parts: Vec<Part>,
    /// The id under which the visitor's browser sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<String>,
    /// The turn that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "trn_0198c0de00007000800000000000a001")]
    pub(crate) turn: Option<TurnId>,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Timestamp,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerFrame {
    /// The history has been sent; what follows is live.
    Ready {
        #[serde(serialize_with = "as_text")]
        cursor: TimelineCursor,
    },
    /// A stored message.
    Message(MessageFrame),
    /// A message of this client is durable.
    Accepted { id: String, key: MessageKey, duplicate: bool },
    /// Something went wrong; with `id`, for that message of this client.
    Error {
        code: &'static str,
        detail: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Seconds after which it may be tried again, where that is all that it takes.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// The answer to a ping.
    Pong,
    /// The node is shutting down: connect again, with the cursor.
    Reconnect,
    /// A hint of what is being written, straight from the worker.
    #[serde(untagged)]
    Preview(PreviewEvent),
}

impl ServerFrame {
    /// The frame as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a client says once it is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ClientFrame {
    /// Introduces the client; the first frame of a socket and never sent again.
    Hello {
        token: String,
        #[serde(default)]
        after: String,
    },
    /// A message. The same id is the same message, however often it is sent.
    Send { id: String, text: String },
    /// The visitor pressed stop.
    Stop,
    /// Is anybody there?
    Ping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_flat_json_with_a_type() {
        let preview = ServerFrame::Preview(PreviewEvent::Message { out_seq: 4 });
        assert_eq!(preview.to_json(), r#"{"type":"message","out_seq":4}"#);
        assert_eq!(ServerFrame::Pong.to_json(), r#"{"type":"pong"}"#);
        let accepted = ServerFrame::Accepted {
            id: "a".to_owned(),
            key: MessageKey::Inbound(3),
            duplicate: false,
        };
        assert_eq!(
            accepted.to_json(),
            r#"{"type":"accepted","id":"a","key":"i:3","duplicate":false}"#
        );
    }

    #[test]
    fn a_frame_with_a_field_that_nobody_documented_is_refused() {
        assert!(
            serde_json::from_str::<ClientFrame>(r#"{"type":"send","id":"a","text":"b"}"#).is_ok()
        );
        assert!(
            serde_json::from_str::<ClientFrame>(r#"{"type":"send","id":"a","text":"b","to":"c"}"#)
                .is_err()
        );
        assert!(serde_json::from_str::<ClientFrame>(r#"{"type":"shout"}"#).is_err());
    }
}
