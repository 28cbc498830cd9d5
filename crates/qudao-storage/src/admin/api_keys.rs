//! API keys: kept as hashes, found by id before the tenant is known.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{
    ApiKeyId, ChannelId, Currency, TenantId,
    access::Scopes,
    key::{ApiKey, SecretHash},
    state::FairCharging,
    text::Name,
};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use crate::{Listing, Page, Result, Store, Tx, page::id_cursor, row};

/// A key to be kept.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// What it is called.
    pub name: Name,
    /// The key itself; only its hash is kept.
    pub key: &'a ApiKey,
    /// What it may do.
    pub scopes: Scopes,
    /// Until when; `None` for no end.
    pub expires_at: Option<Timestamp>,
    /// The networks that it may be used from, as CIDR; from anywhere if empty.
    pub allowed_networks: Vec<String>,
    /// Who made it, as the audit log names them.
    pub made_by: String,
    /// The key whose place it takes.
    pub replaces: Option<ApiKeyId>,
}

impl<'a> NewApiKey<'a> {
    /// A key of the operator's making that works from anywhere and has no end.
    pub fn new(name: Name, key: &'a ApiKey, scopes: Scopes) -> Self {
        let (allowed_networks, made_by) = (Vec::new(), "operator".to_owned());
        Self { name, key, scopes, expires_at: None, allowed_networks, made_by, replaces: None }
    }
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
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it works.
    pub expires_at: Option<Timestamp>,
    /// Since when it no longer works.
    pub revoked_at: Option<Timestamp>,
    /// The networks that it may be used from; from anywhere if empty.
    pub allowed_networks: Vec<String>,
    /// When it was last used, some seconds late.
    pub last_used_at: Option<Timestamp>,
    /// Who made it; empty if it was made before that was kept.
    pub made_by: String,
    /// The key whose place it took.
    pub replaces: Option<ApiKeyId>,
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
    pub scopes: Scopes,
    /// The networks that it may be used from, as CIDR; from anywhere if empty.
    pub allowed_networks: Vec<String>,
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
    /// [`crate::StorageError`].
    pub async fn find_api_key(&self, id: ApiKeyId) -> Result<Option<KeyHolder>> {
        let mut tx = self.begin_platform().await?;
        let row = sqlx::query(
            "SELECT tenant_id, api_key_id, secret_hash, scopes, allowed_networks, currency, \
                    fair_charging, channel_id, \
                    app.micros(expires_at) AS expires_at, app.micros(revoked_at) AS revoked_at \
             FROM app.find_key_holder($1)",
        )
        .bind(id.as_uuid())
        .fetch_optional(tx.connection())
        .await?;
        tx.commit().await?;
        Ok(row.as_ref().map(read_holder).transpose()?)
    }
}

impl Tx {
    /// Keeps a key.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`] if the tenant does not exist.
    pub async fn create_api_key(&mut self, new: &NewApiKey<'_>) -> Result<ApiKeyRecord> {
        let statement = format!(
            "INSERT INTO api_keys (tenant_id, api_key_id, name, secret_hash, last4, scopes, \
                 expires_at, allowed_networks, made_by, replaces) \
             VALUES ($1, $2, $3, $4, $5, $6, app.from_micros($7), $8, $9, $10) RETURNING {COLUMNS}"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(new.key.id().as_uuid())
            .bind(new.name.as_str())
            .bind(new.key.hash().as_bytes().as_slice())
            .bind(new.key.last4())
            .bind(new.scopes.words())
            .bind(new.expires_at.map(Timestamp::as_microsecond))
            .bind(&new.allowed_networks)
            .bind(&new.made_by)
            .bind(new.replaces.map(ApiKeyId::as_uuid))
            .fetch_one(self.connection())
            .await?;
        Ok(read_key(&row)?)
    }

    /// One of the tenant's keys.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn api_key(&mut self, id: ApiKeyId) -> Result<Option<ApiKeyRecord>> {
        let statement =
            format!("SELECT {COLUMNS} FROM api_keys WHERE tenant_id = $1 AND api_key_id = $2");
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read_key).transpose()?)
    }

    /// The tenant's keys, the newest first, revoked ones too.
    ///
    /// # Errors
    /// [`crate::StorageError::BadCursor`] and others.
    pub async fn list_api_keys(&mut self, page: &Page) -> Result<Listing<ApiKeyRecord>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM api_keys \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR api_key_id < $2) \
             ORDER BY api_key_id DESC LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(page.after_id()?)
            .bind(page.probe_limit())
            .fetch_all(self.connection())
            .await?;
        let items = rows.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |key| id_cursor(key.id.as_uuid())))
    }

    /// Lets a key end after `overlap`, unless it ends before that anyway. `false` if it is not this
    /// tenant's or does not work any more.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn expire_api_key(&mut self, id: ApiKeyId, overlap: Duration) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE api_keys SET expires_at = \
                 least(expires_at, now() + $3::bigint * interval '1 millisecond') \
             WHERE tenant_id = $1 AND api_key_id = $2 AND revoked_at IS NULL \
               AND (expires_at IS NULL OR now() < expires_at)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps when keys were last used; earlier times than the kept ones change nothing.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn mark_keys_used(&mut self, uses: &[(ApiKeyId, Timestamp)]) -> Result<()> {
        let (ids, times): (Vec<_>, Vec<_>) =
            uses.iter().map(|(id, at)| (id.as_uuid(), at.as_microsecond())).unzip();
        sqlx::query(
            "UPDATE api_keys k SET last_used_at = app.from_micros(u.at) \
             FROM unnest($2::uuid[], $3::bigint[]) AS u (api_key_id, at) \
             WHERE k.tenant_id = $1 AND k.api_key_id = u.api_key_id \
               AND (k.last_used_at IS NULL OR k.last_used_at < app.from_micros(u.at))",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(ids)
        .bind(times)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Ends a key. `false` if it is not this tenant's. Ending it twice keeps the first time.
    ///
    /// # Errors
    /// [`crate::StorageError`].
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

const COLUMNS: &str = "api_key_id, name, last4, scopes, allowed_networks, made_by, replaces, \
     app.micros(created_at) AS created_at, app.micros(expires_at) AS expires_at, \
     app.micros(revoked_at) AS revoked_at, app.micros(last_used_at) AS last_used_at";

fn read_key(row: &PgRow) -> Result<ApiKeyRecord, sqlx::Error> {
    Ok(ApiKeyRecord {
        id: row::id(row, "api_key_id", ApiKeyId::from_uuid)?,
        name: row.try_get("name")?,
        last4: row.try_get("last4")?,
        scopes: row::scopes(row)?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::optional_time(row, "expires_at")?,
        revoked_at: row::optional_time(row, "revoked_at")?,
        allowed_networks: row.try_get("allowed_networks")?,
        last_used_at: row::optional_time(row, "last_used_at")?,
        made_by: row.try_get("made_by")?,
        replaces: row::optional_id(row, "replaces", ApiKeyId::from_uuid)?,
    })
}

fn read_holder(row: &PgRow) -> Result<KeyHolder, sqlx::Error> {
    Ok(KeyHolder {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        key_id: row::id(row, "api_key_id", ApiKeyId::from_uuid)?,
        secret_hash: row::secret_hash(row)?,
        scopes: row::scopes(row)?,
        allowed_networks: row.try_get("allowed_networks")?,
        expires_at: row::optional_time(row, "expires_at")?,
        revoked_at: row::optional_time(row, "revoked_at")?,
        currency: row::currency(row, "currency")?,
        fair_charging: row::state(row, "fair_charging", FairCharging::find)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
    })
}
