//! Who calls the HTTP API.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use qudao_domain::{ApiKeyId, TenantId, key::ApiKey};
use qudao_storage::{KeyHolder, StorageError};

use crate::Core;

/// How many keys are remembered at most; more only cost a look-up each.
const KEYS: u64 = 100_000;

/// Who a key speaks for, and what it may do.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Whose key it is.
    pub tenant_id: TenantId,
    /// Which key.
    pub key_id: ApiKeyId,
    /// Everything that the database knows of it.
    pub(crate) holder: Arc<KeyHolder>,
}

impl Principal {
    /// Whether the key may do this, such as `chat` or `admin`.
    pub fn may(&self, scope: &str) -> bool {
        self.scopes().iter().any(|granted| granted == scope)
    }

    /// What the key may do.
    pub fn scopes(&self) -> &[String] {
        &self.holder.scopes
    }
}

/// The key could not be looked up. Not the same as a wrong key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the key could not be looked up")]
pub struct AuthError(#[source] Arc<StorageError>);

/// What the database knew of a key a moment ago. Also remembers that it knew nothing.
pub(crate) struct KeyCache(Cache<ApiKeyId, Option<Arc<KeyHolder>>>);

impl KeyCache {
    pub(crate) fn new(max_age: Duration) -> Self {
        // A revoked key must not outlive its second.
        let max_age = max_age.min(Duration::from_secs(1));
        Self(Cache::builder().max_capacity(KEYS).time_to_live(max_age).build())
    }
}

impl Core {
    /// Who holds this key. `None` for a key that is unknown, wrong, revoked or expired: the caller
    /// learns no more than that.
    ///
    /// # Errors
    /// [`AuthError`] if the database did not answer.
    pub async fn authenticate(&self, key: &ApiKey) -> Result<Option<Principal>, AuthError> {
        let id = key.id();
        let found = match self.keys.0.get(&id).await {
            Some(found) => found,
            None => {
                let look_up = async { Ok(self.store.find_api_key(id).await?.map(Arc::new)) };
                self.keys.0.try_get_with(id, look_up).await.map_err(AuthError)?
            }
        };
        let Some(holder) = found else { return Ok(None) };
        let expired = holder.expires_at.is_some_and(|end| end <= self.clock.now());
        let revoked = holder.revoked_at.is_some();
        if !holder.secret_hash.matches(&key.hash()) || expired || revoked {
            return Ok(None);
        }
        Ok(Some(Principal { tenant_id: holder.tenant_id, key_id: holder.key_id, holder }))
    }
}
