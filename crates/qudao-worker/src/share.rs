//! Which tenants have how many turns under way on this node: who has fewer comes first at the next
//! claim, and nobody has them all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qudao_core::Core;
use qudao_domain::TenantId;
use qudao_storage::Shares;

use crate::Shared;

/// The turns of a node by tenant.
pub(crate) struct Share {
    most: u32,
    seats: Arc<Seats>,
}

struct Seats {
    core: Arc<Core>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    running: HashMap<TenantId, u32>,
    last: Option<TenantId>,
}

/// A turn of a tenant; over when it is dropped.
pub(crate) struct Seat {
    tenant: TenantId,
    most: u32,
    seats: Arc<Seats>,
}

impl Share {
    pub(crate) fn new(shared: &Shared) -> Self {
        let most = u32::try_from(shared.settings.tenant_turns_in_flight.max(1)).unwrap_or(u32::MAX);
        let seats = Seats { core: Arc::clone(&shared.core), taken: Mutex::default() };
        Self { most, seats: Arc::new(seats) }
    }

    /// What the next claim goes by.
    pub(crate) fn shares(&self) -> Shares {
        let taken = self.seats.lock();
        let running = taken.running.iter().map(|(tenant, count)| (*tenant, *count)).collect();
        Shares { after: taken.last, running, most: Some(self.most) }
    }

    /// A turn begins.
    pub(crate) fn sit(&self, tenant: TenantId) -> Seat {
        let mut taken = self.seats.lock();
        *taken.running.entry(tenant).or_default() += 1;
        taken.last = Some(tenant);
        Seat { tenant, most: self.most, seats: Arc::clone(&self.seats) }
    }
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        let Some(count) = taken.running.get_mut(&self.tenant) else { return };
        let was_full = self.most <= *count;
        *count = count.saturating_sub(1);
        if *count == 0 {
            taken.running.remove(&self.tenant);
        }
        if was_full {
            // There was room for others, so the loop waits for a hint.
            self.seats.core.wake.turns.notify_one();
        }
    }
}
