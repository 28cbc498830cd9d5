//! Messages that belong together and come one by one, such as an album's pictures; and what a button
//! says that could not carry it.

use std::time::Duration;

use qudao_domain::{ChannelId, ConversationId, OutboxId, text::ExternalId};

use crate::{Inbound, MessageBody, ReplyBody, Result, StorageError, Tx, claim::millis};

/// How far back in a conversation the other pieces of a whole are looked for, in messages.
const LOOK_BACK: i64 = 40;

impl Tx {
    /// Makes all who take pieces of one album wait for each other until the transaction ends.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn lock_album(
        &mut self,
        channel_id: ChannelId,
        peer: &ExternalId,
        album: &str,
    ) -> Result<()> {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text || $2 || $3, 1))")
            .bind(channel_id.as_uuid().to_string())
            .bind(peer.as_str())
            .bind(album)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Whether a piece of an album is among the last messages of a conversation.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn has_piece(
        &mut self,
        channel_id: ChannelId,
        peer: &ExternalId,
        album: &str,
    ) -> Result<bool> {
        let found = sqlx::query_scalar(
            "SELECT EXISTS ( \
                 SELECT 1 FROM conversations c JOIN inbox i USING (tenant_id, conversation_id) \
                 WHERE c.tenant_id = $1 AND c.channel_id = $2 AND c.peer = $3 \
                   AND i.seq > c.last_seq - $5 AND i.body ->> 'album' = $4)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(peer.as_str())
        .bind(album)
        .bind(LOOK_BACK)
        .fetch_one(self.connection())
        .await?;
        Ok(found)
    }

    /// Takes the pieces of an album that were overheard within the last minute: the album turned out
    /// to be meant for the assistant. Each is taken once.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn take_overheard(
        &mut self,
        channel_id: ChannelId,
        peer: &ExternalId,
        album: &str,
    ) -> Result<Vec<Inbound>> {
        let bodies: Vec<serde_json::Value> = sqlx::query_scalar(
            "WITH taken AS ( \
                 UPDATE channel_events SET kind = 'piece' \
                 WHERE tenant_id = $1 AND channel_id = $2 AND thread = $3 AND kind = 'overheard' \
                   AND body ->> 'album' = $4 AND received_at > now() - interval '1 minute' \
                 RETURNING received_at, event_id, body) \
             SELECT body FROM taken ORDER BY received_at, event_id",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(peer.as_str())
        .bind(album)
        .fetch_all(self.connection())
        .await?;
        let read = |mut body: serde_json::Value| {
            let external_id = ExternalId::parse(body["external_id"].as_str()?).ok()?;
            let body: MessageBody = serde_json::from_value(body["message"].take()).ok()?;
            Some(Inbound { channel_id, external_id, peer: peer.clone(), body })
        };
        let odd = || StorageError::Inconsistent { detail: "an overheard piece".to_owned() };
        bodies.into_iter().map(|body| read(body).ok_or_else(odd)).collect()
    }

    /// The answer to a conversation's messages waits until nothing was added for as long as `quiet`,
    /// and for at most `most` from the first of them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn wait_for_more(
        &mut self,
        conversation_id: ConversationId,
        quiet: Duration,
        most: Duration,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE conversations c \
             SET quiet_until = LEAST( \
                 now() + $3 * interval '1 millisecond', \
                 (SELECT i.accepted_at + $4 * interval '1 millisecond' FROM inbox i \
                  WHERE i.tenant_id = c.tenant_id AND i.conversation_id = c.conversation_id \
                    AND i.seq = c.done_seq + 1)) \
             WHERE c.tenant_id = $1 AND c.conversation_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(millis(quiet))
        .bind(millis(most))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// A message that was sent to `peer` on a channel, and to nobody else.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn message_sent_to(
        &mut self,
        channel_id: ChannelId,
        peer: &str,
        outbox_id: OutboxId,
    ) -> Result<Option<ReplyBody>> {
        let body: Option<sqlx::types::Json<ReplyBody>> = sqlx::query_scalar(
            "SELECT o.body FROM outbox o JOIN conversations c USING (tenant_id, conversation_id) \
             WHERE o.tenant_id = $1 AND o.outbox_id = $2 AND c.channel_id = $3 AND c.peer = $4",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(peer)
        .fetch_optional(self.connection())
        .await?;
        Ok(body.map(|body| body.0))
    }
}
