//! Copies of files that came in or go out.

use jiff::Timestamp;
use qudao_domain::{ChannelId, ConversationId, MediaId};
use serde_json::Value;
use sqlx::{Row as _, types::Json};

use crate::{Result, Tx, row};

/// A copy of a file to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewMedia<'a> {
    /// Where it came in or goes out.
    pub channel_id: ChannelId,
    /// In which conversation, once that is known.
    pub conversation_id: Option<ConversationId>,
    /// Its media type.
    pub mime: &'a str,
    /// Its name.
    pub name: Option<&'a str>,
    /// SHA-256.
    pub sha256: &'a [u8],
    /// What is in it.
    pub bytes: &'a [u8],
}

/// A copy of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFile {
    /// Where it came in or goes out.
    pub channel_id: ChannelId,
    /// Its media type.
    pub mime: String,
    /// Its name.
    pub name: Option<String>,
    /// SHA-256.
    pub sha256: Vec<u8>,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// When it was kept.
    pub created_at: Timestamp,
}

impl Tx {
    /// Puts the platform's copy of a file in the place of its id at the platform: `place` is the
    /// part of the message, `media` the part's new JSON.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn attach_media(
        &mut self,
        conversation_id: ConversationId,
        seq: i64,
        place: usize,
        media: &Value,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE inbox SET body = jsonb_set(body, ARRAY['parts', $4], (body #> ARRAY['parts', $4]) || $5) \
             WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 \
               AND body #> ARRAY['parts', $4] IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(seq)
        .bind(place.to_string())
        .bind(Json(media))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Keeps a copy of a file and returns its id.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_media(&mut self, media: NewMedia<'_>) -> Result<MediaId> {
        let id = MediaId::new();
        sqlx::query(
            "INSERT INTO media (tenant_id, media_id, channel_id, conversation_id, mime, name, size, \
                 sha256, bytes) VALUES ($1, $2, $3, $4, $5, left($6, 255), $7, $8, $9)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(media.channel_id.as_uuid())
        .bind(media.conversation_id.map(ConversationId::as_uuid))
        .bind(media.mime)
        .bind(media.name)
        .bind(i64::try_from(media.bytes.len()).unwrap_or(i64::MAX))
        .bind(media.sha256)
        .bind(media.bytes)
        .execute(self.connection())
        .await?;
        Ok(id)
    }

    /// A copy of a file, if it is this tenant's and its bytes are still kept.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn media(&mut self, id: MediaId) -> Result<Option<MediaFile>> {
        let row = sqlx::query(
            "SELECT channel_id, mime, name, sha256, bytes, app.micros(created_at) AS created_at \
             FROM media WHERE tenant_id = $1 AND media_id = $2 AND bytes IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(MediaFile {
                channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
                mime: row.try_get("mime")?,
                name: row.try_get("name")?,
                sha256: row.try_get("sha256")?,
                bytes: row.try_get("bytes")?,
                created_at: row::time(row, "created_at")?,
            })
        };
        row.as_ref().map(read).transpose()
    }
}
