//! How many calls are open at the same time. What is over the bound is refused before its body is
//! read, so that memory has a bound too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::Gauge;

use super::ApiError;
use crate::{Core, Principal};

/// The place of one call, of its node and of its tenant. Free again when it is dropped.
#[derive(Debug)]
pub struct CallSlot {
    _tenant: Place,
    _node: Place,
    open: Gauge,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

impl Core {
    /// Calls that are open on this node.
    pub fn calls_in_flight(&self) -> usize {
        self.api.in_flight.load(Ordering::Relaxed)
    }

    /// A place for one more call.
    ///
    /// # Errors
    /// [`ApiError::TenantBusy`] and [`ApiError::Overloaded`].
    pub fn enter_call(&self, principal: &Principal) -> Result<CallSlot, ApiError> {
        let bounds = &self.settings.api;
        let lane = self.api.lane(principal.tenant_id);
        let tenant =
            Place::take(&lane.in_flight, bounds.tenant_in_flight).ok_or(ApiError::TenantBusy)?;
        let node =
            Place::take(&self.api.in_flight, bounds.in_flight).ok_or(ApiError::Overloaded)?;
        let open = self.api.meters.in_flight.clone();
        open.increment(1);
        Ok(CallSlot { _tenant: tenant, _node: node, open })
    }
}
