//! Secrets in the database: sealed with a key of their tenant, which a master key wraps.
//!
//! A data key is made when a tenant's first secret is sealed. Opened data keys stay in memory for a
//! minute: for as long a node may go on sealing with a key that was rotated elsewhere. That is no
//! error; what it seals opens, and the next reading may seal it anew ([`Vault::renew`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use moka::future::Cache;
use qudao_domain::TenantId;
use qudao_storage::{AddKey, Once, StorageError, Store, WrappedKey};
use qudao_vault::{DataKey, MasterKey, MasterKeyId, MasterKeys, key_version};
pub use qudao_vault::{MasterKeySource, Place, SecretBytes, VaultError as SealError};

mod rotate;

pub use rotate::Rewrapped;

/// How long an opened data key stays in memory.
const CACHED: Duration = Duration::from_secs(60);
/// Tenants whose keys are in memory at a time.
const CACHE_SIZE: u64 = 10_000;
/// Of two nodes that make a tenant's first key one is second, and reads the other's.
const TRIES: usize = 4;

/// Why a secret can be neither sealed nor opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The cipher or a key refused.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// This node's master keys are not those of its database.
    #[error(
        "this database's keys are wrapped by the master key {wanted}, and this node has {present}: \
             give every node the same master key (QUDAO_MASTER_KEY or security.master_key_file)"
    )]
    WrongMasterKey {
        /// The id of the key that is missing.
        wanted: String,
        /// The ids of those that are here.
        present: String,
    },
    /// The database knows a key of this id that sealed another value.
    #[error("the check value of the master key {0} in the database was not made with it")]
    BadCheckValue(String),
    /// The tenant's keys were destroyed, or never had this version.
    #[error("there is no data key of version {version}")]
    NoSuchKey {
        /// The version that the value names.
        version: u32,
    },
    /// Other nodes were faster several times in a row.
    #[error("the data key is being changed by other nodes")]
    Contended,
}

/// What seals and opens secrets on a node.
#[derive(Clone)]
pub struct Vault {
    store: Store,
    source: MasterKeySource,
    masters: Arc<RwLock<MasterKeys>>,
    rings: Cache<TenantId, Arc<Ring>>,
}

/// A tenant's opened keys.
struct Ring {
    keys: BTreeMap<u32, DataKey>,
}

impl Ring {
    fn newest(&self) -> Result<&DataKey, VaultError> {
        let newest = self.keys.last_key_value().map(|(_, key)| key);
        newest.ok_or(VaultError::NoSuchKey { version: 0 })
    }
}

impl Vault {
    /// Reads the master keys and compares them with what the database says of them. The first one
    /// that a database sees comes into use there.
    ///
    /// # Errors
    /// [`VaultError::WrongMasterKey`] if data keys are wrapped by a master key that is not here.
    pub async fn unlock(store: Store, source: MasterKeySource) -> Result<Self, VaultError> {
        let masters = source.load()?;
        let mut tx = store.begin_platform().await?;
        tx.lock_master_keys().await?;
        let known = tx.master_keys().await?;
        let needed = known.iter().filter(|record| record.in_use || 0 < record.wraps);
        for record in needed {
            let id = MasterKeyId::from_text(&*record.id);
            let Ok(key) = masters.get(&id) else {
                let present: Vec<&str> = masters.iter().map(|key| key.id().as_str()).collect();
                let (wanted, present) = (record.id.clone(), present.join(", "));
                return Err(VaultError::WrongMasterKey { wanted, present });
            };
            if !key.made(&record.check_value) {
                return Err(VaultError::BadCheckValue(record.id.clone()));
            }
        }
        if !known.iter().any(|record| record.in_use) {
            let first = masters.first();
            tx.add_master_key(first.id().as_str(), &first.check_value()?).await?;
        }
        tx.commit().await?;
        Ok(Self {
            store,
            source,
            masters: Arc::new(RwLock::new(masters)),
            rings: Cache::builder().max_capacity(CACHE_SIZE).time_to_live(CACHED).build(),
        })
    }

