//! Decisions that no other write carries are written behind the answer, those of one moment together.
//! What a node had not written when it died is lost; the books do not depend on it.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_domain::TenantId;
use qudao_storage::NewDecision;
use tokio::{sync::oneshot, time};

use crate::{Core, failpoint};

/// Decisions that may wait while the database does not answer; more are let go.
const WAITING: usize = 4096;
/// How often they are tried to be written: for about as long as a standby needs to take over.
const TRIES: u32 = 10;

impl Core {
    /// Writes a decision down without anybody waiting for it. The receiver hears when it is there.
    pub(crate) fn record(
        self: &Arc<Self>,
        tenant: TenantId,
        decision: NewDecision,
    ) -> Option<oneshot::Receiver<()>> {
        if WAITING <= self.routes.recording.waiting() {
            counter!("qudao_route_decisions_lost_total").increment(1);
            return None;
        }
        let (written, leader) = self.routes.recording.add((tenant, decision));
        if let Some(mut leader) = leader {
            let core = Arc::clone(self);
            self.spawn(async move {
                while let Some((decisions, waiting)) = leader.gathered().await {
                    if core.write_decisions(&decisions).await {
                        for told in waiting {
                            let _ = told.send(());
                        }
                    }
                }
            });
        }
        Some(written)
    }

    /// Whether they are there.
    async fn write_decisions(&self, decisions: &[(TenantId, NewDecision)]) -> bool {
        failpoint!("decision.gathered");
        for attempt in 1..=TRIES {
            match self.store.record_decisions(decisions).await {
                Ok(()) => {
                    failpoint!("decision.recorded");
                    return true;
                }
                Err(error) if error.is_transient() && attempt < TRIES => {
                    time::sleep(Duration::from_millis(200) * attempt).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "decisions of routes were not written down");
                    counter!("qudao_route_decisions_lost_total").increment(decisions.len() as u64);
                    return false;
                }
            }
        }
        false
    }
}
