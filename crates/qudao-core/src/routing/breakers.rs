//! The breakers of this node's models. A call is admitted from memory; what one node finds out is told
//! to the others over Redis, and kept there for those that start later. Without Redis each node finds
//! out for itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use metrics::{counter, gauge};
use qudao_domain::routing::{Admission, Breaker, BreakerSettings, Health};
use qudao_plugin_api::wire::ErrorKind;
use qudao_plugin_host::CallError;
use qudao_storage::{Bus, BusEvent, OpenBreaker, Topic};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::Core;

/// Turns of breakers that wait to be told; more are dropped, and the others find out for themselves.
const WAITING: usize = 256;

/// Breakers by model. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Breakers(Arc<Inner>);

struct Inner {
    settings: BreakerSettings,
    /// What times count from.
    origin: Instant,
    breakers: Mutex<HashMap<String, Breaker>>,
    told: mpsc::Sender<Told>,
    /// Taken once, by the task that tells.
    to_tell: Mutex<Option<mpsc::Receiver<Told>>>,
}

/// What nodes tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
enum Told {
    /// The model fails.
    Open { model: String, rest_ms: u64 },
    /// It serves again.
    Closed { model: String },
}

/// One model as operators see its breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// The model.
    pub model: String,
    /// How it does.
    pub health: Health,
    /// Calls within the window.
    pub calls: u32,
    /// Of those, how many failed.
    pub failures: u32,
    /// When it is tried again, if it is left alone.
    pub open_for: Option<Duration>,
}

/// That a call may be made. What came of it is told with [`Permit::report`]; dropped without that, it
/// says nothing.
pub(crate) struct Permit {
    breakers: Breakers,
    model: String,
    probe: bool,
    over: bool,
}