    /// Seals a tenant's secret for its place.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn seal(
        &self,
        tenant_id: TenantId,
        place: Place,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let ring = self.ring(tenant_id).await?;
        Ok(ring.newest()?.seal(place, plaintext)?)
    }

    /// Opens a tenant's secret from its place.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn open(
        &self,
        tenant_id: TenantId,
        place: Place,
        sealed: &[u8],
    ) -> Result<SecretBytes, VaultError> {
        let version = key_version(sealed)?;
        let mut ring = self.present_ring(tenant_id).await?;
        if !ring.keys.contains_key(&version) {
            // A newer key than those in memory.
            self.rings.invalidate(&tenant_id).await;
            ring = self.present_ring(tenant_id).await?;
        }
        let key = ring.keys.get(&version).ok_or(VaultError::NoSuchKey { version })?;
        Ok(key.open(place, sealed)?)
    }

    /// Seals a secret of the platform itself.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn seal_platform(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.seal(Once::OPERATOR, place, plain).await
    }

    /// Opens a secret of the platform itself.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn open_platform(
        &self,
        place: Place,
        sealed: &[u8],
    ) -> Result<SecretBytes, VaultError> {
        self.open(Once::OPERATOR, place, sealed).await
    }

    /// The same secret sealed with the tenant's newest key, if it is not already.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn renew(
        &self,
        tenant_id: TenantId,
        place: Place,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let newest = self.ring(tenant_id).await?.newest()?.version();
        if newest <= key_version(sealed)? {
            return Ok(None);
        }
        let opened = self.open(tenant_id, place, sealed).await?;
        self.seal(tenant_id, place, opened.reveal()).await.map(Some)
    }

    /// Lets go of a tenant's opened keys at once.
    pub async fn forget(&self, tenant_id: TenantId) {
        self.rings.invalidate(&tenant_id).await;
    }

    /// A tenant's keys; its first is made now if there is none.
    async fn ring(&self, tenant_id: TenantId) -> Result<Arc<Ring>, VaultError> {
        for _ in 0..TRIES {
            let ring = self.present_ring(tenant_id).await?;
            if !ring.keys.is_empty() {
                return Ok(ring);
            }
            self.add_key(tenant_id, 1).await?;
        }
        Err(VaultError::Contended)
    }

    /// A tenant's keys as they are: none if nothing was sealed yet, or if they were destroyed.
    async fn present_ring(&self, tenant_id: TenantId) -> Result<Arc<Ring>, VaultError> {
        if let Some(ring) = self.rings.get(&tenant_id).await {
            return Ok(ring);
        }
        let mut tx = self.store.begin(tenant_id).await?;
        let wrapped = tx.data_keys().await?;
        tx.commit().await?;
        let keys = wrapped.iter().map(|key| {
            let key = self.unwrap(tenant_id, key)?;
            Ok((key.version(), key))
        });
        let ring = Arc::new(Ring { keys: keys.collect::<Result<_, VaultError>>()? });
        // That there is none is not remembered: it may be made by anybody at any moment.
        if !ring.keys.is_empty() {
            self.rings.insert(tenant_id, Arc::clone(&ring)).await;
        }
        Ok(ring)
    }

    /// Makes a tenant's key of this version, unless another node does so first.
    async fn add_key(&self, tenant_id: TenantId, version: u32) -> Result<AddKey, VaultError> {
        let master = self.master_in_use().await?;
        let key = DataKey::generate(tenant_id, version);
        let wrapped = wrapped(&master, &key)?;
        let mut tx = self.store.begin(tenant_id).await?;
        let added = tx.add_data_key(&wrapped).await?;
        tx.commit().await?;
        Ok(added)
    }

    /// The master key that wraps new keys, as the database says.
    async fn master_in_use(&self) -> Result<MasterKey, VaultError> {
        let known = self.store.master_keys().await?;
        let in_use = known.into_iter().find(|record| record.in_use);
        let id = in_use.map(|record| MasterKeyId::from_text(record.id));
        match id {
            Some(id) => Ok(self.master(&id)?),
            None => Err(VaultError::Contended),
        }
    }

    fn unwrap(&self, tenant_id: TenantId, key: &WrappedKey) -> Result<DataKey, VaultError> {
        let master = self.master(&MasterKeyId::from_text(&*key.master_key_id))?;
        Ok(master.unwrap(tenant_id, key.version, &key.wrapped)?)
    }

    /// A master key; a file of them may have a new one since it was read.
    fn master(&self, id: &MasterKeyId) -> Result<MasterKey, SealError> {
        let present = self.masters.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Ok(key) = present {
            return Ok(key);
        }
        let masters = self.source.load()?;
        let found = masters.get(id).cloned()?;
        *self.masters.write().unwrap_or_else(PoisonError::into_inner) = masters;
        Ok(found)
    }
}

fn wrapped(master: &MasterKey, key: &DataKey) -> Result<WrappedKey, VaultError> {
    Ok(WrappedKey {
        version: key.version(),
        wrapped: master.wrap(key)?,
        master_key_id: master.id().as_str().to_owned(),
    })
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("source", &self.source).finish_non_exhaustive()
    }
}
