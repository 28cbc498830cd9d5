//! Channels, and how a visitor who holds a public key finds one.

use jiff::Timestamp;
use qudao_domain::{AssistantId, ChannelId, TenantId, state::ChannelKind, text::Name};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Listing, Page, Result, Store, Tx, page::id_cursor, row};

/// A messaging channel to be made.
#[derive(Debug, Clone)]
pub struct NewChannel {
    /// What it is called.
    pub name: Name,
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Under which key strangers find it: `wk_…` with 128 random bits; web only.
    pub public_key: Option<String>,
    /// Who answers.
    pub assistant_id: AssistantId,
    /// The language of what the platform itself says there, such as `zh` or `en`.
    pub locale: String,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRecord {
    /// Which.
    pub id: ChannelId,
    /// What it is called.
    pub name: String,
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Under which key strangers find it.
    pub public_key: Option<String>,
    /// Who answers; nobody on the API, where the caller brings the messages.
    pub assistant_id: Option<AssistantId>,
    /// The language of what the platform itself says there.
    pub locale: String,
    /// Whether messages are accepted.
    pub open: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A channel as a stranger finds it. Holds nothing that is not for everybody but the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelDoor {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which.
    pub channel_id: ChannelId,
    /// What it is called.
    pub name: String,
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Whether messages are accepted.
    pub open: bool,
    /// The language of what the platform itself says there.
    pub locale: String,
    /// Who answers.
    pub assistant_id: AssistantId,
    /// The assistant's name.
    pub assistant_name: String,
    /// What a person sees before they write; may be empty.
    pub greeting: String,
}

const COLUMNS: &str = "channel_id, name, kind, public_key, assistant_id, locale, open, \
                       app.micros(created_at) AS created_at";

impl Store {
    /// The channel with this public key, if there is one.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_channel_by_public_key(&self, key: &str) -> Result<Option<ChannelDoor>> {
        let mut tx = self.begin_platform().await?;
        let row = sqlx::query(
            "SELECT tenant_id, channel_id, name, kind, open, locale, assistant_id, assistant_name, \
                    greeting \
             FROM app.find_door($1)",
        )
        .bind(key)
        .fetch_optional(tx.connection())
        .await?;
        tx.commit().await?;
        Ok(row.as_ref().map(read_door).transpose()?)
    }
}

impl Tx {
    /// Makes a channel.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`](crate::StorageError) if the assistant is not this
    /// tenant's.
    pub async fn create_channel(&mut self, new: &NewChannel) -> Result<ChannelRecord> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "INSERT INTO channels \
                 (tenant_id, channel_id, name, kind, public_key, assistant_id, locale) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(ChannelId::new().as_uuid())
        .bind(new.name.as_str())
        .bind(new.kind.as_str())
        .bind(new.public_key.as_deref())
        .bind(new.assistant_id.as_uuid())
        .bind(&new.locale)
        .fetch_one(self.connection())
        .await?;
        Ok(read_channel(&row)?)
    }

    /// The channel, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_channel(&mut self, id: ChannelId) -> Result<Option<ChannelRecord>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM channels WHERE tenant_id = $1 AND channel_id = $2"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_channel).transpose()?)
    }

    /// Opens or closes a channel. `false` if it is not this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_channel_open(&mut self, id: ChannelId, open: bool) -> Result<bool> {
        let done =
            sqlx::query("UPDATE channels SET open = $3 WHERE tenant_id = $1 AND channel_id = $2")
                .bind(self.tenant_id().as_uuid())
                .bind(id.as_uuid())
                .bind(open)
                .execute(self.connection())
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The tenant's channels, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_channels(&mut self, page: &Page) -> Result<Listing<ChannelRecord>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM channels \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR channel_id < $2) \
             ORDER BY channel_id DESC LIMIT $3"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_channel).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |channel| id_cursor(channel.id.as_uuid())))
    }
}

fn read_channel(row: &PgRow) -> Result<ChannelRecord, sqlx::Error> {
    Ok(ChannelRecord {
        id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        name: row.try_get("name")?,
        kind: row::state(row, "kind", ChannelKind::find)?,
        public_key: row.try_get("public_key")?,
        assistant_id: row::optional_id(row, "assistant_id", AssistantId::from_uuid)?,
        locale: row.try_get("locale")?,
        open: row.try_get("open")?,
        created_at: row::time(row, "created_at")?,
    })
}

fn read_door(row: &PgRow) -> Result<ChannelDoor, sqlx::Error> {
    Ok(ChannelDoor {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        name: row.try_get("name")?,
        kind: row::state(row, "kind", ChannelKind::find)?,
        open: row.try_get("open")?,
        locale: row.try_get("locale")?,
        assistant_id: row::id(row, "assistant_id", AssistantId::from_uuid)?,
        assistant_name: row.try_get("assistant_name")?,
        greeting: row.try_get("greeting")?,
    })
}