impl Breakers {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        let (told, to_tell) = mpsc::channel(WAITING);
        Self(Arc::new(Inner {
            settings,
            origin: Instant::now(),
            breakers: Mutex::default(),
            told,
            to_tell: Mutex::new(Some(to_tell)),
        }))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Breaker>> {
        self.0.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// How a model does.
    pub(crate) fn health(&self, model: &str) -> Health {
        let now = self.now();
        self.map().get(model).map_or(Health::Closed, |breaker| breaker.health(now))
    }

    /// How a model does, and when it is tried again if it is left alone.
    pub(super) fn standing(&self, model: &str) -> (Health, Option<Duration>) {
        let now = self.now();
        self.map().get(model).map_or((Health::Closed, None), |breaker| standing(breaker, now))
    }

    /// Whether a model may be asked now.
    ///
    /// # Errors
    /// How long it is still left alone.
    pub(crate) fn admit(&self, model: &str) -> Result<Permit, Duration> {
        let now = self.now();
        let admission = self.of(model, |breaker| breaker.admit(now));
        match admission {
            Admission::Call => Ok(self.permit(model, false)),
            Admission::Probe => Ok(self.permit(model, true)),
            Admission::Wait(rest) => {
                counter!("qudao_breaker_refusals_total", "model" => model.to_owned()).increment(1);
                Err(rest)
            }
        }
    }

    fn permit(&self, model: &str, probe: bool) -> Permit {
        Permit { breakers: self.clone(), model: model.to_owned(), probe, over: false }
    }

    fn of<T>(&self, model: &str, work: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut map = self.map();
        if let Some(breaker) = map.get_mut(model) {
            return work(breaker);
        }
        work(map.entry(model.to_owned()).or_insert_with(|| Breaker::new(self.0.settings)))
    }

    fn record(&self, model: &str, ok: bool, probe: bool) {
        let now = self.now();
        let Some(health) = self.of(model, |breaker| breaker.record(now, ok, probe)) else { return };
        count_turn(model, health, "here");
        let told = match health {
            Health::Open => {
                let rest_ms = u64::try_from(self.0.settings.cooldown.as_millis());
                Told::Open { model: model.to_owned(), rest_ms: rest_ms.unwrap_or(u64::MAX) }
            }
            Health::Closed | Health::HalfOpen => Told::Closed { model: model.to_owned() },
        };
        tracing::warn!(model, health = health.as_str(), "a model's breaker has turned");
        let _ = self.0.told.try_send(told);
    }

    /// What another node found.
    fn hear(&self, told: Told) {
        let now = self.now();
        match told {
            Told::Open { model, rest_ms } => {
                let rest = Duration::from_millis(rest_ms);
                let news = self.of(&model, |breaker| {
                    let closed = breaker.health(now) != Health::Open;
                    if closed {
                        breaker.open_for(now, rest);
                    }
                    closed
                });
                if news {
                    count_turn(&model, Health::Open, "elsewhere");
                }
            }
            Told::Closed { model } => {
                let news = self.of(&model, |breaker| {
                    let open = breaker.health(now) != Health::Closed;
                    if open {
                        breaker.close();
                    }
                    open
                });
                if news {
                    count_turn(&model, Health::Closed, "elsewhere");
                }
            }
        }
    }

    /// Every model that was asked, by name.
    pub(crate) fn reports(&self) -> Vec<BreakerReport> {
        let now = self.now();
        let map = self.map();
        let mut reports: Vec<_> = map
            .iter()
            .map(|(model, breaker)| {
                let (calls, failures) = breaker.counts(now);
                let (health, open_for) = standing(breaker, now);
                BreakerReport { model: model.clone(), health, calls, failures, open_for }
            })
            .collect();
        reports.sort_by(|one, other| one.model.cmp(&other.model));
        reports
    }

    /// Tells the gauges.
    pub(crate) fn tell_gauges(&self, models: impl Iterator<Item = String>) {
        for model in models {
            let state = match self.health(&model) {
                Health::Closed => 0.0,
                Health::HalfOpen => 1.0,
                Health::Open => 2.0,
            };
            // A model that never failed has its series all the same.
            for to in [Health::Closed, Health::HalfOpen, Health::Open] {
                count_turns(&model, to, "here", 0);
                count_turns(&model, to, "elsewhere", 0);
            }
            gauge!("qudao_breaker_state", "model" => model).set(state);
        }
    }
}

fn standing(breaker: &Breaker, now: Duration) -> (Health, Option<Duration>) {
    let rest = breaker.open_until().and_then(|until| until.checked_sub(now));
    (breaker.health(now), rest.filter(|rest| !rest.is_zero()))
}

fn count_turn(model: &str, health: Health, found: &'static str) {
    count_turns(model, health, found, 1);
}

fn count_turns(model: &str, health: Health, found: &'static str, turns: u64) {
    let labels = [
        ("model", model.to_owned()),
        ("to", health.as_str().to_owned()),
        ("found", found.to_owned()),
    ];
    counter!("qudao_breaker_turns_total", &labels).increment(turns);
}

impl Permit {
    /// What came of the call.
    pub(crate) fn report(mut self, ok: bool) {
        self.over = true;
        self.breakers.record(&self.model, ok, self.probe);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe && !self.over {
            self.breakers.of(&self.model, Breaker::give_up);
        }
    }
}

/// Whether an error says that the model is not well: not what depends on the request, and not that it
/// has enough to do.
pub(crate) fn is_failure(error: &CallError) -> bool {
    match error {
        CallError::Crashed { .. } | CallError::Timeout { .. } | CallError::Protocol(_) => true,
        CallError::Provider { kind, .. } => match kind {
            ErrorKind::Auth
            | ErrorKind::UnknownModel
            | ErrorKind::RateLimited
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Internal => true,
            ErrorKind::BadRequest | ErrorKind::ContentFilter | ErrorKind::Overloaded => false,
        },
        CallError::UnknownModel(_)
        | CallError::WrongKind { .. }
        | CallError::NotReady { .. }
        | CallError::Overloaded
        | CallError::Poison
        | CallError::Cancelled => false,
    }
}

/// Tells the other nodes, and hears them.
pub(crate) async fn share(core: Weak<Core>, bus: Bus, closing: CancellationToken) {
    let Some(breakers) = core.upgrade().map(|core| core.routes.breakers.clone()) else { return };
    let to_tell = breakers.0.to_tell.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut to_tell) = to_tell else { return };
    let mut heard = bus.subscribe(&Topic::Breakers);
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            told = to_tell.recv() => match told {
                Some(told) => tell(&core, &bus, told).await,
                None => return,
            },
            event = heard.next() => match event {
                BusEvent::Message(bytes) => {
                    // A newer node may know more.
                    if let Ok(told) = serde_json::from_slice(&bytes) {
                        breakers.hear(told);
                    }
                }
                BusEvent::Ready => catch_up(&core, &bus, &breakers).await,
            },
        }
    }
}

