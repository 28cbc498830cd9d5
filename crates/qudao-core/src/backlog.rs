//! How many messages wait for an answer, as far as this node knows: what was counted last, and what
//! it accepted since. Nobody waits for the count; it is made beside, when somebody writes and the
//! last one is old.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::gauge;
use qudao_domain::TenantId;
use tokio::time::Instant;

use crate::{AcceptError, Core, settings::BacklogSettings};

/// A count takes at most this part of a connection's time.
const PART: u32 = 10;

/// What waits, by tenant.
#[derive(Default)]
pub(crate) struct Backlog(Mutex<Known>);

#[derive(Default)]
struct Known {
    tenants: HashMap<TenantId, u64>,
    all: u64,
    /// When the next count is due; `None` while one is made.
    due: Option<Instant>,
    begun: bool,
    /// What was accepted while the count was made, which may have missed it.
    meanwhile: Vec<TenantId>,
}

impl Backlog {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more message waits.
    pub(crate) fn add(&self, tenant: TenantId) {
        let mut known = self.known();
        known.add(tenant);
        if known.begun && known.due.is_none() {
            known.meanwhile.push(tenant);
        }
    }

    /// Whether more messages of the tenant wait than so many. Where they were taken by another node,
    /// this one may not know.
    pub(crate) fn exceeds(&self, tenant: TenantId, messages: i64) -> bool {
        let messages = u64::try_from(messages).unwrap_or(0);
        self.known().tenants.get(&tenant).is_some_and(|waiting| messages < *waiting)
    }
}

impl Known {
    fn add(&mut self, tenant: TenantId) {
        *self.tenants.entry(tenant).or_default() += 1;
        self.all += 1;
    }

    fn check(&self, tenant: TenantId, bounds: &BacklogSettings) -> Result<(), AcceptError> {
        if u64::from(bounds.platform) <= self.all {
            return Err(AcceptError::PlatformBacklog);
        }
        match self.tenants.get(&tenant) {
            Some(waiting) if u64::from(bounds.tenant) <= *waiting => {
                Err(AcceptError::TenantBacklog)
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller is to count.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = match self.due {
            Some(due) => due <= now,
            None => !self.begun,
        };
        if due {
            (self.begun, self.due) = (true, None);
        }
        due
    }
}

impl Core {
    /// Whether one message more of this tenant may wait.
    pub(crate) fn has_room(self: &Arc<Self>, tenant: TenantId) -> Result<(), AcceptError> {
        let mut known = self.backlog.known();
        if known.is_due(Instant::now()) {
            let core = Arc::clone(self);
            self.spawn(async move { core.count_backlog().await });
        }
        known.check(tenant, &self.settings.backlog)
    }

    async fn count_backlog(&self) {
        let begun = Instant::now();
        let bounds = &self.settings.backlog;
        let counted = self.store.backlog(bounds.platform).await;
        let mut known = self.backlog.known();
        let pause = bounds.count_every.max(begun.elapsed() * PART);
        known.due = Some(Instant::now() + pause);
        let meanwhile = std::mem::take(&mut known.meanwhile);
        match counted {
            Ok(tenants) => {
                known.tenants = tenants.into_iter().collect();
                known.all = known.tenants.values().sum();
                meanwhile.into_iter().for_each(|tenant| known.add(tenant));
                #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more")]
                gauge!("qudao_backlog_messages").set(known.all as f64);
            }
            Err(error) => tracing::warn!(%error, "cannot count what waits for an answer"),
        }
    }
}

impl Default for BacklogSettings {
    fn default() -> Self {
        let count_every = Duration::from_secs(1);
        Self { tenant: 10_000, platform: 100_000, count_every }
    }
}
