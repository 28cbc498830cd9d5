//! What happens on a channel, the same for every platform.

use jiff::Timestamp;
use qudao_domain::message::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The platform's id of the event: the same when it comes again, and no other's within a week.
    /// At most 200 characters.
    pub id: String,
    /// Where.
    pub thread: Thread,
    /// Who did it.
    pub sender: Person,
    /// What.
    pub body: EventBody,
    /// How the person came here, if this event says.
    pub attribution: Option<Attribution>,
    /// When, by the platform's clock.
    pub at: Option<Timestamp>,
    /// The event as the platform sent it.
    pub raw: Value,
}

/// A conversation as the channel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thread {
    /// The channel's own id; messages of one id are answered in order. At most 200 characters.
    pub external_id: String,
    /// Several people write in it.
    pub group: bool,
}

/// Somebody on the other side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Person {
    /// The channel's own id. At most 200 characters.
    pub external_id: String,
    /// What they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The language that they read, such as `zh-CN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventBody {
    /// A message that wants an answer.
    Message {
        /// The platform's id of the message, unique in the channel for ever. At most 200
        /// characters.
        external_id: String,
        /// What it says.
        message: Message,
    },
    /// A message that belongs together with others which are told separately: a picture of an album.
    /// All of them are answered together.
    Piece {
        /// As of a message.
        external_id: String,
        /// What it says.
        message: Message,
        /// The platform's id of what it is a piece of, the same for each of them.
        album: String,
        /// It is for the assistant by itself. A piece that is not is one if another piece is: in a
        /// group one picture of an album has the mention.
        addressed: bool,
    },
    /// A message that was heard and is not for the assistant: a group's, without a mention.
    Overheard,
    /// A message was changed.
    Edited {
        /// Which.
        external_id: String,
        /// What it says now.
        message: Message,
    },
    /// A message was taken back.
    Deleted {
        /// Which.
        external_id: String,
    },
    /// A button was pressed or a row chosen. It is answered like a message that says `value`.
    Pressed {
        /// What it says.
        value: String,
    },
    /// The same, of a button that could not carry what it says.
    Recalled {
        /// What [`Outgoing::reference`](super::adapter::Outgoing::reference) gave for it.
        reference: String,
    },
    /// A button was pressed whose message is not known any more: the host makes it of
    /// [`EventBody::Recalled`], so that the adapter can say so.
    Lapsed,
    /// Somebody put a sign beside a message, or took it away.
    Reaction {
        /// Which message.
        external_id: String,
        /// The sign.
        sign: String,
        /// It was put there.
        added: bool,
    },
    /// Somebody writes.
    Typing,
    /// What became of a message of ours.
    Receipt {
        /// The platform's id of it.
        external_id: String,
        /// `sent`, `delivered`, `read` or `failed`.
        state: ReceiptState,
    },
    /// The person does not take messages any more.
    Unreachable,
    /// The person takes messages again.
    Reachable,
    /// The conversation goes on under another id.
    Moved {
        /// The new id.
        to: String,
    },
    /// Somebody paid.
    Paid(Payment),
    /// A payment was given back.
    Refunded(Payment),
    /// Something that has no meaning here but needs an acknowledgement, or that is not known:
    /// stored and counted by this name.
    Unknown {
        /// What the platform calls it. Letters, digits and underscores.
        kind: String,
    },
}

/// What became of a message of ours. Ordered: a later word never takes back an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// The platform has it.
    Sent,
    /// The person's device has it.
    Delivered,
    /// It was seen.
    Read,
    /// It did not arrive.
    Failed,
}

/// Money that came over a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The platform's id of it: it counts once.
    pub charge_id: String,
    /// The currency as the platform writes it, such as `XTR`.
    pub currency: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// What the invoice carried.
    pub payload: String,
}

/// How a person came to a channel. The first word of it stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