async fn tell(core: &Weak<Core>, bus: &Bus, told: Told) {
    let Some(now_ms) = now_ms(core) else { return };
    match &told {
        Told::Open { model, rest_ms } => {
            let until_ms = now_ms.saturating_add(*rest_ms);
            bus.keep_breaker(&OpenBreaker { model: model.clone(), until_ms }).await;
        }
        Told::Closed { model } => bus.drop_breaker(model).await,
    }
    // Plain words and numbers can always be written.
    let bytes = serde_json::to_vec(&told).unwrap_or_default();
    bus.publish(&Topic::Breakers, bytes).await;
}

/// What was told before this node listened.
async fn catch_up(core: &Weak<Core>, bus: &Bus, breakers: &Breakers) {
    let Some(now_ms) = now_ms(core) else { return };
    for OpenBreaker { model, until_ms } in bus.kept_breakers().await {
        let rest_ms = until_ms.saturating_sub(now_ms);
        if rest_ms != 0 {
            breakers.hear(Told::Open { model, rest_ms });
        }
    }
}

fn now_ms(core: &Weak<Core>) -> Option<u64> {
    let core = core.upgrade()?;
    u64::try_from(core.clock.now().as_millisecond()).ok()
}

impl Core {
    /// The breakers of this node's models, by name. A model that was never asked has none.
    pub fn breakers(&self) -> Vec<BreakerReport> {
        self.routes.breakers.reports()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(breakers: &Breakers, times: u32) {
        for _ in 0..times {
            breakers.admit("m").ok().into_iter().for_each(|permit| permit.report(false));
        }
    }

    fn take_told(breakers: &Breakers) -> Vec<Told> {
        let mut to_tell = breakers.0.to_tell.lock().unwrap();
        std::iter::from_fn(|| to_tell.as_mut().unwrap().try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_fails_is_left_alone_tried_and_asked_again() {
        let breakers = Breakers::new(BreakerSettings::default());
        fail(&breakers, 10);
        assert_eq!(breakers.health("m"), Health::Open);
        assert_eq!(breakers.admit("m").err(), Some(Duration::from_secs(15)));
        assert_eq!(breakers.health("other"), Health::Closed);
        advance(Duration::from_secs(14)).await;
        assert_eq!(breakers.admit("m").err(), Some(Duration::from_secs(1)));
        advance(Duration::from_secs(1)).await;
        let (one, two) = (breakers.admit("m").unwrap(), breakers.admit("m").unwrap());
        assert_eq!(breakers.admit("m").err(), Some(Duration::ZERO));
        one.report(true);
        // One that is dropped says nothing, and its place is free again.
        drop(two);
        assert_eq!(breakers.health("m"), Health::HalfOpen);
        breakers.admit("m").unwrap().report(true);
        assert_eq!(breakers.health("m"), Health::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_tell_each_other() {
        let (one, other) =
            (Breakers::new(BreakerSettings::default()), Breakers::new(BreakerSettings::default()));
        fail(&one, 10);
        let told = take_told(&one);
        assert_eq!(told, [Told::Open { model: "m".to_owned(), rest_ms: 15_000 }]);
        told.into_iter().for_each(|told| other.hear(told));
        assert_eq!(other.health("m"), Health::Open);
        assert_eq!(take_told(&other), [], "what was heard is not told again");
        advance(Duration::from_secs(15)).await;
        for _ in 0..2 {
            one.admit("m").unwrap().report(true);
        }
        take_told(&one).into_iter().for_each(|told| other.hear(told));
        assert_eq!(other.health("m"), Health::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn operators_see_what_was_counted_and_how_long_it_is_left_alone() {
        let breakers = Breakers::new(BreakerSettings::default());
        fail(&breakers, 10);
        advance(Duration::from_secs(5)).await;
        let report = &breakers.reports()[0];
        assert_eq!((report.calls, report.failures), (10, 10));
        assert_eq!(report.open_for, Some(Duration::from_secs(10)));
    }

    #[test]
    fn what_depends_on_the_request_is_no_failure_of_the_model() {
        let provider = |kind| CallError::Provider {
            kind,
            message: String::new(),
            status: None,
            retry_after_ms: None,
        };
        for error in [
            provider(ErrorKind::BadRequest),
            provider(ErrorKind::ContentFilter),
            provider(ErrorKind::Overloaded),
            CallError::Overloaded,
            CallError::Poison,
            CallError::Cancelled,
        ] {
            assert!(!is_failure(&error), "{error:?}");
        }
        for error in [
            provider(ErrorKind::Unavailable),
            provider(ErrorKind::Auth),
            CallError::Crashed { signal: None, delivered: false },
            CallError::Protocol(String::new()),
        ] {
            assert!(is_failure(&error), "{error:?}");
        }
    }
}
