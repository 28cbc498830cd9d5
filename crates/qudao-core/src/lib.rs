//! The use cases of Qudao: accept a message, answer it in a turn, settle it, hand it to a
//! channel; and the OpenAI-compatible path, which spends from credit blocks.
//!
//! Every effect follows a commit, and no transaction is open while a model runs. What decides
//! about money is always one statement in the database: memory holds only what the database
//! has reserved before.

use std::sync::{Arc, OnceLock};

use qudao_domain::{Clock, NodeId};
use qudao_storage::{Bus, Store};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod accept;
pub mod api;
pub mod audit;
pub mod authenticate;
mod backlog;
mod begun;
pub mod channel;
pub mod faults;
pub mod letter;
mod metrics;
pub mod notice;
pub mod once;
pub mod people;
pub mod preview;
mod price;
pub mod proof;
pub mod rates;
pub mod routing;
pub mod settings;
mod spans;
mod step;
pub mod together;
pub mod turn;
pub mod vault;
pub mod wake;

pub use accept::{AcceptError, Accepted, Joined, Piece};
pub use api::{
    Answered, ApiError, ApiEvent, ApiReply, ApiRequest, CallSlot, KeptAnswer, Served, ServedBy,
};
pub use authenticate::{AuthError, Principal};
pub use channel::{Channel, DeliverError};
pub use metrics::METRICS;
pub use once::Claim;
pub use preview::{AssistantState, ControlEvent, PreviewEvent, TurnWatcher, WatchedTurn};
pub use qudao_plugin_host::{DataClass, ModelKind, PluginHost};
pub use qudao_telemetry::Trace;
pub use rates::{Sender, TooFast};
pub use routing::{BreakerReport, Offer};
pub use settings::CoreSettings;
pub use together::Together;
pub use turn::TurnOutcome;
pub use vault::{MasterKeySource, Place, SecretBytes, Vault, VaultError};
pub use wake::Wake;

/// What the use cases stand on.
pub struct CoreParts {
    /// The system of record.
    pub store: Store,
    /// Hints and previews between nodes.
    pub bus: Bus,
    /// The models.
    pub plugins: PluginHost,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where spawned work is counted, so that shutdown can wait for it.
    pub tasks: TaskTracker,
    /// This process, as the database knows it.
    pub node: NodeId,
    /// Secrets in the database.
    pub vault: Vault,
}

/// The use cases of one node.
pub struct Core {
    /// The system of record.
    pub store: Store,
    /// Hints and previews between nodes.
    pub bus: Bus,
    /// The models.
    pub plugins: PluginHost,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Bounds and waits.
    pub settings: CoreSettings,
    /// Hints within this process.
    pub wake: Wake,
    /// Where spawned work is counted, so that shutdown can wait for it.
    pub tasks: TaskTracker,
    /// This process, as the database knows it.
    pub node: NodeId,
    /// Secrets in the database.
    pub vault: Vault,
    /// Work that must outlive the connection that caused it runs here: an HTTP worker's own
    /// runtime may end first.
    runtime: Handle,
    closing: CancellationToken,
    keys: authenticate::Keys,
    doors: channel::DoorCache,
    setups: channel::setup::Setups,
    prices: price::PriceBook,
    running: turn::RunningTurns,
    api: api::ApiState,
    arrivals: accept::Arrivals,
    turn_steps: turn::TurnSteps,
    rates: rates::Rates,
    backlog: backlog::Backlog,
    routes: routing::Routes,
    watcher: OnceLock<Arc<dyn TurnWatcher>>,
}

impl Core {
    /// Puts the parts together. Call it within the runtime that shall do the background work, and
    /// [`Core::drain`] at the end.
    pub fn new(parts: CoreParts, settings: CoreSettings) -> Arc<Self> {
        let CoreParts { store, bus, plugins, clock, tasks, node, vault } = parts;
        let (renew, closing) = (settings.api.blocks.renew, CancellationToken::new());
        let core = Arc::new(Self {
            keys: authenticate::Keys::new(settings.key_cache),
            doors: channel::DoorCache::new(settings.key_cache),
            setups: channel::setup::Setups::new(),
            prices: price::PriceBook::new(settings.price_cache),
            running: turn::RunningTurns::default(),
            api: api::ApiState::new(&settings.api),
            arrivals: accept::Arrivals::default(),
            turn_steps: turn::TurnSteps::default(),
            rates: rates::Rates::new(&bus, &settings.rates),
            backlog: backlog::Backlog::default(),
            routes: routing::Routes::new(&settings.routing),
            watcher: OnceLock::new(),
            runtime: Handle::current(),
            wake: Wake::default(),
            store,
            bus,
            plugins,
            clock,
            settings,
            tasks,
            node,
            vault,
            closing: closing.clone(),
        });
        let (own, bus) = (Arc::downgrade(&core), core.bus.clone());
        core.spawn(authenticate::follow_changes(own.clone(), bus, closing.clone()));
        core.spawn(authenticate::write_uses(own.clone(), closing.clone()));
        core.spawn(routing::share(own.clone(), core.bus.clone(), closing.clone()));
        core.spawn(rates::give_back_unused(own.clone(), closing.clone()));
        core.spawn(api::upkeep::run(own, renew, closing));
        core
    }

    /// Tells this one of each turn that begins here. The first one stays.
    pub fn watch_turns(&self, watcher: Arc<dyn TurnWatcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// Runs `work` to its end even if the caller goes away.
    fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// As [`Core::spawn`], but begun here. For work whose outcome somebody waits for.
    fn spawn_begun(&self, work: impl Future<Output = ()> + Send + 'static) {
        begun::spawn_begun(&self.runtime, self.tasks.track_future(work));
    }

    /// As [`Core::spawn_begun`], but on a thread that serves calls it stays there.
    fn spawn_here(&self, work: impl Future<Output = ()> + Send + 'static) {
        begun::spawn_here(&self.runtime, self.tasks.track_future(work));
    }
}

/// Has this thread do by itself, in the current runtime, what calls of the API on it wait for: the exchanges
/// of plugins in this process and the statements that settle. For threads that serve HTTP.
///
/// # Panics
/// Outside of a runtime.
pub fn work_here() {
    qudao_plugin_host::exchange_here();
    qudao_storage::connect_here();
    begun::go_on_here();
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("node", &self.node).finish_non_exhaustive()
    }
}
