//! All plugins and instances of this process.

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use qudao_plugin_api::{
    ModelPlugin,
    manifest::{MANIFEST_FILE, SelfTest, Strategy},
    sdk,
    wire::{ChatMessage, ChatRequest, Role},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    artifact::{VerifiedPlugin, verify_plugin},
    crash,
    credit::Credit,
    engine::Ticket,
    event::{Call, CallError, Event, EventStream},
    flight::{Flight, Slot},
    generation::Generation,
    instance::{Ground, Instance, Source},
    report::{GenerationReport, ModelReport, ModelState, PluginReport, PluginState},
    settings::{HostSettings, InstanceSettings, ModelEntry, ModelKind, Placement},
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
pub struct PluginHost(Arc<Inner>);

struct Inner {
    settings: HostSettings,
    ground: Arc<Ground>,
    plugins: Mutex<Vec<Known>>,
    instances: RwLock<Vec<Arc<Instance>>>,
    routes: RwLock<HashMap<String, Route>>,
    calls: AtomicU64,
    stopped: AtomicBool,
}

#[derive(Clone)]
struct Route {
    instance: Arc<Instance>,
    entry: ModelEntry,
}

#[derive(Debug, Clone)]
struct Known {
    id: String,
    folder: PathBuf,
    verified: Result<VerifiedPlugin, String>,
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
        let ground = Ground {
            host_binary: settings.host_binary.clone(),
            state_dir: settings.state_dir.clone(),
        };
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
            Some(known) => known.verified,
            None => Err(format!("there is no plugin {}", settings.plugin)),
        };
        let quarantined = crash::find_quarantine(&self.0.ground.state_dir, &settings.plugin);
        let (source, failure) = match verified {
            Ok(plugin) => (Some(Source::Folder(Box::new(plugin))), None),
            Err(reason) => (None, Some(ModelState::Failed { reason })),
        };
        // Without code the instance still exists, so that its models report why they fail.
        let source = source.unwrap_or(Source::Static(&EMPTY_API));
        let ground = Arc::clone(&self.0.ground);
        let instance = Arc::new(Instance::new(settings, source, ground));
        self.register(&instance);
        match (failure, quarantined) {
            (Some(state), _) => instance.set_state(state),
            (None, Some(reason)) => instance.set_state(ModelState::Quarantined { reason }),
            (None, None) => instance.launch(None),
        }
    }

    fn register(&self, instance: &Arc<Instance>) {
        let mut routes = self.0.routes.write().unwrap_or_else(PoisonError::into_inner);
        for entry in &instance.settings.models {
            let route = Route { instance: Arc::clone(instance), entry: entry.clone() };
            routes.insert(entry.name.clone(), route);
        }
        drop(routes);
        let mut instances = self.0.instances.write().unwrap_or_else(PoisonError::into_inner);
        instances.push(Arc::clone(instance));
    }

    /// Runs `P` in this process without a library, for tests. Ready once this has returned and
    /// `P::create` is done.
    pub fn register_static<P: ModelPlugin>(&self, settings: InstanceSettings) {
        let settings = InstanceSettings { placement: Placement::Inproc, ..settings };
        let source = Source::Static(sdk::blocking::api::<P>());
        let instance = Arc::new(Instance::new(settings, source, Arc::clone(&self.0.ground)));
        self.register(&instance);
        instance.launch(None);
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
        let mut reports: Vec<_> = routes.values().map(Route::report).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// One model.
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

    /// Starts a call. Never waits.
    ///
    /// # Errors
    /// [`CallError::UnknownModel`], [`CallError::NotReady`], [`CallError::Overloaded`] or
    /// [`CallError::Poison`]; everything later comes through the stream.
    pub fn call(&self, model: &str, call: Call) -> Result<EventStream, CallError> {
        let route = self.0.route(model).ok_or_else(|| CallError::UnknownModel(model.to_owned()))?;
        let instance = &route.instance;
        let mut hasher = DefaultHasher::new();
        call.payload.hash(&mut hasher);
        let fingerprint = hasher.finish();
        let history = instance.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.is_poison(fingerprint) {
            return Err(CallError::Poison);
        }
        drop(history);
        let Some(generation) = instance.current() else {
            return Err(CallError::NotReady { state: instance.state() });
        };
        self.0.submit(instance, &generation, call, fingerprint)
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

    async fn reload_instance(
        &self,
        instance: &Arc<Instance>,
        verified: &VerifiedPlugin,
    ) -> Result<GenerationReport, HostError> {
        let refused =
            |reason| HostError::Reload { instance: instance.settings.name.clone(), reason };
        let probed = crate::probe::probe_child(&self.0.ground, verified);
        let probed = tokio::task::spawn_blocking(probed).await;
        probed.map_err(|error| error.to_string()).and_then(|result| result).map_err(refused)?;
        let early = match verified.manifest.upgrade.strategy {
            Strategy::DrainFirst => instance.uninstall(),
            Strategy::SideBySide => None,
        };
        let limits = instance.limits();
        if let Some(old) = &early {
            instance.watch(old);
            retire(instance, old, limits.drain).await;
        }
        instance.set_source(Source::Folder(Box::new(verified.clone())));
        let (ready, started) = oneshot::channel();
        instance.launch(Some(ready));
        let generation =
            started.await.map_err(|error| error.to_string()).and_then(|started| started);
        let generation = generation.map_err(refused)?;
        if let Some(selftest) = &verified.manifest.selftest {
            instance.watch(&generation);
            let tested = self.selftest(instance, &generation, selftest).await;
            if let Err(reason) = tested {
                instance.unwatch(&generation);
                end(&generation);
                return Err(refused(format!("the self-test failed: {reason}")));
            }
        }
        let old = instance.install(&generation);
        let mut drained = 0;
        if let Some(old) = &old {
            drained = old.in_flight();
            instance.watch(old);
            retire(instance, old, limits.drain).await;
        }
        Ok(GenerationReport {
            instance: instance.settings.name.clone(),
            from: old.or(early).map_or(0, |old| old.number),
            to: generation.number,
            variant: generation.variant.clone(),
            drained,
        })
    }

    async fn selftest(
        &self,
        instance: &Arc<Instance>,
        generation: &Arc<Generation>,
        selftest: &SelfTest,
    ) -> Result<(), String> {
        let model = instance.settings.models.first();
        let model = model.map_or("", |entry| entry.upstream.as_deref().unwrap_or(&entry.name));
        let message = ChatMessage::text(Role::User, selftest.message.clone());
        let request = ChatRequest::new(model, vec![message]);
        let call = Call {
            kind: ModelKind::Chat,
            payload: serde_json::to_vec(&request).map_err(|error| error.to_string())?,
            timeout: Duration::from_millis(selftest.timeout_ms),
            trace: String::new(),
        };
        let submitted = self.0.submit(instance, generation, call, 0);
        let mut stream = submitted.map_err(|error| error.to_string())?;
        while let Some(event) = stream.next().await {
            match event {
                Event::End { .. } => return Ok(()),
                Event::Error(error) => return Err(error.to_string()),
                _ => {}
            }
        }
        Err("no end".to_owned())
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
                instance.launch(None);
            }
        }
        Ok(())
    }

    /// Waits up to `deadline` for calls under way, then ends every child.
    pub async fn shutdown(&self, deadline: Duration) {
        self.0.stopped.store(true, Ordering::Relaxed);
        let until = Instant::now() + deadline;
        let mut generations = Vec::new();
        for instance in self.0.instances() {
            instance.stopping.store(true, Ordering::Relaxed);
            if let Some(generation) = instance.uninstall() {
                instance.watch(&generation);
                generations.push(generation);
            }
            instance.set_state(ModelState::Failed { reason: "shutting down".to_owned() });
        }
        for generation in generations {
            drain(&generation, until).await;
            end(&generation);
        }
    }
}

