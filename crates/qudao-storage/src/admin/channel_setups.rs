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
    /// As whom its platform knows it.
    pub account: Option<String>,
    /// Raised with each change.
    pub revision: i64,
}

impl Tx {
    /// The settings of a channel, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn channel_setup(&mut self, id: ChannelId) -> Result<Option<ChannelSetup>> {
        let row = sqlx::query(
            "SELECT kind, open, locale, public_key, assistant_id, settings, secrets_sealed, revision, account \
             FROM channels WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read).transpose()?)
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
        account: row.try_get("account")?,
        revision: row.try_get("revision")?,
    })
}
