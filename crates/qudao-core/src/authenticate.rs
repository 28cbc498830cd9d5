//! Who calls the HTTP API.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use jiff::Timestamp;
use moka::future::Cache;
use qudao_domain::{
    ApiKeyId, TenantId,
    access::{Scope, Scopes},
    key::ApiKey,
};
use qudao_storage::{Bus, BusEvent, KeyHolder, StorageError, Topic};
use tokio_util::sync::CancellationToken;

use crate::Core;

/// How many keys are remembered at most; more only cost a look-up each.
const KEYS: u64 = 100_000;
/// How often it is written down when keys were last used.
const WRITE_USES_EVERY: Duration = Duration::from_secs(10);

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
    /// Whether the key may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.holder.scopes.has(scope)
    }

    /// What the key may do.
    pub fn scopes(&self) -> Scopes {
        self.holder.scopes
    }
}

/// The key could not be looked up. Not the same as a wrong key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the key could not be looked up")]
pub struct AuthError(#[source] Arc<StorageError>);

/// A key as the database knew it a moment ago.
struct Known {
    holder: Arc<KeyHolder>,
    /// Where it may be used from. A network that cannot be read admits nobody.
    networks: Vec<Option<IpNet>>,
    /// Whether its use was noted since it was read.
    noted: AtomicBool,
}

impl Known {
    fn new(holder: KeyHolder) -> Self {
        let networks = holder.allowed_networks.iter().map(|text| text.parse().ok()).collect();
        Self { holder: Arc::new(holder), networks, noted: AtomicBool::new(false) }
    }

    fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let inside = |network: &Option<IpNet>| network.is_some_and(|net| net.contains(&address));
        self.networks.is_empty() || self.networks.iter().any(inside)
    }
}

/// The keys of a node: what the database knew of them a moment ago (also that it knew nothing), and
/// when they were last used.
pub(crate) struct Keys {
    known: Cache<ApiKeyId, Option<Arc<Known>>>,
    uses: Mutex<HashMap<ApiKeyId, (TenantId, Timestamp)>>,
}

impl Keys {
    pub(crate) fn new(max_age: Duration) -> Self {
        // A revoked key must not outlive its second, whatever becomes of the word that it was.
        let max_age = max_age.min(Duration::from_secs(1));
        let known = Cache::builder().max_capacity(KEYS).time_to_live(max_age).build();
        Self { known, uses: Mutex::default() }
    }

    fn note(&self, known: &Known, at: Timestamp) {
        if !known.noted.swap(true, Ordering::Relaxed) {
            let KeyHolder { key_id, tenant_id, .. } = *known.holder;
            let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.insert(key_id, (tenant_id, at));
        }
    }

    fn take_uses(&self) -> HashMap<TenantId, Vec<(ApiKeyId, Timestamp)>> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_tenant: HashMap<_, Vec<_>> = HashMap::new();
        for (key, (tenant, at)) in uses.drain() {
            by_tenant.entry(tenant).or_default().push((key, at));
        }
        by_tenant
    }
}

impl Core {
    /// Who holds this key. `None` for a key that is unknown, wrong, revoked, expired or used from
    /// where it may not be: the caller learns no more than that.
    ///
    /// # Errors
    /// [`AuthError`] if the database did not answer.
    pub async fn authenticate(
        &self,
        key: &ApiKey,
        address: IpAddr,
    ) -> Result<Option<Principal>, AuthError> {
        let id = key.id();
        let found = match self.keys.known.get(&id).await {
            Some(found) => found,
            None => {
                let look_up = async {
                    let holder = self.store.find_api_key(id).await?;
                    Ok(holder.map(|holder| Arc::new(Known::new(holder))))
                };
                // It is mostly known: its reading shall not be carried along.
                let reading = Box::pin(self.keys.known.try_get_with(id, look_up));
                reading.await.map_err(AuthError)?
            }
        };
        let Some(known) = found else { return Ok(None) };
        let (holder, now) = (&known.holder, self.clock.now());
        let expired = holder.expires_at.is_some_and(|end| end <= now);
        let revoked = holder.revoked_at.is_some();
        let right = holder.secret_hash.matches(&key.hash());
        if !right || expired || revoked || !known.admits(address) {
            return Ok(None);
        }
        self.keys.note(&known, now);
        let holder = Arc::clone(holder);
        Ok(Some(Principal { tenant_id: holder.tenant_id, key_id: holder.key_id, holder }))
    }

    /// Tells every node, this one first, that a key is not what it was. Call it after the commit.
    pub async fn key_changed(&self, key: ApiKeyId) {
        self.keys.known.invalidate(&key).await;
        self.bus.publish(&Topic::KeyChanged, key.as_uuid().as_bytes().to_vec()).await;
    }

    /// Writes down when keys were last used. What cannot be written is lost: it is a hint for
    /// people.
    pub(crate) async fn write_uses(&self) {
        for (tenant_id, uses) in self.keys.take_uses() {
            let written = async {
                let mut tx = self.store.begin(tenant_id).await?;
                tx.mark_keys_used(&uses).await?;
                tx.commit().await
            };
            if let Err(error) = written.await {
                tracing::warn!(%error, tenant = %tenant_id, "cannot write when keys were used");
            }
        }
    }
}

/// Forgets keys that other nodes changed, until the core closes or is dropped. A node that misses
/// the word learns it within a second.
pub(crate) async fn follow_changes(core: Weak<Core>, bus: Bus, closing: CancellationToken) {
    let mut changes = bus.subscribe(&Topic::KeyChanged);
    loop {
        let event = tokio::select! {
            () = closing.cancelled() => return,
            event = changes.next() => event,
        };
        let Some(core) = core.upgrade() else { return };
        match event {
            BusEvent::Message(id) => {
                if let Ok(id) = uuid::Uuid::from_slice(&id) {
                    core.keys.known.invalidate(&ApiKeyId::from_uuid(id)).await;
                }
            }
            BusEvent::Ready => core.keys.known.invalidate_all(),
        }
    }
}

/// Writes down when keys were last used, until the core closes or is dropped.
pub(crate) async fn write_uses(core: Weak<Core>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(WRITE_USES_EVERY) => {}
        }
        let Some(core) = core.upgrade() else { return };
        core.write_uses().await;
    }
}
