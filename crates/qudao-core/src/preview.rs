//! What a watching client sees of a turn before its reply is committed: hints over Redis that
//! may be lost at any moment. The outbox message is the truth.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use qudao_domain::{ChannelId, ConversationId, TenantId, TurnId, state::ChannelKind};

/// One hint on a conversation's preview topic, as JSON.
///
/// A client keeps the text of the highest epoch of a turn that it saw, drops hints of a lower
/// epoch, and clears what it shows when a higher one comes or on [`PreviewEvent::Reset`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PreviewEvent {
    /// More text of the answer.
    Delta {
        /// Which turn.
        turn: TurnId,
        /// Which attempt of it: the conversation's fencing number.
        epoch: i64,
        /// Where the text belongs, in UTF-16 code units from the answer's beginning (what
        /// `length` of a string is in a browser).
        offset: u64,
        /// The text.
        text: String,
    },
    /// What was shown of this turn so far is void: another attempt begins.
    Reset {
        /// Which turn.
        turn: TurnId,
        /// The attempt that begins.
        epoch: i64,
    },
    /// A message lies in the outbox and may be read.
    Message {
        /// Its place among the conversation's outbound messages.
        out_seq: i64,
    },
    /// What is said in a voice message of the conversation is known now.
    Heard {
        /// Its place among the conversation's inbound messages.
        seq: i64,
        /// Which of the message's parts.
        place: usize,
        /// The words.
        words: String,
    },
    /// What the assistant is doing.
    Status {
        /// The new state.
        state: AssistantState,
    },
}

impl PreviewEvent {
    /// The bytes to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What the assistant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssistantState {
    /// An answer is being made.
    Thinking,
    /// The person stopped the answer.
    Stopped,
}

/// One order on a conversation's control topic, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlEvent {
    /// Stop the running answer and keep what was delivered.
    Stop,
    /// Somebody came in the middle of the answer: show it from its beginning.
    Replay,
}

impl ControlEvent {
    /// The bytes to publish.
    pub fn to_bytes(self) -> Vec<u8> {
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

/// A turn that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedTurn {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where the conversation takes place.
    pub channel_id: ChannelId,
    /// What kind of place that is.
    pub channel_kind: ChannelKind,
    /// Which conversation.
    pub conversation_id: ConversationId,
    /// Which turn.
    pub turn_id: TurnId,
    /// Which attempt of it: the conversation's fencing number.
    pub epoch: i64,
}

/// Somebody on this node who shows answers while they grow ([`crate::Core::watch_turns`]).
pub trait TurnWatcher: Send + Sync + 'static {
    /// A turn begins. Must return at once.
    fn turn_begins(self: Arc<Self>, turn: WatchedTurn);
}
