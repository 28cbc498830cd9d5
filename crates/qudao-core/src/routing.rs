//! Who answers a turn or a call: the route's rules, the health of its models, and a model on trial.
//! What is decided from values is in `qudao_domain::routing`; here the values are gathered, the models
//! are watched, and what was decided is written down.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use qudao_domain::{
    ChannelId, ConversationId, Currency, Micros, RouteId, TenantId, TurnId,
    routing::{Choice, Modality, Routing, Signals, Step, step},
    state::FairCharging,
};
use qudao_storage::NewDecision;
use qudao_telemetry::Trace;
use tokio::time::Instant;

use crate::{Core, failpoint, settings::RoutingSettings, together::Together};

mod breakers;
mod draft;
mod gather;
mod language;
mod offers;
mod record;
mod shadow;

pub use breakers::BreakerReport;
pub use offers::Offer;

pub(crate) use breakers::{Breakers, Permit, is_failure, share};
pub(crate) use draft::{ANSWERED, Draft};
pub(crate) use shadow::Shadow;

/// What this node knows of routes beside what the database says.
pub(crate) struct Routes {
    pub(crate) breakers: Breakers,
    /// What tenants were charged this month, as of a moment ago.
    spent: moka::future::Cache<TenantId, Micros>,
    /// Decisions that wait to be written.
    recording: Together<(TenantId, NewDecision), ()>,
    /// When a route's trial was last judged here.
    judged: Mutex<HashMap<RouteId, Instant>>,
    judge_every: Duration,
}

/// How long what a tenant was charged this month is served from memory.
const SPENT_FOR: Duration = Duration::from_secs(30);

impl Routes {
    pub(crate) fn new(settings: &RoutingSettings) -> Self {
        Self {
            breakers: Breakers::new(settings.breaker),
            spent: moka::future::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(SPENT_FOR)
                .build(),
            recording: Together::unhurried(usize::MAX),
            judged: Mutex::default(),
            judge_every: settings.judge_every,
        }
    }

    /// Whether a route's trial is to be judged now; once for each span of time.
    fn is_due(&self, route: RouteId) -> bool {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = judged.get(&route).is_none_or(|last| self.judge_every <= now - *last);
        if due {
            // Trials are few; a route whose trial is over is forgotten with the others some day.
            if 10_000 < judged.len() {
                judged.clear();
            }
            judged.insert(route, now);
        }
        due
    }
}

/// What is to be answered, as far as rules may ask about it.
pub(crate) struct Matter {
    pub(crate) tenant_id: TenantId,
    pub(crate) currency: Currency,
    pub(crate) policy: FairCharging,
    pub(crate) channel_id: ChannelId,
    /// The turn or call.
    pub(crate) id: TurnId,
    pub(crate) conversation_id: Option<ConversationId>,
    /// It, in its trace.
    pub(crate) place: Trace,
    /// The messages to answer.
    pub(crate) text: String,
    /// All that a model would read, but for what the tenant itself tells it.
    pub(crate) all: Vec<String>,
    /// Bytes of all that a model would read.
    pub(crate) prompt_bytes: usize,
    pub(crate) modality: Vec<Modality>,
    /// What the tenant can spend, where that is known already.
    pub(crate) available: Option<Micros>,
    /// What one conversation has in common.
    pub(crate) key: Vec<u8>,
}

impl Core {
    /// Who may answer, and what that was decided from. Only what a rule still depends on is gathered.
    pub(crate) async fn choose(
        self: &Arc<Self>,
        routing: &Routing,
        models: &[String],
        matter: &Matter,
    ) -> (Choice, Signals) {
        let mut signals = Signals::default();
        let choice = loop {
            let health = |model: &str| self.routes.breakers.health(model);
            match step(routing, models, &signals, &health, &matter.key) {
                Step::Decided(choice) => break choice,
                Step::Need(signal) => self.gather(signal, routing, matter, &mut signals).await,
            }
        };
        failpoint!("route.decided");
        (choice, signals)
    }
}
