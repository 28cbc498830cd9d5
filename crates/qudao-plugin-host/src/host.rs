//! All plugins and instances of this process.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use qudao_plugin_api::{ModelPlugin, manifest::Manifest, sdk};
use qudao_telemetry::{Span, SpanKind};
use tokio::sync::mpsc;

use crate::{
    crash,
    credit::Credit,
    discover::{Known, discover, plugin_report},
    engine::{Ticket, fingerprint},
    event::{Call, CallError, Event, EventStream},
    flight::Flight,
    generation::Generation,
    instance::{Ground, Instance},
    metrics,
    report::{GenerationReport, ModelReport, ModelState, PluginReport},
    settings::{HostSettings, InstanceSettings, ModelEntry, ModelKind, Placement},
    terms::Source,
    watch,
};

/// Why an operator's wish was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No such plugin.
    #[error("there is no plugin {0}")]
    UnknownPlugin(String),
    /// The new generation did not come up; the old one still serves.
    #[error("{instance}: {reason}")]
    Reload {
        /// Which instance.
        instance: String,
        /// Why.
        reason: String,
    },
    /// The quarantine could not be changed on disk.
    #[error("the quarantine could not be changed: {0}")]
    Quarantine(#[from] io::Error),
}

/// All plugins and instances of this process. Cheap to clone.
#[derive(Clone)]
pub struct PluginHost(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    settings: HostSettings,
    pub(crate) ground: Arc<Ground>,
    plugins: Mutex<Vec<Known>>,
    instances: RwLock<Vec<Arc<Instance>>>,
    routes: RwLock<HashMap<String, Arc<Route>>>,
    calls: AtomicU64,
    pub(crate) stopped: AtomicBool,
}

struct Route {
    instance: Arc<Instance>,
    entry: Arc<ModelEntry>,
}

impl std::fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PluginHost")
    }
}

impl PluginHost {
    /// Verifies the plugins and starts the instances in the background. A plugin that is
    /// refused shows in the reports and stops nothing else.
    #[expect(clippy::unused_async, reason = "a start may come to wait without a new signature")]
    pub async fn start(settings: HostSettings) -> Self {
        let ground = Ground::new(&settings);
        let known = discover(&settings);
        let host = Self(Arc::new(Inner {
            ground: Arc::new(ground),
            plugins: Mutex::new(known),
            instances: RwLock::default(),
            routes: RwLock::default(),
            calls: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            settings,
        }));
        for settings in host.0.settings.instances.clone() {
            host.add(settings);
        }
        let inner = Arc::downgrade(&host.0);
        let watching =
            std::thread::Builder::new().name("plugin-watch".to_owned()).spawn(move || {
                while let Some(inner) = inner.upgrade() {
                    inner.watch();
                    drop(inner);
                    std::thread::sleep(watch::TICK);
                }
            });
        if let Err(error) = watching {
            tracing::error!(%error, "the watchdogs could not start");
        }
        host
    }

    fn add(&self, settings: InstanceSettings) {
        let found = self.0.find(&settings.plugin);
        let verified = match found {
            Some(known) => known
                .verified
                .and_then(|plugin| offers(&plugin.manifest, &settings.models).map(|()| plugin)),
            None => Err(format!("there is no plugin {}", settings.plugin)),
        };
        let quarantined = crash::find_quarantine(&self.0.ground.state_dir, &settings.plugin);
        let (source, failure) = match verified {
            Ok(plugin) => (Source::Folder(Box::new(plugin)), None),
            Err(reason) => (Source::Absent, Some(ModelState::Failed { reason })),
        };
        let ground = Arc::clone(&self.0.ground);
        let instance = Arc::new(Instance::new(settings, source, ground));
        metrics::register_errors(&instance.settings.name);
        self.register(&instance);
        match (failure, quarantined) {
            (Some(state), _) => instance.set_state(state),
            (None, Some(reason)) => instance.set_state(ModelState::Quarantined { reason }),
            (None, None) => instance.launch(),
        }
    }

    fn register(&self, instance: &Arc<Instance>) {
        let mut routes = self.0.routes.write().unwrap_or_else(PoisonError::into_inner);
        for entry in &instance.settings.models {
            let (instance, entry) = (Arc::clone(instance), Arc::new(entry.clone()));
            routes.insert(entry.name.clone(), Arc::new(Route { instance, entry }));
        }
        drop(routes);
        let mut instances = self.0.instances.write().unwrap_or_else(PoisonError::into_inner);
        instances.push(Arc::clone(instance));
    }

    /// Runs `P` in this process without a library, for tests. Ready once this has returned and
    /// `P::create` is done.
    pub fn register_static<P: ModelPlugin>(&self, settings: InstanceSettings) {
        self.register_table(sdk::blocking::table::<P>(), settings);
    }

