//! Channels, and how a visitor who holds a public key finds one.

use jiff::Timestamp;
use qudao_domain::{AssistantId, ChannelId, TenantId, state::ChannelKind, text::Name};
use serde_json::{Map, Value};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Listing, Page, PartnerChannel, Result, Store, Tx, page::id_cursor, row};

/// A messaging channel to be made.
#[derive(Debug, Clone)]
pub struct NewChannel {
    /// Which: its secrets are encrypted for it.
    pub id: ChannelId,
    /// What it is called.
    pub name: Name,
    /// What kind of place it is.
    pub kind: ChannelKind,
    /// Under which key strangers and platforms find it: `wk_…` of a web channel and `ik_…` of
    /// others, with 128 random bits.
    pub public_key: Option<String>,
    /// Who answers.
    pub assistant_id: AssistantId,
    /// The language of what the platform itself says there, such as `zh` or `en`.
    pub locale: String,
    /// What is set that is no secret.
    pub settings: Map<String, Value>,
    /// What is set that is one.
    pub secrets: Option<SealedSecrets>,
}

impl NewChannel {
    /// A channel of the web without settings.
    pub fn web(name: Name, public_key: String, assistant_id: AssistantId, locale: String) -> Self {
        Self {
            id: ChannelId::new(),
            name,
            kind: ChannelKind::Web,
            public_key: Some(public_key),
            assistant_id,
            locale,
            settings: Map::new(),
            secrets: None,
        }
    }
}

/// A channel's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecrets {
    /// All of them, encrypted.
    pub sealed: Vec<u8>,
    /// What they are called.
    pub names: Vec<String>,
}

/// What is to change of a channel. What is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ChannelChange {
    /// What it is called.
    pub name: Option<Name>,
    /// Whether messages are accepted.
    pub open: Option<bool>,
    /// Who answers.
    pub assistant_id: Option<AssistantId>,
    /// What is set that is no secret, all of it.
    pub settings: Option<Map<String, Value>>,
    /// What is set that is one, all of it.
    pub secrets: Option<SealedSecrets>,
}

/// A channel.
#[derive(Debug, Clone, PartialEq)]
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
    /// What is set that is no secret.
    pub settings: Map<String, Value>,
    /// What is set that is one.
    pub secret_names: Vec<String>,
    /// Raised with each change of the settings or secrets.
    pub revision: i64,
    /// As whom its platform knows it.
    pub account: Option<String>,
    /// When its credentials were found good.
    pub connected_at: Option<Timestamp>,
    /// What is wrong with them.
    pub fault: Option<String>,
}

