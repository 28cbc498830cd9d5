//! What happens on channels of other platforms beside messages, and what was sent over them.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{
    ChannelId, ContactId, ConversationId, NodeId, OutboxId, TenantId, TurnId, state::ChannelKind,
};
use serde_json::Value;
use sqlx::{Row as _, types::Json};

use crate::{Result, Store, Tx, claim::millis, row};

/// Something that happened on a channel.
#[derive(Debug, Clone, Copy)]
pub struct ChannelEvent<'a> {
    /// Where.
    pub channel_id: ChannelId,
    /// The platform's id of it.
    pub event_id: &'a str,
    /// What: a short name.
    pub kind: &'a str,
    /// The channel's own id of the conversation.
    pub thread: &'a str,
    /// The event as the platform sent it.
    pub body: &'a Value,
}

/// The message that an outbound one answers.
#[derive(Debug, Clone, PartialEq)]
pub struct AnsweredMessage {
    /// The channel's own id of it.
    pub external_id: String,
    /// The event as the platform sent it; `Null` where the platform is this one.
    pub raw: Value,
    /// When it was accepted.
    pub at: Timestamp,
}

/// A piece of an outbound message that the other side has.
#[derive(Debug, Clone, Copy)]
pub struct SentPiece<'a> {
    /// The message.
    pub outbox_id: OutboxId,
    /// Which of its pieces, from 0.
    pub piece: u32,
    /// Where it went.
    pub channel_id: ChannelId,
    /// In which conversation.
    pub conversation_id: ConversationId,
    /// The platform's id of it, if it says.
    pub external_id: Option<&'a str>,
}

/// A channel whose platform this node may ask, until its lease ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which.
    pub channel_id: ChannelId,
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Where to go on.
    pub cursor: Option<Value>,
}

