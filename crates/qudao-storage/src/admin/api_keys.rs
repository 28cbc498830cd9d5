//! API keys: kept as hashes, found by id before the tenant is known.

use jiff::Timestamp;
use qudao_domain::{
    ApiKeyId, ChannelId, Currency, TenantId,
    key::{ApiKey, SecretHash},
    state::FairCharging,
    text::Name,
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Listing, Page, Result, StorageError, Store, Tx, page::id_cursor, row};

/// A key to be kept.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// What it is called.
    pub name: Name,
    /// The key itself; only its hash is kept.
    pub key: &'a ApiKey,
    /// What it may do, such as `chat` and `admin`.
    pub scopes: Vec<String>,
    /// Until when; `None` for no end.
    pub expires_at: Option<Timestamp>,
}

/// A key as its owner sees it in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Which.
    pub id: ApiKeyId,
    /// What it is called.
    pub name: String,
    /// The last four characters of the secret.
    pub last4: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it works.
    pub expires_at: Option<Timestamp>,
    /// Since when it no longer works.
    pub revoked_at: Option<Timestamp>,
}

/// A key as the door sees it: everything to check a call and to book it.
#[derive(Debug, Clone)]
pub struct KeyHolder {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which key.
    pub key_id: ApiKeyId,
    /// What to compare with.
    pub secret_hash: SecretHash,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Until when it works.
    pub expires_at: Option<Timestamp>,
    /// Since when it no longer works.
    pub revoked_at: Option<Timestamp>,
    /// What the tenant pays in.
    pub currency: Currency,
    /// What the tenant pays for when a reply is cut short.
    pub fair_charging: FairCharging,
    /// The channel that the tenant's API calls are booked on.
    pub channel_id: ChannelId,
}

impl Store {
    /// The key with this id, if there is one, whether it still works or not. The caller compares
    /// the secret.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn find_api_key(&self, id: ApiKeyId) -> Result<Option<KeyHolder>> {
        let mut tx = self.begin_platform().await?;
        let row = sqlx::query(
            "SELECT tenant_id, api_key_id, secret_hash, scopes, currency, fair_charging, channel_id, \
                    app.micros(expires_at) AS expires_at, app.micros(revoked_at) AS revoked_at \
             FROM app.find_api_key($1)",
        )
        .bind(id.as_uuid())
        .fetch_optional(tx.connection())
        .await?;
        tx.commit().await?;
        row.as_ref().map(read_holder).transpose()
    }
}

impl Tx {
    /// Keeps a key.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`] if the tenant does not exist.
    pub async fn create_api_key(&mut self, new: &NewApiKey<'_>) -> Result<ApiKeyRecord> {
        let row = sqlx::query(
            "INSERT INTO api_keys \
                 (tenant_id, api_key_id, name, secret_hash, last4, scopes, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, app.from_micros($7)) \
             RETURNING api_key_id, name, last4, scopes, app.micros(created_at) AS created_at, \
                       app.micros(expires_at) AS expires_at, app.micros(revoked_at) AS revoked_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(new.key.id().as_uuid())
        .bind(new.name.as_str())
        .bind(new.key.hash().as_bytes().as_slice())
        .bind(new.key.last4())
        .bind(&new.scopes)
        .bind(new.expires_at.map(Timestamp::as_microsecond))
        .fetch_one(self.connection())
        .await?;
        Ok(read_key(&row)?)
    }

    /// The tenant's keys, the newest first, revoked ones too.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`] and others.
    pub async fn list_api_keys(&mut self, page: &Page) -> Result<Listing<ApiKeyRecord>> {
        let rows = sqlx::query(
            "SELECT api_key_id, name, last4, scopes, app.micros(created_at) AS created_at, \
                    app.micros(expires_at) AS expires_at, app.micros(revoked_at) AS revoked_at \
             FROM api_keys \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR api_key_id < $2) \
             ORDER BY api_key_id DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |key| id_cursor(key.id.as_uuid())))
    }

    /// Ends a key. `false` if it is not this tenant's. Ending it twice keeps the first time.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn revoke_api_key(&mut self, id: ApiKeyId) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) \
             WHERE tenant_id = $1 AND api_key_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read_key(row: &PgRow) -> Result<ApiKeyRecord, sqlx::Error> {
    Ok(ApiKeyRecord {
        id: row::id(row, "api_key_id", ApiKeyId::from_uuid)?,
        name: row.try_get("name")?,
        last4: row.try_get("last4")?,
        scopes: row.try_get("scopes")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::optional_time(row, "expires_at")?,
        revoked_at: row::optional_time(row, "revoked_at")?,
    })
}

fn read_holder(row: &PgRow) -> Result<KeyHolder> {
    let key_id = row::id(row, "api_key_id", ApiKeyId::from_uuid)?;
    let hash: Vec<u8> = row.try_get("secret_hash")?;
    let secret_hash = SecretHash::from_slice(&hash).ok_or_else(|| StorageError::Inconsistent {
        detail: format!("the hash of {key_id} is {} bytes long", hash.len()),
    })?;
    Ok(KeyHolder {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        key_id,
        secret_hash,
        scopes: row.try_get("scopes")?,
        expires_at: row::optional_time(row, "expires_at")?,
        revoked_at: row::optional_time(row, "revoked_at")?,
        currency: row::currency(row, "currency")?,
        fair_charging: row::state(row, "fair_charging", FairCharging::find)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
    })
}
