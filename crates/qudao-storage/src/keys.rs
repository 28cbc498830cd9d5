//! Wrapped keys. What they are wrapped with is never here, and what they open is the caller's.
//!
//! Keys of the platform's own secrets are kept under [`Once::OPERATOR`](crate::Once::OPERATOR),
//! the nil id.

use qudao_domain::TenantId;
use sqlx::{Row as _, postgres::PgRow};

use crate::{PlatformTx, Result, StorageError, Store, Tx, row};

/// A tenant's key as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which of the tenant's keys, from 1.
    pub version: u32,
    /// The key, wrapped.
    pub wrapped: Vec<u8>,
    /// The id of the master key that wraps it.
    pub master_key_id: String,
}

/// What became of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddKey {
    /// It is the tenant's newest.
    Added,
    /// Another node was faster with this version.
    Exists,
    /// Its master key is not the one in use.
    OtherMaster,
}

/// A master key as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKeyRecord {
    /// A hash of it.
    pub id: String,
    /// A value that it sealed.
    pub check_value: Vec<u8>,
    /// Whether it wraps new keys.
    pub in_use: bool,
    /// How many keys it wraps.
    pub wraps: u64,
}

impl Tx {
    /// The tenant's keys, the oldest first. As many as there were rotations, plus one.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn data_keys(&mut self) -> Result<Vec<WrappedKey>> {
        let rows = sqlx::query(
            "SELECT key_version, wrapped, master_key_id FROM tenant_keys \
             WHERE tenant_id = $1 ORDER BY key_version LIMIT 10000",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(WrappedKey {
                version: row::count(row, "key_version")?,
                wrapped: row.try_get("wrapped")?,
                master_key_id: row.try_get("master_key_id")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Adds a key; the tenant's others are retired with it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn add_data_key(&mut self, key: &WrappedKey) -> Result<AddKey> {
        let outcome: String = sqlx::query_scalar("SELECT app.add_tenant_key($1, $2, $3)")
            .bind(version_column(key.version))
            .bind(&key.wrapped)
            .bind(&key.master_key_id)
            .fetch_one(self.connection())
            .await?;
        match outcome.as_str() {
            "added" => Ok(AddKey::Added),
            "exists" => Ok(AddKey::Exists),
            "other_master" => Ok(AddKey::OtherMaster),
            other => Err(StorageError::unknown_outcome("app.add_tenant_key", other)),
        }
    }

    /// Exchanges the wrapping of a key. `false` if it is no longer wrapped by `before`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn rewrap_data_key(&mut self, before: &str, key: &WrappedKey) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE tenant_keys SET wrapped = $4, master_key_id = $5 \
             WHERE tenant_id = $1 AND key_version = $2 AND master_key_id = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(version_column(key.version))
        .bind(before)
        .bind(&key.wrapped)
        .bind(&key.master_key_id)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

impl PlatformTx {
    /// Waits for whoever else decides about the master keys; until the transaction ends.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn lock_master_keys(&mut self) -> Result<()> {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('qudao master keys', 0))")
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The master keys that this database has seen.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn master_keys(&mut self) -> Result<Vec<MasterKeyRecord>> {
        let rows = sqlx::query(
            "SELECT m.master_key_id, m.check_value, m.in_use, c.keys \
             FROM master_keys m JOIN app.count_tenant_keys() c USING (master_key_id) \
             ORDER BY m.created_at, m.master_key_id LIMIT 1000",
        )
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(MasterKeyRecord {
                id: row.try_get("master_key_id")?,
                check_value: row.try_get("check_value")?,
                in_use: row.try_get("in_use")?,
                wraps: row.try_get::<i64, _>("keys")?.unsigned_abs(),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Makes a master key known, and takes it into use if none is.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn add_master_key(&mut self, id: &str, check_value: &[u8]) -> Result<()> {
        sqlx::query(
            "INSERT INTO master_keys (master_key_id, check_value, in_use) \
             VALUES ($1, $2, NOT EXISTS (SELECT FROM master_keys WHERE in_use)) \
             ON CONFLICT ON CONSTRAINT master_keys_pk DO NOTHING",
        )
        .bind(id)
        .bind(check_value)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes a known master key into use in the place of the one before.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn use_master_key(&mut self, id: &str) -> Result<()> {
        for (statement, in_use) in [
            ("UPDATE master_keys SET in_use = false WHERE in_use AND master_key_id <> $1", false),
            ("UPDATE master_keys SET in_use = true WHERE master_key_id = $1", true),
        ] {
            let done = sqlx::query(statement).bind(id).execute(self.connection()).await?;
            if in_use && done.rows_affected() == 0 {
                let detail = format!("the master key {id} is not known");
                return Err(StorageError::Inconsistent { detail });
            }
        }
        Ok(())
    }
}

impl Store {
    /// The master keys that this database has seen.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn master_keys(&self) -> Result<Vec<MasterKeyRecord>> {
        let mut tx = self.begin_platform().await?;
        let keys = tx.master_keys().await?;
        tx.commit().await?;
        Ok(keys)
    }

    /// Some of the keys that another master key than this one wraps.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn data_keys_of_others(&self, master: &str) -> Result<Vec<(TenantId, u32)>> {
        let mut tx = self.begin_platform().await?;
        let rows = sqlx::query(
            "SELECT tenant_id, key_version FROM app.list_tenant_keys_of_others($1, $2)",
        )
        .bind(master)
        .bind(1000_i64)
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        let read = |row: &PgRow| {
            let tenant_id = row::id(row, "tenant_id", TenantId::from_uuid)?;
            Ok((tenant_id, row::count(row, "key_version")?))
        };
        rows.iter().map(read).collect()
    }
}

fn version_column(version: u32) -> i32 {
    // Nobody rotates a key so often.
    i32::try_from(version).unwrap_or(i32::MAX)
}