static EMPTY_API: qudao_plugin_api::abi::QdPluginApi = qudao_plugin_api::abi::QdPluginApi {
    struct_size: 0,
    abi_minor: 0,
    create: None,
    destroy: None,
    run: None,
    submit: None,
    cancel: None,
    resume: None,
    drain: None,
};

async fn drain(generation: &Generation, until: Instant) {
    while generation.in_flight() != 0 && Instant::now() < until {
        tokio::time::sleep(watch::TICK).await;
    }
}

/// Lets the calls of an old generation finish, then ends it.
async fn retire(instance: &Instance, old: &Arc<Generation>, timeout: Duration) {
    drain(old, Instant::now() + timeout).await;
    end(old);
    instance.unwatch(old);
}

fn end(generation: &Generation) {
    generation.retired.store(true, Ordering::Relaxed);
    for flight in generation.flights() {
        flight.cancel();
    }
    if let Some(link) = generation.child() {
        link.hang_up();
    }
}

impl Inner {
    fn plugins(&self) -> MutexGuard<'_, Vec<Known>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, plugin: &str) -> Option<Known> {
        self.plugins().iter().find(|known| known.id == plugin).cloned()
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn route(&self, model: &str) -> Option<Route> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(model).cloned()
    }

    fn rediscover(&self, plugin: &str) -> Result<Known, HostError> {
        *self.plugins() = discover(&self.settings);
        self.find(plugin).ok_or_else(|| HostError::UnknownPlugin(plugin.to_owned()))
    }

    fn watch(&self) {
        let now = Instant::now();
        for instance in self.instances() {
            let limits = instance.limits();
            instance.expire_waiting(now);
            for generation in instance.watched() {
                if watch::look(&generation, &limits, now) {
                    tracing::warn!(?generation, "a request ignored its cancellation");
                }
            }
        }
    }

    fn submit(
        &self,
        instance: &Instance,
        generation: &Arc<Generation>,
        call: Call,
        fingerprint: u64,
    ) -> Result<EventStream, CallError> {
        let max = usize::try_from(instance.max_concurrency()).unwrap_or(usize::MAX);
        let slot = Slot::take(&instance.in_flight, max).ok_or(CallError::Overloaded)?;
        let timeout = call.timeout.min(instance.limits().total);
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let window = instance.runtime().window;
        let ticket = Ticket {
            id: self.calls.fetch_add(1, Ordering::Relaxed),
            kind: call.kind.code(),
            deadline_ns: sdk::monotonic_ns().saturating_add(timeout_ns),
            payload: call.payload,
            trace: call.trace,
            cancel: AtomicU32::new(0),
            credit: Credit::new(window),
        };
        let (sender, events) = mpsc::unbounded_channel();
        let deadline = Instant::now() + timeout;
        let flight = Arc::new(Flight::new(ticket, window, fingerprint, deadline, sender, slot));
        generation.submit(&flight);
        Ok(EventStream { flight, events, consumed: 0, over: false })
    }
}

