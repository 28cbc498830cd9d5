//! Steps of the pipeline that share a transaction with others of their kind: those that come at
//! about the same moment cost one commit and one lock of each wallet.

use std::{collections::HashMap, sync::Arc};

use qudao_domain::TenantId;
use qudao_storage::StorageError;
use tokio::sync::oneshot;

use crate::{Core, together::Together};

/// A step that the database takes for many at once, and that is safe to repeat.
pub(crate) trait Step: Send + Sync + Sized + 'static {
    /// What became of it.
    type Outcome: Send + 'static;

    /// Whose rows it is about.
    fn tenant(&self) -> TenantId;

    /// Where those wait that are to be taken.
    fn queue(core: &Core) -> &Steps<Self>;

    /// Takes all of them, or none.
    fn take(
        core: &Core,
        steps: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, StorageError>> + Send;

    /// Some are gathered, and will be taken now.
    fn gathered() {}

    /// They were taken or refused; those who wait hear of it next.
    fn taken(_core: &Arc<Core>, _outcomes: &[Outcome<Self>]) {}
}

/// What became of a step. The error may be that of all who shared a statement.
pub(crate) type Outcome<S> = Result<<S as Step>::Outcome, Arc<StorageError>>;

/// The same, when it is known.
pub(crate) type Pending<S> = oneshot::Receiver<Outcome<S>>;

/// Those that wait to be taken.
pub(crate) type Steps<S> = Together<S, Outcome<S>>;

impl Core {
    /// Takes a step with others. It goes on even if nobody waits for the outcome, which comes when
    /// it is durable.
    pub(crate) fn with_others<S: Step>(self: &Arc<Self>, step: S) -> Pending<S> {
        let (pending, leader) = S::queue(self).add(step);
        if let Some(mut leader) = leader {
            let core = Arc::clone(self);
            self.spawn_begun(async move {
                while let Some((steps, waiting)) = leader.gathered().await {
                    S::gathered();
                    let outcomes = core.take_all(&steps).await;
                    S::taken(&core, &outcomes);
                    for (done, outcome) in waiting.into_iter().zip(outcomes) {
                        // Whoever is gone repeats it.
                        let _ = done.send(outcome);
                    }
                    // They were not told that it is done, and repeat it.
                    leader.forget_the_gone();
                }
            });
        }
        pending
    }

    /// [`Core::with_others`] for whoever waits.
    ///
    /// # Errors
    /// [`StorageError`]; the step may be repeated.
    pub(crate) async fn taken<S: Step>(
        self: &Arc<Self>,
        step: S,
    ) -> Result<S::Outcome, StorageError> {
        match self.with_others(step).await {
            Ok(outcome) => outcome.map_err(StorageError::Shared),
            Err(_) => Err(StorageError::unfinished()),
        }
    }

    async fn take_all<S: Step>(&self, steps: &[S]) -> Vec<Outcome<S>> {
        match S::take(self, steps).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            // One of them was refused, or met another transaction; the others are not to blame.
            Err(error) if 1 < steps.len() && error.concerns_one() => self.take_each(steps).await,
            Err(error) => {
                let error = Arc::new(error);
                steps.iter().map(|_| Err(Arc::clone(&error))).collect()
            }
        }
    }

    async fn take_each<S: Step>(&self, steps: &[S]) -> Vec<Outcome<S>> {
        let mut outcomes = Vec::with_capacity(steps.len());
        // Where somebody else holds a row of a tenant, the others of the tenant would wait for it as long
        // again, and everybody else behind them. What two tenants meet, such as a table that is locked,
        // all of them would.
        let mut locked = HashMap::new();
        for step in steps {
            let of_all = locked.values().next().filter(|_| 2 <= locked.len());
            if let Some(error) = locked.get(&step.tenant()).or(of_all) {
                outcomes.push(Err(Arc::clone(error)));
                continue;
            }
            let taken = S::take(self, std::slice::from_ref(step)).await;
            let only = taken.and_then(|outcomes| {
                outcomes.into_iter().next().ok_or_else(StorageError::unfinished)
            });
            let only = only.map_err(Arc::new);
            if let Err(error) = &only
                && matches!(**error, StorageError::Locked(_))
            {
                locked.insert(step.tenant(), Arc::clone(error));
            }
            outcomes.push(only);
        }
        outcomes
    }
}
