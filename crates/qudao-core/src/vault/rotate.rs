//! Other keys in the place of those in use, while nodes serve.

use qudao_domain::TenantId;
use qudao_storage::{AddKey, SEALED, SealedColumn};
use uuid::Uuid;

use super::{Place, TRIES, Vault, VaultError, wrapped};

/// Values that are read at a time.
const BATCH: u32 = 500;

/// What a rotation of the master key did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// The id of the key that wraps all data keys now.
    pub master_key_id: String,
    /// How many data keys were wrapped anew.
    pub keys: u64,
}

impl Vault {
    /// Takes the first of this process's master keys into use and wraps every data key with it.
    /// Safe to repeat and to break off: each key is exchanged alone, and what is left is wrapped by
    /// the older key until the next try.
    ///
    /// Every node must have the new key before: it needs it from here on.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn rotate_master(&self) -> Result<Rewrapped, VaultError> {
        let masters = self.source.load()?;
        let new = masters.first();
        let mut tx = self.store.begin_platform().await?;
        tx.lock_master_keys().await?;
        tx.add_master_key(new.id().as_str(), &new.check_value()?).await?;
        tx.use_master_key(new.id().as_str()).await?;
        tx.commit().await?;
        let mut keys = 0;
        loop {
            let left = self.store.data_keys_of_others(new.id().as_str()).await?;
            if left.is_empty() {
                let master_key_id = new.id().as_str().to_owned();
                return Ok(Rewrapped { master_key_id, keys });
            }
            for (tenant_id, version) in left {
                keys += u64::from(self.rewrap(tenant_id, version, new).await?);
            }
        }
    }

    async fn rewrap(
        &self,
        tenant_id: TenantId,
        version: u32,
        new: &qudao_vault::MasterKey,
    ) -> Result<bool, VaultError> {
        let mut tx = self.store.begin(tenant_id).await?;
        let all = tx.data_keys().await?;
        let Some(old) = all.into_iter().find(|key| key.version == version) else {
            return Ok(false);
        };
        let key = self.unwrap(tenant_id, &old)?;
        let done = tx.rewrap_data_key(&old.master_key_id, &wrapped(new, &key)?).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Makes a new key for a tenant and returns its version. What is sealed from now on is sealed
    /// with it; what was sealed before opens as ever.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn rotate_tenant(&self, tenant_id: TenantId) -> Result<u32, VaultError> {
        for _ in 0..TRIES {
            self.rings.invalidate(&tenant_id).await;
            let version = self.ring(tenant_id).await?.newest()?.version() + 1;
            if self.add_key(tenant_id, version).await? == AddKey::Added {
                self.rings.invalidate(&tenant_id).await;
                return Ok(version);
            }
        }
        Err(VaultError::Contended)
    }

    /// Seals all of a tenant's secrets with its newest key, and returns how many that were. Safe to
    /// repeat; a secret that is changed meanwhile stays as it was changed.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn reseal(&self, tenant_id: TenantId) -> Result<u64, VaultError> {
        let mut resealed = 0;
        for column in SEALED {
            resealed += self.reseal_column(tenant_id, *column).await?;
        }
        Ok(resealed)
    }

    /// The same of one column.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn reseal_column(
        &self,
        tenant_id: TenantId,
        column: SealedColumn,
    ) -> Result<u64, VaultError> {
        let (mut resealed, mut after) = (0, None::<Uuid>);
        loop {
            let mut tx = self.store.begin(tenant_id).await?;
            let values = tx.sealed_values(column, after, BATCH).await?;
            tx.commit().await?;
            for (row, sealed) in &values {
                let place = Place { table: column.table, column: column.column, row: *row };
                let Some(renewed) = self.renew(tenant_id, place, sealed).await? else { continue };
                let mut tx = self.store.begin(tenant_id).await?;
                let done = tx.replace_sealed(column, *row, sealed, &renewed).await?;
                tx.commit().await?;
                resealed += u64::from(done);
            }
            after = match values.last() {
                Some((row, _)) => Some(*row),
                None => return Ok(resealed),
            };
        }
    }
}