impl Route {
    fn report(&self) -> ModelReport {
        let (instance, entry) = (&self.instance, self.entry.clone());
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
            variant: current.map_or_else(String::new, |current| current.variant.clone()),
            context_tokens: entry.context_tokens,
            max_output_tokens: entry.max_output_tokens,
            data_class: entry.data_class,
            in_flight: instance.in_flight.load(Ordering::Relaxed),
            crashes: instance.crashes.load(Ordering::Relaxed),
            violations: instance.violations.load(Ordering::Relaxed),
        }
    }
}

fn discover(settings: &HostSettings) -> Vec<Known> {
    let mut found = Vec::new();
    for folder in settings.plugin_dirs.iter().flat_map(|dir| folders(dir)) {
        let verified = verify_plugin(&folder, &settings.trusted_keys, settings.allow_unsigned);
        let verified = verified.map_err(|error| error.to_string());
        let id = match &verified {
            Ok(plugin) => plugin.manifest.plugin.id.clone(),
            Err(reason) => {
                tracing::warn!(folder = %folder.display(), reason, "a plugin is refused");
                folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
        };
        found.push(Known { id, folder, verified });
    }
    found
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(MANIFEST_FILE).is_file())
        .collect();
    folders.sort();
    folders
}

fn plugin_report(ground: &Ground, known: &Known, instances: &[Arc<Instance>]) -> PluginReport {
    let state = match (&known.verified, crash::find_quarantine(&ground.state_dir, &known.id)) {
        (Err(reason), _) => PluginState::Refused { reason: reason.clone() },
        (Ok(_), Some(reason)) => PluginState::Quarantined { reason },
        (Ok(_), None) => PluginState::Accepted,
    };
    let verified = known.verified.as_ref().ok();
    let own = instances.iter().filter(|instance| instance.settings.plugin == known.id);
    PluginReport {
        id: known.id.clone(),
        version: verified.map_or_else(String::new, |plugin| plugin.manifest.plugin.version.clone()),
        path: known.folder.display().to_string(),
        state,
        signer: verified.and_then(|plugin| plugin.signer).map(hex::encode),
        instances: own.map(|instance| instance.settings.name.clone()).collect(),
    }
}