    /// As [`Self::register_static`], by the plugin's table.
    pub fn register_table(&self, table: sdk::Table, settings: InstanceSettings) {
        let settings = InstanceSettings { placement: Placement::Inproc, ..settings };
        let source = Source::Static(table.functions());
        let instance = Arc::new(Instance::new(settings, source, Arc::clone(&self.0.ground)));
        self.register(&instance);
        instance.launch();
    }

    /// Every plugin found in the folders.
    #[must_use]
    pub fn plugins(&self) -> Vec<PluginReport> {
        let instances = self.0.instances();
        let known = self.0.plugins().clone();
        known.iter().map(|known| plugin_report(&self.0.ground, known, &instances)).collect()
    }

    /// Every model of every instance.
    #[must_use]
    pub fn models(&self) -> Vec<ModelReport> {
        let routes = self.0.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = routes.values().map(|route| route.report()).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// What a caller needs to know of a model that serves now. For every request: copies
    /// nothing.
    ///
    /// # Errors
    /// [`CallError::UnknownModel`] and [`CallError::NotReady`].
    pub fn ready(&self, name: &str) -> Result<Arc<ModelEntry>, CallError> {
        let routes = self.0.routes.read().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get(name).ok_or_else(|| CallError::UnknownModel(name.to_owned()))?;
        if route.instance.serves() {
            return Ok(Arc::clone(&route.entry));
        }
        Err(CallError::NotReady { state: route.instance.state() })
    }

    /// What a model does, ready or not; `None` if no instance offers it.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<ModelKind> {
        let routes = self.0.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.get(name).map(|route| route.entry.kind)
    }

    /// One model as operators see it.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<ModelReport> {
        self.0.route(name).map(|route| route.report())
    }

    /// The process id of the child that serves a model, if one does.
    #[must_use]
    pub fn child_pid(&self, model: &str) -> Option<u32> {
        let current = self.0.route(model)?.instance.current()?;
        current.child().map(crate::process::ChildLink::pid)
    }

    /// Starts a call of nobody in particular; see [`Self::call_for`].
    ///
    /// # Errors
    /// As [`Self::call_for`].
    pub fn call(&self, model: &str, call: Call) -> Result<EventStream, CallError> {
        self.begin(model, call, None)
    }

    /// Starts a call of one of several payers, of whom none may have all places of an instance
    /// while others call too. Never waits.
    ///
    /// # Errors
    /// [`CallError::UnknownModel`], [`CallError::NotReady`], [`CallError::Overloaded`] or
    /// [`CallError::Poison`]; everything later comes through the stream.
    pub fn call_for(&self, payer: u128, model: &str, call: Call) -> Result<EventStream, CallError> {
        self.begin(model, call, Some(payer))
    }

    fn begin(
        &self,
        model: &str,
        call: Call,
        payer: Option<u128>,
    ) -> Result<EventStream, CallError> {
        let started = self.start_call(model, call, payer);
        if let Err(error) = &started
            && let Some(route) = self.0.route(model)
        {
            route.instance.last_failure.note(&route.instance.settings.name, error);
        }
        started
    }

    fn start_call(
        &self,
        model: &str,
        call: Call,
        payer: Option<u128>,
    ) -> Result<EventStream, CallError> {
        let route = self.0.route(model).ok_or_else(|| CallError::UnknownModel(model.to_owned()))?;
        let instance = &route.instance;
        if route.entry.kind != call.kind {
            let (offers, asked) = (route.entry.kind, call.kind);
            return Err(CallError::WrongKind { model: model.to_owned(), offers, asked });
        }
        let history = instance.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.is_poison(Instant::now, || fingerprint(&call.payload)) {
            return Err(CallError::Poison);
        }
        drop(history);
        let not_ready = || CallError::NotReady { state: instance.state() };
        let mut generation = instance.current().ok_or_else(not_ready)?;
        let mut span = Span::child("plugin", SpanKind::Client, call.trace);
        let traceparent = span.place().traceparent();
        let (flight, events) = self.0.flight(instance, &generation, call, traceparent, payer)?;
        // A generation that takes nothing new was replaced a moment ago.
        while !generation.submit(&flight) {
            let next = instance.current().ok_or_else(not_ready)?;
            if Arc::ptr_eq(&next, &generation) {
                return Err(not_ready());
            }
            generation = next;
        }
        span.set_with("qudao.plugin.instance", || instance.settings.name.clone());
        span.set_with("qudao.plugin.id", || instance.settings.plugin.clone());
        span.set("qudao.plugin.generation", i64::try_from(generation.number).unwrap_or(i64::MAX));
        Ok(EventStream::new(Arc::clone(instance), flight, events, span))
    }

    /// Verifies the plugin anew and swaps each of its instances to a new generation; calls
    /// under way finish in the old one.
    ///
    /// # Errors
    /// [`HostError::Reload`]: the old generations still serve.
    pub async fn reload(&self, plugin: &str) -> Result<Vec<GenerationReport>, HostError> {
        let known = self.0.rediscover(plugin)?;
        let refused = |reason| HostError::Reload { instance: plugin.to_owned(), reason };
        let verified = known.verified.clone().map_err(refused)?;
        let mut reports = Vec::new();
        for instance in self.0.instances() {
            if instance.settings.plugin == plugin {
                reports.push(self.reload_instance(&instance, &verified).await?);
            }
        }
        Ok(reports)
    }

    /// Lets a quarantined plugin start again.
    ///
    /// # Errors
    /// [`HostError::UnknownPlugin`] and [`HostError::Quarantine`].
    pub fn lift_quarantine(&self, plugin: &str) -> Result<(), HostError> {
        let instances = self.0.instances();
        let mut own = instances.iter().filter(|i| i.settings.plugin == plugin).peekable();
        if own.peek().is_none() && self.0.find(plugin).is_none() {
            return Err(HostError::UnknownPlugin(plugin.to_owned()));
        }
        crash::lift(&self.0.ground.state_dir, plugin)?;
        for instance in own {
            if matches!(instance.state(), ModelState::Quarantined { .. }) {
                instance.history.lock().unwrap_or_else(PoisonError::into_inner).forgive();
                instance.set_state(ModelState::Loading { note: "starting".to_owned() });
                instance.launch();
            }
        }
        Ok(())
    }
}

