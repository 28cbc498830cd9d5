//! Events from a partner: which were taken, and what was said to them.

use qudao_domain::{ChannelId, ContactId, ConversationId};
use serde_json::Value;
use sqlx::{Row as _, types::Json};

use crate::{Result, Tx, row};

/// An event that came before.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownInbound {
    /// What is kept of it.
    pub body: Value,
}

/// A partner's conversation, locked until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartnerThread {
    /// The last number that was given to an event to the partner.
    pub out_seq: i64,
    /// The last number that was given to a message from it.
    pub in_seq: i64,
    /// A person of the partner answers.
    pub handed_off: bool,
}

impl Tx {
    /// Takes an event's id, unless it is known: then what is kept of it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn claim_channel_event(
        &mut self,
        channel_id: ChannelId,
        (event_id, kind, thread): (&str, &str, &str),
        body: &Value,
    ) -> Result<Option<KnownInbound>> {
        let made = sqlx::query(
            "INSERT INTO channel_events (tenant_id, channel_id, event_id, kind, thread, body) \
             VALUES ($1, $2, $3, left($4, 60), left($5, 200), $6) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(event_id)
        .bind(kind)
        .bind(thread)
        .bind(Json(body))
        .execute(self.connection())
        .await?;
        if made.rows_affected() == 1 {
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT body FROM channel_events \
             WHERE tenant_id = $1 AND channel_id = $2 AND event_id = $3 FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(event_id)
        .fetch_one(self.connection())
        .await?;
        let Json(body) = row.try_get("body")?;
        Ok(Some(KnownInbound { body }))
    }

    /// Keeps something else of an event.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_channel_event(
        &mut self,
        channel_id: ChannelId,
        event_id: &str,
        body: &Value,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE channel_events SET body = $4 \
             WHERE tenant_id = $1 AND channel_id = $2 AND event_id = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(event_id)
        .bind(Json(body))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// A partner's conversation, which is made if it is new, locked.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn lock_partner_thread(
        &mut self,
        channel_id: ChannelId,
        thread: &str,
    ) -> Result<PartnerThread> {
        let row = sqlx::query(
            "INSERT INTO partner_threads (tenant_id, channel_id, thread) VALUES ($1, $2, $3) \
             ON CONFLICT (tenant_id, channel_id, thread) DO UPDATE SET thread = excluded.thread \
             RETURNING out_seq, in_seq, handed_off",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(thread)
        .fetch_one(self.connection())
        .await?;
        Ok(PartnerThread {
            out_seq: row.try_get("out_seq")?,
            in_seq: row.try_get("in_seq")?,
            handed_off: row.try_get("handed_off")?,
        })
    }

    /// Keeps the state of a conversation that was locked.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_partner_thread(
        &mut self,
        channel_id: ChannelId,
        thread: &str,
        to: PartnerThread,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE partner_threads SET out_seq = $4, in_seq = $5, handed_off = $6 \
             WHERE tenant_id = $1 AND channel_id = $2 AND thread = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(thread)
        .bind(to.out_seq)
        .bind(to.in_seq)
        .bind(to.handed_off)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The channel's own id of a message of a conversation.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn inbound_external_id(
        &mut self,
        conversation_id: ConversationId,
        seq: i64,
    ) -> Result<Option<String>> {
        Ok(sqlx::query_scalar(
            "SELECT external_id FROM inbox \
             WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(seq)
        .fetch_optional(self.connection())
        .await?)
    }

    /// How the person of a conversation came here; the first word of it stays.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn attribute_conversation(
        &mut self,
        channel_id: ChannelId,
        conversation_id: ConversationId,
        attribution: &Value,
    ) -> Result<()> {
        let row = sqlx::query(
            "SELECT contact_id FROM conversations WHERE tenant_id = $1 AND conversation_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(()) };
        let contact_id = row::id(&row, "contact_id", ContactId::from_uuid)?;
        sqlx::query(
            "INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(contact_id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(Json(attribution))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Whether the person of a conversation takes messages, as the platform there says.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_peer_reachable(
        &mut self,
        channel_id: ChannelId,
        peer: &str,
        reachable: bool,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE identities SET unreachable_at = CASE WHEN $4 THEN NULL \
                                                    ELSE COALESCE(unreachable_at, now()) END \
             WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(peer)
        .bind(reachable)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
