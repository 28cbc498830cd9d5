//! Requests with an idempotency key whose work does not fit one transaction: calls of a model,
//! reloads of a plugin. Their key is claimed before the work and kept with its effect.

use std::{sync::Arc, time::Duration};

use qudao_domain::TurnId;
use qudao_storage::{Found, KeptCall, KeptReply, Once, StorageError, Ticket};
use tokio::{task::AbortHandle, time};

use crate::Core;

/// How long the claim of a dead node blocks its key.
const LEASE: Duration = Duration::from_secs(30);
/// How often a claim is renewed while the work goes on.
const RENEW: Duration = Duration::from_secs(10);

/// The right to serve a request, renewed until it is used. Dropping it lets the key go.
pub struct Claim {
    core: Arc<Core>,
    /// Gone when the claim is used.
    ticket: Option<Ticket>,
    renewing: AbortHandle,
}

impl Core {
    /// Claims the key of a request, or finds what became of it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn claim(self: &Arc<Self>, once: Once) -> Result<Found<Claim>, StorageError> {
        let core = Arc::clone(self);
        // A task of its own: a caller who hangs up between the commit and its answer would leave
        // a claim that nobody knows of.
        let claiming = self.spawn(async move {
            let found = core.store.claim_once(&once, LEASE).await?;
            Ok(match found {
                Found::Fresh(ticket) => Found::Fresh(Claim::new(core, ticket)),
                Found::Kept(reply) => Found::Kept(reply),
                Found::OtherBody => Found::OtherBody,
                Found::UnderWay => Found::UnderWay,
            })
        });
        let lost = |_| StorageError::Inconsistent { detail: "a claim panicked".to_owned() };
        claiming.await.map_err(lost)?
    }
}

impl Claim {
    fn new(core: Arc<Core>, ticket: Ticket) -> Self {
        let (store, renewed) = (core.store.clone(), ticket.clone());
        let renewing = core.spawn(async move {
            loop {
                time::sleep(RENEW).await;
                match store.renew_claim(&renewed, LEASE).await {
                    Ok(true) => {}
                    // Over, or another node's: what this one makes counts once all the same.
                    Ok(false) => return,
                    Err(error) => tracing::warn!(%error, "cannot renew the claim of a request"),
                }
            }
        });
        Self { renewing: renewing.abort_handle(), ticket: Some(ticket), core }
    }

    /// The id of the usage that the request makes.
    pub(crate) fn turn_id(&self) -> Option<TurnId> {
        self.ticket.as_ref().map(Ticket::turn_id)
    }

    /// What is to be kept with the settlement: the answer, or that there is none and the key is
    /// free again.
    pub(crate) fn with_settlement(mut self, reply: Option<KeptReply>) -> Option<KeptCall> {
        self.ticket.take().map(|ticket| KeptCall { ticket, reply })
    }

    /// Keeps the answer of work that has no settlement.
    ///
    /// # Errors
    /// [`StorageError`]: the work is done, but its repetition will do it again.
    pub async fn keep(mut self, reply: KeptReply) -> Result<(), StorageError> {
        let Some(ticket) = self.ticket.take() else { return Ok(()) };
        self.core.store.keep_claim(&KeptCall { ticket, reply: Some(reply) }).await
    }

    /// Lets the key go: nothing was done, and the request may be repeated at once.
    pub async fn let_go(mut self) {
        if let Some(ticket) = self.ticket.take() {
            let_go(&self.core, ticket).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.renewing.abort();
        if let Some(ticket) = self.ticket.take() {
            let core = Arc::clone(&self.core);
            self.core.spawn(async move { let_go(&core, ticket).await });
        }
    }
}

async fn let_go(core: &Core, ticket: Ticket) {
    if let Err(error) = core.store.keep_claim(&KeptCall { ticket, reply: None }).await {
        // The lease lets it go in the end.
        tracing::warn!(%error, "cannot let go of the claim of a request");
    }
}