/// What goes on on a channel, beside what is set of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelActivity {
    /// Which.
    pub id: ChannelId,
    /// When somebody wrote there last, as far as its newest thousand conversations tell.
    pub last_message_at: Option<Timestamp>,
    /// Its state as a partner's channel, if it has been one.
    pub partner: Option<PartnerChannel>,
    /// Keys of a partner that are valid.
    pub partner_keys: u32,
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
                       app.micros(created_at) AS created_at, settings, secret_names, revision, \
                       account, app.micros(connected_at) AS connected_at, fault";

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
                 (tenant_id, channel_id, name, kind, public_key, assistant_id, locale, settings, \
                  secrets_sealed, secret_names) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {COLUMNS}"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(new.id.as_uuid())
        .bind(new.name.as_str())
        .bind(new.kind.as_str())
        .bind(new.public_key.as_deref())
        .bind(new.assistant_id.as_uuid())
        .bind(&new.locale)
        .bind(Json(&new.settings))
        .bind(new.secrets.as_ref().map(|secrets| secrets.sealed.as_slice()))
        .bind(new.secrets.as_ref().map(|secrets| secrets.names.as_slice()).unwrap_or_default())
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

    /// Changes a channel. `None` if it is not this tenant's, or not at this revision any more.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`](crate::StorageError) if the assistant is not this
    /// tenant's.
    pub async fn change_channel(
        &mut self,
        id: ChannelId,
        revision: i64,
        change: &ChannelChange,
    ) -> Result<Option<ChannelRecord>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE channels SET name = COALESCE($4, name), open = COALESCE($5, open), \
                 assistant_id = COALESCE($6, assistant_id), settings = COALESCE($7, settings), \
                 secrets_sealed = COALESCE($8, secrets_sealed), \
                 secret_names = COALESCE($9, secret_names), revision = revision + 1 \
             WHERE tenant_id = $1 AND channel_id = $2 AND revision = $3 RETURNING {COLUMNS}"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(revision)
        .bind(change.name.as_ref().map(Name::as_str))
        .bind(change.open)
        .bind(change.assistant_id.map(AssistantId::as_uuid))
        .bind(change.settings.as_ref().map(Json))
        .bind(change.secrets.as_ref().map(|secrets| secrets.sealed.as_slice()))
        .bind(change.secrets.as_ref().map(|secrets| secrets.names.as_slice()))
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_channel).transpose()?)
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

    /// What goes on on these channels, in any order.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn channel_activity(&mut self, ids: &[ChannelId]) -> Result<Vec<ChannelActivity>> {
        let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
        // The last message of each conversation is found by the order of the inbox; the newest
        // conversations alone, so that a channel with a million of them is answered as fast.
        let rows = sqlx::query(
            "SELECT c.channel_id, app.micros(heard.at) AS last_message_at, \
                    p.channel_id IS NOT NULL AS is_partner, COALESCE(p.sandbox, true) AS sandbox, \
                    COALESCE(p.capabilities, '{}') AS capabilities, p.verified_url, \
                    p.disabled_at IS NOT NULL AS disabled, COALESCE(p.last_cursor, 0) AS last_cursor, \
                    COALESCE(p.acked_cursor, 0) AS acked_cursor, COALESCE(p.failures, 0) AS failures, \
                    p.paused_until IS NOT NULL AS paused, \
                    (SELECT count(*)::int FROM partner_keys k WHERE k.tenant_id = $1 \
                        AND k.channel_id = c.channel_id \
                        AND (k.expires_at IS NULL OR now() < k.expires_at)) AS partner_keys \
             FROM channels c \
             LEFT JOIN partner_channels p ON p.tenant_id = $1 AND p.channel_id = c.channel_id \
             LEFT JOIN LATERAL ( \
                 SELECT max(i.accepted_at) AS at \
                 FROM (SELECT conversation_id, last_seq FROM conversations v \
                       WHERE v.tenant_id = $1 AND v.channel_id = c.channel_id \
                       ORDER BY v.conversation_id DESC LIMIT 1000) newest \
                 JOIN inbox i ON i.tenant_id = $1 \
                     AND i.conversation_id = newest.conversation_id AND i.seq = newest.last_seq \
             ) heard ON true \
             WHERE c.tenant_id = $1 AND c.channel_id = ANY ($2)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(ids)
        .fetch_all(self.connection())
        .await?;
        Ok(rows.iter().map(read_activity).collect::<Result<_, _>>()?)
    }
}

fn read_activity(row: &PgRow) -> Result<ChannelActivity, sqlx::Error> {
    let partner = row.try_get("is_partner")?;
    Ok(ChannelActivity {
        id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        last_message_at: row::optional_time(row, "last_message_at")?,
        partner: if partner { Some(crate::partner::read_channel(row)?) } else { None },
        partner_keys: row::count(row, "partner_keys")?,
    })
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
        settings: row.try_get::<Json<_>, _>("settings")?.0,
        secret_names: row.try_get("secret_names")?,
        revision: row.try_get("revision")?,
        account: row.try_get("account")?,
        connected_at: row::optional_time(row, "connected_at")?,
        fault: row.try_get("fault")?,
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