/// Whether the plugin says that it does what its models are said to do.
pub(crate) fn offers(manifest: &Manifest, models: &[ModelEntry]) -> Result<(), String> {
    let kinds = &manifest.plugin.kinds;
    let missing = |entry: &&ModelEntry| !kinds.iter().any(|kind| kind == entry.kind.as_str());
    match models.iter().find(missing) {
        None => Ok(()),
        Some(ModelEntry { name, kind, .. }) => Err(format!(
            "the model {name} is set up as one that {}, and the plugin {} offers only: {}",
            kind.deed(),
            manifest.plugin.id,
            kinds.join(", "),
        )),
    }
}

impl Inner {
    fn plugins(&self) -> MutexGuard<'_, Vec<Known>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, plugin: &str) -> Option<Known> {
        let plugins = self.plugins();
        let mut named = plugins.iter().filter(|known| known.id == plugin);
        // A folder that is refused goes by its name, and stands in for no other plugin.
        let accepted = named.clone().find(|known| known.verified.is_ok());
        accepted.or_else(|| named.next()).cloned()
    }

    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn route(&self, model: &str) -> Option<Arc<Route>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(model).cloned()
    }

    fn rediscover(&self, plugin: &str) -> Result<Known, HostError> {
        *self.plugins() = discover(&self.settings);
        self.find(plugin).ok_or_else(|| HostError::UnknownPlugin(plugin.to_owned()))
    }

    fn watch(&self) {
        let now = Instant::now();
        for instance in self.instances() {
            instance.retry(now);
            for generation in instance.watched() {
                if watch::look(&generation, &generation.terms.limits, now) {
                    tracing::warn!(?generation, "a request ignored its cancellation");
                }
            }
        }
    }

    pub(crate) fn flight(
        &self,
        instance: &Instance,
        generation: &Generation,
        call: Call,
        traceparent: String,
        payer: Option<u128>,
    ) -> Result<(Arc<Flight>, mpsc::UnboundedReceiver<Event>), CallError> {
        let terms = &generation.terms;
        let max = usize::try_from(terms.max_concurrency).unwrap_or(usize::MAX);
        let slot = instance.slots.take(max, payer).ok_or(CallError::Overloaded)?;
        let timeout = call.timeout.min(terms.limits.total);
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let ticket = Ticket {
            id: self.calls.fetch_add(1, Ordering::Relaxed),
            kind: call.kind.code(),
            deadline_ns: sdk::monotonic_ns().saturating_add(timeout_ns),
            payload: call.payload,
            trace: traceparent,
            cancel: AtomicU32::new(0),
            credit: Credit::new(terms.window),
        };
        let (sender, events) = mpsc::unbounded_channel();
        let deadline = Instant::now() + timeout;
        Ok((Arc::new(Flight::new(ticket, terms.window, deadline, sender, slot)), events))
    }
}

impl Route {
    fn report(&self) -> ModelReport {
        let (instance, entry) = (&self.instance, ModelEntry::clone(&self.entry));
        let current = instance.current();
        ModelReport {
            name: entry.name,
            upstream: entry.upstream,
            instance: instance.settings.name.clone(),
            plugin: instance.settings.plugin.clone(),
            kind: entry.kind,
            state: instance.state(),
            generation: current.as_ref().map_or(0, |current| current.number),
            placement: instance.settings.placement,
            variant: current.as_ref().map_or_else(String::new, |now| now.variant.clone()),
            sandbox: current.map_or_else(Vec::new, |now| now.sandbox.clone()),
            context_tokens: entry.context_tokens,
            max_output_tokens: entry.max_output_tokens,
            data_class: entry.data_class,
            in_flight: instance.slots.taken(),
            crashes: instance.crashes.load(Ordering::Relaxed),
            violations: instance.violations.load(Ordering::Relaxed),
            last_failure: instance.last_failure.report(),
        }
    }
}
