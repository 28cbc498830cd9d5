//! What visitors of a web page leave beside messages: files, and how they liked it.

use jiff::Timestamp;
use qudao_domain::{ChannelId, ContactId, ConversationId, MediaId};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Result, Tx, row};

/// A file that somebody sent.
#[derive(Debug, Clone, Copy)]
pub struct NewUpload<'a> {
    /// The same for the same file of the same message, so that sending it again changes nothing.
    pub id: MediaId,
    /// Where it came in.
    pub channel_id: ChannelId,
    /// Where it was said.
    pub conversation_id: ConversationId,
    /// What its bytes say that it is.
    pub mime: &'a str,
    /// What its sender calls it, at most 255 characters.
    pub name: &'a str,
    /// Of its bytes.
    pub sha256: &'a [u8; 32],
    /// The file.
    pub bytes: &'a [u8],
}

/// Bytes of files that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadedBytes {
    /// Of one conversation.
    pub conversation: u64,
    /// Of a whole channel, within the last day.
    pub channel: u64,
}

/// How conversations of a channel were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RatingCount {
    /// Where.
    pub channel_id: ChannelId,
    /// How often each score was given: 1 first, 5 last.
    pub scores: [i64; 5],
}

/// How one conversation was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rating {
    /// Which.
    pub conversation_id: ConversationId,
    /// Where.
    pub channel_id: ChannelId,
    /// In whose words.
    pub contact_id: ContactId,
    /// 1 to 5.
    pub score: u8,
    /// When they said so.
    pub at: Timestamp,
}

impl Tx {
    /// How often each score was given in the last `days`, for each channel that has one.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn count_ratings(&mut self, days: u32) -> Result<Vec<RatingCount>> {
        let rows = sqlx::query(
            "SELECT channel_id, array_agg(given ORDER BY score) AS scores FROM ( \
                 SELECT r.channel_id, s.score, count(*) FILTER (WHERE r.score = s.score) AS given \
                 FROM ratings r CROSS JOIN generate_series(1, 5) AS s (score) \
                 WHERE r.tenant_id = $1 AND now() - $2 * interval '1 day' < r.rated_at \
                 GROUP BY r.channel_id, s.score) counted \
             GROUP BY channel_id ORDER BY channel_id DESC",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(f64::from(days))
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            let scores: Vec<i64> = row.try_get("scores")?;
            Ok(RatingCount {
                channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
                scores: scores.try_into().unwrap_or_default(),
            })
        };
        rows.iter().map(read).collect()
    }

    /// The last ratings, the newest first.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn latest_ratings(&mut self, days: u32, limit: u32) -> Result<Vec<Rating>> {
        let rows = sqlx::query(
            "SELECT conversation_id, r.channel_id, contact_id, score, \
                    app.micros(rated_at) AS rated_at \
             FROM ratings r JOIN conversations v USING (tenant_id, conversation_id) \
             WHERE tenant_id = $1 AND now() - $2 * interval '1 day' < rated_at \
             ORDER BY rated_at DESC, conversation_id LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(f64::from(days))
        .bind(i64::from(limit))
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(Rating {
                conversation_id: row::id(row, "conversation_id", ConversationId::from_uuid)?,
                channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
                contact_id: row::id(row, "contact_id", ContactId::from_uuid)?,
                score: u8::try_from(row.try_get::<i16, _>("score")?).unwrap_or_default(),
                at: row::time(row, "rated_at")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// How much is kept of what was sent. `conversation_id` is `None` before anything was said.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn uploaded_bytes(
        &mut self,
        channel_id: ChannelId,
        conversation_id: Option<ConversationId>,
    ) -> Result<UploadedBytes> {
        let row = sqlx::query(
            "SELECT (SELECT COALESCE(sum(size), 0)::bigint FROM media \
                     WHERE tenant_id = $1 AND conversation_id = $3) AS conversation, \
                    (SELECT COALESCE(sum(size), 0)::bigint FROM media \
                     WHERE tenant_id = $1 AND channel_id = $2 \
                       AND created_at > now() - interval '1 day') AS channel",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(conversation_id.map(ConversationId::as_uuid))
        .fetch_one(self.connection())
        .await?;
        let bytes = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
        Ok(UploadedBytes { conversation: bytes("conversation")?, channel: bytes("channel")? })
    }

    /// Keeps a file, once.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_upload(&mut self, upload: NewUpload<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO media (tenant_id, media_id, channel_id, conversation_id, mime, name, \
                                size, sha256, bytes) \
             VALUES ($1, $2, $3, $4, $5, $6, octet_length($8), $7, $8) \
             ON CONFLICT (tenant_id, media_id) DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(upload.id.as_uuid())
        .bind(upload.channel_id.as_uuid())
        .bind(upload.conversation_id.as_uuid())
        .bind(upload.mime)
        .bind(upload.name)
        .bind(&upload.sha256[..])
        .bind(upload.bytes)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Notes how a conversation was, 1 to 5. A later word of the same day takes the place of the
    /// earlier one.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn rate_conversation(
        &mut self,
        channel_id: ChannelId,
        conversation_id: ConversationId,
        score: u8,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO ratings (tenant_id, conversation_id, day, channel_id, score) \
             VALUES ($1, $2, (now() AT TIME ZONE 'UTC')::date, $3, $4) \
             ON CONFLICT (tenant_id, conversation_id, day) \
             DO UPDATE SET score = EXCLUDED.score, rated_at = now()",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(i16::from(score))
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
