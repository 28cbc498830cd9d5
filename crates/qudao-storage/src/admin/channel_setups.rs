//! A channel's settings and sealed secrets.

use qudao_domain::{AssistantId, ChannelId, state::ChannelKind};
use serde_json::{Map, Value};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Result, Tx, row};

/// What an adapter needs of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelSetup {
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Whether messages are accepted.
    pub open: bool,
    /// The language of what the platform itself says there.
    pub locale: String,
    /// Under which key strangers and platforms find it.
    pub public_key: Option<String>,
    /// Who answers; nobody on the API.
    pub assistant_id: Option<AssistantId>,
    /// What is no secret.
    pub settings: Map<String, Value>,
    /// One JSON object, sealed: each secret's values that are valid.
    pub secrets_sealed: Option<Vec<u8>>,
    /// Raised with each change.
    pub revision: i64,
}

/// New settings of a channel. What is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ChannelChange<'a> {
    /// What is no secret, all of it.
    pub settings: Option<&'a Map<String, Value>>,
    /// Sealed secrets, all of them.
    pub secrets_sealed: Option<&'a [u8]>,
}

impl Tx {
    /// The settings of a channel, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn channel_setup(&mut self, id: ChannelId) -> Result<Option<ChannelSetup>> {
        let row = sqlx::query(
            "SELECT kind, open, locale, public_key, assistant_id, settings, secrets_sealed, revision \
             FROM channels WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Changes settings. `false` if the channel is not this tenant's, or not at this revision any
    /// more.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn change_channel_setup(
        &mut self,
        id: ChannelId,
        revision: i64,
        change: ChannelChange<'_>,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE channels SET settings = COALESCE($4, settings), \
                 secrets_sealed = COALESCE($5, secrets_sealed), revision = revision + 1 \
             WHERE tenant_id = $1 AND channel_id = $2 AND revision = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(revision)
        .bind(change.settings.map(Json))
        .bind(change.secrets_sealed)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down what came of trying the credentials: as whom the platform knows the channel, or
    /// what is wrong.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn record_channel_connection(
        &mut self,
        id: ChannelId,
        outcome: Result<Option<&str>, &str>,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE channels SET account = CASE WHEN $4::text IS NULL THEN left($3, 200) \
                                           ELSE account END, \
                 connected_at = CASE WHEN $4::text IS NULL THEN now() ELSE connected_at END, \
                 fault = left($4, 500) \
             WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(outcome.ok().flatten())
        .bind(outcome.err())
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

fn read(row: &PgRow) -> Result<ChannelSetup, sqlx::Error> {
    let Json(settings) = row.try_get("settings")?;
    Ok(ChannelSetup {
        kind: row::state(row, "kind", ChannelKind::find)?,
        open: row.try_get("open")?,
        locale: row.try_get("locale")?,
        public_key: row.try_get("public_key")?,
        assistant_id: row::optional_id(row, "assistant_id", AssistantId::from_uuid)?,
        settings,
        secrets_sealed: row.try_get("secrets_sealed")?,
        revision: row.try_get("revision")?,
    })
}
