//! Copies of files that partners bring and that are sent to them.

use qudao_domain::ChannelId;
use sqlx::Row as _;
use uuid::Uuid;

use crate::{Result, Tx};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartnerFile {
    /// The media type.
    pub mime: String,
    /// The file's name.
    pub name: Option<String>,
    /// SHA-256.
    pub sha256: Vec<u8>,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Tx {
    /// Keeps a file of a channel under this id.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn keep_partner_file(
        &mut self,
        channel_id: ChannelId,
        media_id: Uuid,
        file: &PartnerFile,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO media (tenant_id, media_id, channel_id, mime, name, size, sha256, bytes) \
             VALUES ($1, $2, $3, $4, left($5, 255), $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(media_id)
        .bind(channel_id.as_uuid())
        .bind(&file.mime)
        .bind(&file.name)
        .bind(i64::try_from(file.bytes.len()).unwrap_or(i64::MAX))
        .bind(&file.sha256)
        .bind(&file.bytes)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// A file of a channel.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_file(
        &mut self,
        channel_id: ChannelId,
        media_id: Uuid,
    ) -> Result<Option<PartnerFile>> {
        let row = sqlx::query(
            "SELECT mime, name, sha256, bytes FROM media \
             WHERE tenant_id = $1 AND media_id = $2 AND channel_id = $3 AND bytes IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(media_id)
        .bind(channel_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let read = |row: sqlx::postgres::PgRow| {
            Ok::<_, sqlx::Error>(PartnerFile {
                mime: row.try_get("mime")?,
                name: row.try_get("name")?,
                sha256: row.try_get("sha256")?,
                bytes: row.try_get("bytes")?,
            })
        };
        Ok(row.map(read).transpose()?)
    }
}