impl Store {
    /// Channels whose platforms this node may ask now, for as long as `lease`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed comes free when the lease ends.
    pub async fn claim_polls(
        &self,
        node: NodeId,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<Poll>> {
        let mut tx = self.begin_claim().await?;
        let rows = sqlx::query(
            "SELECT tenant_id, channel_id, kind, cursor FROM app.claim_polls($1, $2, $3)",
        )
        .bind(node.as_uuid())
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(millis(lease))
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(Poll {
                tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
                channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
                kind: row::state(row, "kind", ChannelKind::find)?,
                cursor: row.try_get("cursor")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Lets go of events that are older than any repetition. Returns how many; more may be there.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn forget_channel_events(&self, older_than: Duration, limit: u32) -> Result<u64> {
        let mut tx = self.begin_claim().await?;
        let gone: i64 = sqlx::query_scalar("SELECT app.forget_channel_events($1, $2)")
            .bind(millis(older_than))
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(gone.unsigned_abs())
    }
}

impl Tx {
    /// Writes an event down. `false` if it was there already.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn note_channel_event(&mut self, event: ChannelEvent<'_>) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO channel_events (tenant_id, channel_id, event_id, kind, thread, body) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(event.channel_id.as_uuid())
        .bind(event.event_id)
        .bind(event.kind)
        .bind(event.thread)
        .bind(Json(event.body))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// What a person is called and reads, as the channel says, and that they can be reached.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn meet_identity(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
        name: Option<&str>,
        locale: Option<&str>,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE identities \
             SET name = COALESCE(left($4, 200), name), locale = COALESCE(left($5, 35), locale), \
                 unreachable_at = NULL \
             WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3 \
               AND (name, locale, unreachable_at) IS DISTINCT FROM \
                   (COALESCE(left($4, 200), name), COALESCE(left($5, 35), locale), NULL)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .bind(name)
        .bind(locale)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Whether a person takes messages on a channel. `false` if that was known.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_reachable(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
        reachable: bool,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE identities SET unreachable_at = CASE WHEN $4 THEN NULL ELSE now() END \
             WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3 \
               AND (unreachable_at IS NULL) <> $4",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .bind(reachable)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// How the contact behind an identity came. `false` if that was known: the first word stays.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn attribute(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
        body: &Value,
    ) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
             SELECT i.tenant_id, i.contact_id, i.channel_id, $4 FROM identities i \
             WHERE i.tenant_id = $1 AND i.channel_id = $2 AND i.external_id = $3 \
             ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .bind(Json(body))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// How a contact came, if it is known.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn attribution(&mut self, contact_id: ContactId) -> Result<Option<Value>> {
        let body = sqlx::query_scalar(
            "SELECT body FROM attributions WHERE tenant_id = $1 AND contact_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(contact_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(body)
    }

    /// A conversation goes on under another id of the channel: the next message that comes under
    /// it belongs to the same conversation and contact. `false` if there is none, or if one goes
    /// by the new id already.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn move_conversation(
        &mut self,
        channel_id: ChannelId,
        from: &str,
        to: &str,
    ) -> Result<bool> {
        let done = sqlx::query(
            "WITH free AS (SELECT 1 WHERE NOT EXISTS ( \
                 SELECT 1 FROM conversations WHERE tenant_id = $1 AND channel_id = $2 AND peer = $4)), \
             known AS (UPDATE identities SET external_id = $4 \
                 WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3 \
                   AND EXISTS (SELECT 1 FROM free)) \
             UPDATE conversations SET peer = $4 \
             WHERE tenant_id = $1 AND channel_id = $2 AND peer = $3 AND EXISTS (SELECT 1 FROM free)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(from)
        .bind(to)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The message that `seq` of a conversation is.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn answered_message(
        &mut self,
        conversation_id: ConversationId,
        seq: i64,
    ) -> Result<Option<AnsweredMessage>> {
        let row = sqlx::query(
            "SELECT external_id, COALESCE(body -> 'raw', 'null') AS raw, \
                    app.micros(accepted_at) AS at \
             FROM inbox WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(seq)
        .fetch_optional(self.connection())
        .await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(AnsweredMessage {
                external_id: row.try_get("external_id")?,
                raw: row.try_get("raw")?,
                at: row::time(row, "at")?,
            })
        };
        row.as_ref().map(read).transpose()
    }

    /// Which pieces of an outbound message the other side has.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn pieces_sent(&mut self, outbox_id: OutboxId) -> Result<Vec<u32>> {
        let rows: Vec<i32> = sqlx::query_scalar(
            "SELECT piece FROM delivery_pieces WHERE tenant_id = $1 AND outbox_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        Ok(rows.into_iter().map(i32::unsigned_abs).collect())
    }

    /// The other side has a piece.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn record_piece(&mut self, sent: SentPiece<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO delivery_pieces \
                 (tenant_id, outbox_id, piece, channel_id, conversation_id, external_id) \
             VALUES ($1, $2, $3, $4, $5, left($6, 500)) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(sent.outbox_id.as_uuid())
        .bind(i32::try_from(sent.piece).unwrap_or(i32::MAX))
        .bind(sent.channel_id.as_uuid())
        .bind(sent.conversation_id.as_uuid())
        .bind(sent.external_id)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The channel's own id of a conversation.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn conversation_peer(&mut self, id: ConversationId) -> Result<Option<String>> {
        let peer = sqlx::query_scalar(
            "SELECT peer FROM conversations WHERE tenant_id = $1 AND conversation_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(peer)
    }

    /// Keeps the platform's id of the message that shows a turn's answer while it grows.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_preview(
        &mut self,
        turn_id: TurnId,
        conversation_id: ConversationId,
        external_id: &str,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO channel_previews (tenant_id, turn_id, conversation_id, external_id) \
             VALUES ($1, $2, $3, left($4, 500)) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(turn_id.as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(external_id)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The platform's id of the message that shows a turn's answer while it grows.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn preview_of(&mut self, turn_id: TurnId) -> Result<Option<String>> {
        let found = sqlx::query_scalar(
            "SELECT external_id FROM channel_previews WHERE tenant_id = $1 AND turn_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(turn_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(found)
    }

    /// What a platform says became of a message. Never goes back from `read` to `delivered`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn record_receipt(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
        state: &str,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE delivery_pieces SET state = $4 \
             WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3 \
               AND array_position(ARRAY['sent', 'delivered', 'read', 'failed'], state) \
                 < array_position(ARRAY['sent', 'delivered', 'read', 'failed'], $4)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .bind(state)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether the channel's platform is to be asked for what arrived.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_polled(&mut self, channel_id: ChannelId, polled: bool) -> Result<()> {
        let statement = if polled {
            "INSERT INTO channel_polls (tenant_id, channel_id) VALUES ($1, $2) \
             ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM channel_polls WHERE tenant_id = $1 AND channel_id = $2"
        };
        sqlx::query(statement)
            .bind(self.tenant_id().as_uuid())
            .bind(channel_id.as_uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Keeps where to go on, and the lease for as long as `lease`. `false` if another node has the
    /// channel, or if it is not polled any more.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_poll(
        &mut self,
        channel_id: ChannelId,
        node: NodeId,
        cursor: Option<&Value>,
        lease: Duration,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE channel_polls SET cursor = COALESCE($4, cursor), \
                 lease_until = now() + $5 * interval '1 millisecond' \
             WHERE tenant_id = $1 AND channel_id = $2 AND owner = $3 AND now() < lease_until",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(node.as_uuid())
        .bind(cursor.map(Json))
        .bind(millis(lease))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
