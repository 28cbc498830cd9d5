//! Copies of files that came in or go out.

use qudao_domain::{ChannelId, ConversationId, MediaId};
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Result, Tx, row};

/// A copy of a file to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewMedia<'a> {
    /// Which: one that is kept already stays as it is.
    pub id: MediaId,
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
    /// The media type.
    pub mime: String,
    /// The file's name.
    pub name: Option<String>,
    /// SHA-256.
    pub sha256: Vec<u8>,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What is known of a copy of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFacts {
    /// Which.
    pub id: MediaId,
    /// The media type.
    pub mime: String,
    /// The file's name.
    pub name: Option<String>,
    /// Bytes.
    pub size: u64,
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

    /// The platform's copy of the file that is a part of a message: `None` while there is none.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn message_media(
        &mut self,
        channel_id: ChannelId,
        conversation_id: ConversationId,
        seq: i64,
        place: usize,
    ) -> Result<Option<MediaFile>> {
        let row = sqlx::query(
            "SELECT body #>> ARRAY['parts', $4, 'upload_id'] AS upload_id FROM inbox \
             WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(seq)
        .bind(place.to_string())
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: Option<String> = row.try_get("upload_id")?;
        match id.and_then(|id| id.parse().ok()) {
            Some(id) => self.channel_media(channel_id, id).await,
            None => Ok(None),
        }
    }

    /// Writes down what a picture shows or what is said in a sound, for the record and for whoever reads the
    /// message later: the words at its part, and the message's text with them. A message that was erased
    /// stays so.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn describe_media(
        &mut self,
        conversation_id: ConversationId,
        seq: i64,
        place: usize,
        words: &str,
        text: &str,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE inbox \
             SET body = jsonb_set(jsonb_set(body, ARRAY['parts', $4, 'alt'], to_jsonb($5::text)), \
                 '{text}', to_jsonb($6::text)) \
             WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 \
               AND body #> ARRAY['parts', $4] IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(seq)
        .bind(place.to_string())
        .bind(words)
        .bind(text)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Keeps a copy of a file.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_media(&mut self, media: NewMedia<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO media (tenant_id, media_id, channel_id, conversation_id, mime, name, size, \
                 sha256, bytes) VALUES ($1, $2, $3, $4, $5, left($6, 255), $7, $8, $9) \
             ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(media.id.as_uuid())
        .bind(media.channel_id.as_uuid())
        .bind(media.conversation_id.map(ConversationId::as_uuid))
        .bind(media.mime)
        .bind(media.name)
        .bind(i64::try_from(media.bytes.len()).unwrap_or(i64::MAX))
        .bind(media.sha256)
        .bind(media.bytes)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// What is known of a channel's files whose bytes are still kept, of those that are asked for.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn channel_media_facts(
        &mut self,
        channel_id: ChannelId,
        ids: &[MediaId],
    ) -> Result<Vec<MediaFacts>> {
        let rows = sqlx::query(
            "SELECT media_id, mime, name, size FROM media \
             WHERE tenant_id = $1 AND channel_id = $2 AND media_id = ANY ($3) \
               AND bytes IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(ids.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(MediaFacts {
                id: row::id(row, "media_id", MediaId::from_uuid)?,
                mime: row.try_get("mime")?,
                name: row.try_get("name")?,
                size: row.try_get::<i64, _>("size")?.unsigned_abs(),
            })
        };
        rows.iter().map(read).collect()
    }

    /// A copy of a conversation's file, if its bytes are still kept.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn conversation_media(
        &mut self,
        channel_id: ChannelId,
        conversation_id: ConversationId,
        id: MediaId,
    ) -> Result<Option<MediaFile>> {
        let row = sqlx::query(
            "SELECT mime, name, sha256, bytes FROM media \
             WHERE tenant_id = $1 AND media_id = $2 AND channel_id = $3 AND conversation_id = $4 \
               AND bytes IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(conversation_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.map(|row| read_file(&row)).transpose()?)
    }

    /// A copy of a channel's file, if its bytes are still kept.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn channel_media(
        &mut self,
        channel_id: ChannelId,
        id: MediaId,
    ) -> Result<Option<MediaFile>> {
        let row = sqlx::query(
            "SELECT mime, name, sha256, bytes FROM media \
             WHERE tenant_id = $1 AND media_id = $2 AND channel_id = $3 AND bytes IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(channel_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.map(|row| read_file(&row)).transpose()?)
    }
}

fn read_file(row: &PgRow) -> Result<MediaFile, sqlx::Error> {
    Ok(MediaFile {
        mime: row.try_get("mime")?,
        name: row.try_get("name")?,
        sha256: row.try_get("sha256")?,
        bytes: row.try_get("bytes")?,
    })
}
