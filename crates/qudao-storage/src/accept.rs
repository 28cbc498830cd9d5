//! T1: a message from outside becomes durable, once, with its place in its conversation.

use qudao_domain::{
    ChannelId, ContactId, ConversationId, TenantId,
    message::{Part, TextFormat},
    text::ExternalId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{
    Row as _,
    postgres::PgRow,
    types::{Json, Uuid},
};

use crate::{Result, StorageError, Store, Tx, row, turn::order};

/// What an end user wrote. JSON, so that attachments can join the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageBody {
    /// What a model reads: the words, and words for everything else.
    pub text: String,
    /// What it is made of, if that is more than the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// The channel's own id of the message that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Who wrote it, where several people write in one conversation or a name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Value>,
    /// The channel's own id of what the message is a piece of, where several belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub album: Option<String>,
    /// The event as the platform sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Value>,
}

impl MessageBody {
    /// Words alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            parts: Vec::new(),
            reply_to: None,
            sender: None,
            album: None,
            raw: None,
        }
    }
}

/// What is said to an end user. JSON, so that attachments can join the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyBody {
    /// The text: Markdown of a model, plain words of the platform.
    pub text: String,
    /// What it is made of, if that is more than the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl ReplyBody {
    /// Words alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), parts: Vec::new() }
    }

    /// A model's words, and files below them.
    pub fn with_files(text: String, files: Vec<Part>) -> Self {
        if files.is_empty() {
            return Self::text(text);
        }
        let words = Part::Text { format: TextFormat::Markdown, text: text.clone() };
        Self { text, parts: std::iter::once(words).chain(files).collect() }
    }
}

/// A message from outside.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Where it came in.
    pub channel_id: ChannelId,
    /// The channel's own id of the message. Unique in the whole channel: where the other side
    /// chooses it, it must contain the sender.
    pub external_id: ExternalId,
    /// The channel's own id of the sender.
    pub peer: ExternalId,
    /// What it says.
    pub body: MessageBody,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// It is in the inbox, once the transaction commits.
    New {
        /// Its conversation.
        conversation_id: ConversationId,
        /// Its place in it, from 1.
        seq: i64,
    },
    /// It was there already; nothing changed.
    Duplicate {
        /// Its conversation.
        conversation_id: ConversationId,
        /// Its place in it.
        seq: i64,
    },
    /// The tenant has no credits. Nothing changed.
    NoFunds,
    /// The channel is closed, has no assistant, or is not this tenant's. Nothing changed.
    ChannelClosed,
}

impl Tx {
    /// Accepts a message: the first one of a sender opens their contact and conversation.
    ///
    /// # Errors
    /// [`StorageError`]; the message may be sent again then, it is recognised by its id.
    pub async fn accept(&mut self, inbound: &Inbound) -> Result<Accept> {
        let row = sqlx::query(
            "SELECT outcome, conversation_id, seq FROM app.accept($1, $2, $3, $4, $5, $6)",
        )
        .bind(inbound.channel_id.as_uuid())
        .bind(inbound.external_id.as_str())
        .bind(inbound.peer.as_str())
        .bind(Json(&inbound.body))
        .bind(ConversationId::new().as_uuid())
        .bind(ContactId::new().as_uuid())
        .fetch_one(self.connection())
        .await?;
        read(&row)
    }
}

impl Store {
    /// Accepts messages of any tenants in one commit, all or none; when this returns they are
    /// durable. The answers stand in the order of the messages; of two from one sender the first
    /// comes first.
    ///
    /// # Errors
    /// [`StorageError`]; each message may be sent again then, alone or with others.
    pub async fn accept_together(&self, messages: &[(TenantId, Inbound)]) -> Result<Vec<Accept>> {
        // Sorted by sender, so that two such statements wait for each other in one direction only.
        let order = order(messages, |(tenant_id, inbound)| {
            (*tenant_id, inbound.channel_id, inbound.peer.as_str())
        });
        let sorted = || order.iter().map(|at| &messages[*at]);
        let inbound = || sorted().map(|(_, inbound)| inbound);
        let ids = |new: fn() -> Uuid| -> Vec<Uuid> { sorted().map(|_| new()).collect() };
        let query = || {
            sqlx::query(
                "SELECT outcome, conversation_id, seq \
             FROM app.accept_together($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(sorted().map(|(tenant_id, _)| tenant_id.as_uuid()).collect::<Vec<_>>())
            .bind(inbound().map(|inbound| inbound.channel_id.as_uuid()).collect::<Vec<_>>())
            .bind(inbound().map(|inbound| inbound.external_id.as_str()).collect::<Vec<_>>())
            .bind(inbound().map(|inbound| inbound.peer.as_str()).collect::<Vec<_>>())
            .bind(inbound().map(|inbound| Json(&inbound.body)).collect::<Vec<_>>())
            .bind(ids(|| ConversationId::new().as_uuid()))
            .bind(ids(|| ContactId::new().as_uuid()))
        };
        let rows = self.rows_of_one_statement(query).await?;
        if rows.len() != messages.len() {
            let detail = format!("{} answers to {} messages", rows.len(), messages.len());
            return Err(StorageError::Inconsistent { detail });
        }
        let mut answers = vec![Accept::ChannelClosed; messages.len()];
        for (at, row) in order.into_iter().zip(&rows) {
            answers[at] = read(row)?;
        }
        Ok(answers)
    }
}

fn read(row: &PgRow) -> Result<Accept> {
    let outcome: String = row.try_get("outcome")?;
    let refused = match outcome.as_str() {
        "no_funds" => Some(Accept::NoFunds),
        "channel_closed" => Some(Accept::ChannelClosed),
        _ => None,
    };
    if let Some(refused) = refused {
        return Ok(refused);
    }
    let conversation_id = row::id(row, "conversation_id", ConversationId::from_uuid)?;
    let seq = row.try_get("seq")?;
    match outcome.as_str() {
        "new" => Ok(Accept::New { conversation_id, seq }),
        "duplicate" => Ok(Accept::Duplicate { conversation_id, seq }),
        other => Err(StorageError::unknown_outcome("app.accept", other)),
    }
}
