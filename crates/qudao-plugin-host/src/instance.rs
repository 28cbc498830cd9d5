//! An instance over its generations: start, supervise, start again, swap.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use qudao_egress::Rules;
use qudao_plugin_api::{
    abi::QdPluginApi,
    manifest::{Manifest, TARGET},
};
use qudao_telemetry::Redacted;
use tokio::sync::oneshot;

use crate::{
    artifact::{RefusalError, SealedArtifact, VerifiedPlugin},
    child::Create,
    config,
    confine::{Confinement, Sandbox},
    crash::{self, CrashHistory, Verdict},
    engine::{Engine, Outlet},
    event::CallError,
    failure::LastFailure,
    flight::Flight,
    frame::Frames,
    generation::{Generation, Link},
    load::load,
    metrics,
    net::Clients,
    opening::{Opened, listen, open_child},
    process::ChildLink,
    report::ModelState,
    retry::Retries,
    settings::{HostSettings, InstanceSettings, Placement},
    slot::Slots,
    terms::{Source, Terms},
    versions,
};

/// What every instance of a host shares.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) host_binary: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) sandbox: Sandbox,
    pub(crate) allow_downgrade: Vec<String>,
    pub(crate) clients: Arc<Clients>,
}

impl Ground {
    pub(crate) fn new(settings: &HostSettings) -> Self {
        Self {
            host_binary: settings.host_binary.clone(),
            state_dir: settings.state_dir.clone(),
            sandbox: settings.sandbox,
            allow_downgrade: settings.allow_downgrade.clone(),
            clients: Arc::new(Clients::new(Rules::default())),
        }
    }
}

pub(crate) struct Instance {
    pub(crate) settings: InstanceSettings,
    pub(crate) slots: Slots,
    pub(crate) crashes: AtomicU64,
    pub(crate) violations: Arc<AtomicU64>,
    pub(crate) history: Mutex<CrashHistory>,
    pub(crate) last_failure: LastFailure,
    ground: Arc<Ground>,
    terms: RwLock<Arc<Terms>>,
    current: RwLock<Option<Arc<Generation>>>,
    starting: Mutex<Vec<Arc<Generation>>>,
    state: Mutex<ModelState>,
    retries: Mutex<Retries>,
    generations: AtomicU64,
    pub(crate) stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A start that succeeded; the reader is absent in-process.
struct Started {
    generation: Arc<Generation>,
    child: Option<(ChildLink, Frames<UnixStream>)>,
}

impl Started {
    /// Ends what is not wanted after all.
    fn discard(self) {
        self.generation.end();
        if let Some((link, _)) = self.child {
            link.kill();
            link.reap();
        }
    }
}

/// A generation whose child ended before it was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its process ended before it served")]
pub(crate) struct Gone;

type Ready = oneshot::Sender<Result<Arc<Generation>, String>>;

impl Instance {
    pub(crate) fn new(settings: InstanceSettings, source: Source, ground: Arc<Ground>) -> Self {
        let terms = Arc::new(Terms::new(source, &settings));
        Self {
            settings,
            slots: Slots::default(),
            crashes: AtomicU64::new(0),
            violations: Arc::default(),
            history: Mutex::default(),
            last_failure: LastFailure::default(),
            ground,
            terms: RwLock::new(terms),
            current: RwLock::new(None),
            starting: Mutex::default(),
            state: Mutex::new(ModelState::Loading { note: "starting".to_owned() }),
            retries: Mutex::default(),
            generations: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn serves(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn state(&self) -> ModelState {
        let state = lock(&self.state).clone();
        let degraded = self.current().is_some_and(|g| g.degraded.load(Ordering::Relaxed));
        if state == ModelState::Ready && degraded { ModelState::Degraded } else { state }
    }

    pub(crate) fn set_state(&self, state: ModelState) {
        *lock(&self.state) = state;
    }

    /// What the next start goes by.
    pub(crate) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts and supervises on a thread of its own.
    pub(crate) fn launch(self: &Arc<Self>) {
        self.launch_with(self.terms(), None);
    }

    /// As [`Instance::launch`], by other terms. With `ready`, the caller installs the
    /// generation and the terms with it; without, it is installed as soon as it serves.
    pub(crate) fn launch_with(self: &Arc<Self>, terms: Arc<Terms>, ready: Option<Ready>) {
        let instance = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name(format!("plugin-{}", self.settings.name))
            .spawn(move || instance.supervise(terms, ready));
        if let Err(error) = spawned {
            self.set_state(ModelState::Failed { reason: format!("starting a thread: {error}") });
        }
    }

    fn supervise(self: Arc<Self>, terms: Arc<Terms>, mut ready: Option<Ready>) {
        let mut served = false;
        while !self.stopping.load(Ordering::Relaxed) {
            let staged = ready.is_some();
            let began = Instant::now();
            let started = self.start(&terms);
            if started.is_ok() {
                metrics::started(&self.settings.name, began.elapsed());
            }
            let started = match (started, ready.take()) {
                (Ok(started), None) if self.serves() => return started.discard(),
                (Ok(started), None) => {
                    // One that is gone already is dealt with below.
                    drop(self.install(&started.generation));
                    started
                }
                (Ok(started), Some(ready)) => {
                    drop(ready.send(Ok(Arc::clone(&started.generation))));
                    started
                }
                (Err(reason), Some(ready)) => return drop(ready.send(Err(reason))),
                // A reload was quicker.
                (Err(_), None) if self.serves() => return,
                (Err(reason), None) if served => {
                    if self.again(&format!("restarting, as the last start failed: {reason}")) {
                        continue;
                    }
                    return;
                }
                (Err(reason), None) => return self.give_up(&ModelState::Failed { reason }),
            };
            served = true;
            let Started { generation, child } = started;
            let Some((link, mut frames)) = child else { return };
            listen(&generation, &mut frames);
            let signal = link.reap();
            let installed = self.note_end(&generation);
            if !installed || self.stopping.load(Ordering::Relaxed) {
                lose(&generation.take_all(), signal);
                if staged || generation.retired.load(Ordering::Relaxed) || !installed {
                    return;
                }
                continue;
            }
            if !self.after_crash(&generation, signal) {
                return;
            }
        }
        self.fail_waiting();
    }

    /// Remembers that a generation's child is gone; whether new calls went to it.
    fn note_end(&self, generation: &Arc<Generation>) -> bool {
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        generation.gone.store(true, Ordering::Relaxed);
        current.as_ref().is_some_and(|now| Arc::ptr_eq(now, generation))
    }

    fn give_up(&self, state: &ModelState) {
        self.set_state(state.clone());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.fail_waiting();
    }

    /// Sorts the calls of a dead generation; true if another one shall start.
    fn after_crash(&self, generation: &Arc<Generation>, signal: Option<i32>) -> bool {
        let note = format!(
            "restarting after a crash{}",
            signal.map_or_else(String::new, |s| format!(" by signal {s}"))
        );
        self.set_state(ModelState::Loading { note: note.clone() });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.sort_lost(&generation.take_all(), signal);
        self.again(&note)
    }

    /// Counts a crash or a start that failed after one that did not, and waits as long as that
    /// asks for; true if the plugin shall start again.
    fn again(&self, note: &str) -> bool {
        tracing::error!(instance = self.settings.name, "{}", Redacted(note));
        self.set_state(ModelState::Loading { note: note.to_owned() });
        self.crashes.fetch_add(1, Ordering::Relaxed);
        let verdict = lock(&self.history).crashed(Instant::now());
        match verdict {
            Verdict::RestartAfter(wait) => {
                std::thread::sleep(wait);
                !self.serves()
            }
            Verdict::Quarantine => {
                let reason = "5 crashes within 60 s".to_owned();
                let plugin = &self.settings.plugin;
                if let Err(error) = crash::quarantine(&self.ground.state_dir, plugin, &reason) {
                    tracing::error!(plugin, %error, "the quarantine could not be written");
                }
                self.give_up(&ModelState::Quarantined { reason });
                false
            }
        }
    }

    fn sort_lost(&self, lost: &[Arc<Flight>], signal: Option<i32>) {
        let now = Instant::now();
        let mut retries = lock(&self.retries);
        let mut history = lock(&self.history);
        for flight in lost {
            let poison =
                retries.blames(flight, lost) && history.blame(flight.ticket().fingerprint(), now);
            retries.take(Arc::clone(flight), poison, signal);
        }
        retries.settle(|flight| history.is_poison(|| now, || flight.ticket().fingerprint()));
    }

    /// Calls that wait to be made again after a crash.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.retries).waiting()
    }

    /// Starts so far, successful or not.
    pub(crate) fn starts(&self) -> u64 {
        self.generations.load(Ordering::Relaxed)
    }

    /// Ends the calls that wait for a generation that will not come.
    pub(crate) fn fail_waiting(&self) {
        let error = CallError::NotReady { state: self.state() };
        lock(&self.retries).fail_all(&error);
    }

    /// Makes `generation` the one that new calls go to; returns the one before.
    ///
    /// # Errors
    /// Its child has ended meanwhile, and nothing was changed.
    pub(crate) fn install(
        &self,
        generation: &Arc<Generation>,
    ) -> Result<Option<Arc<Generation>>, Gone> {
        self.unwatch(generation);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock of `note_end`: its supervisor knows by now whether it is installed.
        if generation.gone.load(Ordering::Relaxed) {
            return Err(Gone);
        }
        let old = current.replace(Arc::clone(generation));
        drop(current);
        if let Source::Folder(plugin) = &generation.terms.source {
            self.remember(plugin);
        }
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&generation.terms);
        self.set_state(ModelState::Ready);
        self.retry(Instant::now());
        Ok(old)
    }

    /// Takes the current generation away, for `drain_first` upgrades and shutdown.
    pub(crate) fn uninstall(&self) -> Option<Arc<Generation>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Every generation that a watchdog should look at.
    pub(crate) fn watched(&self) -> Vec<Arc<Generation>> {
        let mut all: Vec<_> = self.current().into_iter().collect();
        all.extend(lock(&self.starting).iter().cloned());
        all
    }

    /// Keeps an eye on a generation that is not the current one.
    pub(crate) fn watch(&self, generation: &Arc<Generation>) {
        lock(&self.starting).push(Arc::clone(generation));
    }

    pub(crate) fn unwatch(&self, generation: &Arc<Generation>) {
        lock(&self.starting).retain(|watched| !Arc::ptr_eq(watched, generation));
    }

    /// Looks after the calls that a crash took away.
    pub(crate) fn retry(&self, now: Instant) {
        lock(&self.retries).tend(self.current().as_ref(), now);
    }

    /// The best artifact that loads and starts.
    fn start(&self, terms: &Arc<Terms>) -> Result<Started, String> {
        let number = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let plugin = match &terms.source {
            Source::Static(api) => return self.start_local(**api, terms, number, "static"),
            Source::Absent => return Err("there is no code to start".to_owned()),
            Source::Folder(plugin) => plugin,
        };
        config::check(plugin, &self.settings.config).map_err(|error| error.to_string())?;
        let mut refusals = Vec::new();
        for artifact in plugin.manifest.candidates(TARGET) {
            let sealed = terms.seal(plugin, artifact).map_err(|error| error.to_string());
            let started = sealed.and_then(|sealed| {
                let started = self.start_artifact(plugin, &sealed, terms, number)?;
                terms.prove(artifact, sealed);
                Ok(started)
            });
            match started {
                Ok(started) => {
                    self.note_refusals(&refusals, &artifact.variant);
                    return Ok(started);
                }
                Err(reason) => refusals.push(format!("{}: {reason}", artifact.variant)),
            }
        }
        if refusals.is_empty() {
            refusals.push(format!("none is for {TARGET}"));
        }
        Err(RefusalError::NoArtifact(refusals.join("; ")).to_string())
    }

    /// Tells in one line why an artifact runs although a better one is there.
    fn note_refusals(&self, refusals: &[String], variant: &str) {
        if refusals.is_empty() {
            return;
        }
        let (instance, refused) = (&self.settings.name, refusals.join("; "));
        tracing::warn!(
            instance,
            variant,
            refused = %Redacted(&refused),
            "a better artifact cannot be used here, and this one takes its place"
        );
    }

    /// That this version has served here.
    fn remember(&self, plugin: &VerifiedPlugin) {
        let Ground { state_dir, allow_downgrade, .. } = &*self.ground;
        let lower = allow_downgrade.contains(&plugin.manifest.plugin.id);
        if let Err(error) = versions::record(state_dir, plugin, lower) {
            let plugin = &plugin.manifest.plugin.id;
            tracing::error!(plugin, %error, "the version could not be recorded");
        }
    }

    fn start_artifact(
        &self,
        plugin: &VerifiedPlugin,
        sealed: &SealedArtifact,
        terms: &Arc<Terms>,
        number: u64,
    ) -> Result<Started, String> {
        match self.settings.placement {
            Placement::Process => self.start_child(plugin, sealed, terms, number),
            Placement::Inproc if self.ground.sandbox == Sandbox::Required => {
                Err("plugins.sandbox is `required`, and `inproc` is not confined".to_owned())
            }
            Placement::Inproc if sealed.gpu => Err(
                "it computes on a GPU, whose failures only the end of its process mends: its placement has to be `process`".to_owned(),
            ),
            Placement::Inproc => {
                use std::os::fd::AsFd as _;
                let api = load(sealed.memfd.as_fd()).map_err(|error| error.to_string())?;
                self.start_local(api, terms, number, &sealed.variant)
            }
        }
    }

    fn generation(
        &self,
        terms: &Arc<Terms>,
        number: u64,
        variant: &str,
        sandbox: Vec<String>,
    ) -> Arc<Generation> {
        let violations = Arc::clone(&self.violations);
        let terms = Arc::clone(terms);
        let name = &self.settings.name;
        Arc::new(Generation::new(name, number, variant, sandbox, terms, violations))
    }

    fn start_local(
        &self,
        api: QdPluginApi,
        terms: &Arc<Terms>,
        number: u64,
        variant: &str,
    ) -> Result<Started, String> {
        crate::load::check_table(&api).map_err(|error| error.to_string())?;
        let generation = self.generation(terms, number, variant, Vec::new());
        let config = self.settings.config.to_string();
        let threads = usize::try_from(terms.max_concurrency).unwrap_or(1);
        let outlet: Weak<dyn Outlet> = Arc::<Generation>::downgrade(&generation);
        let clients = Arc::clone(&self.ground.clients);
        let engine = Engine::create(api, config.as_bytes(), outlet, threads, clients)?;
        generation.connect(Link::Local(Arc::new(engine)));
        Ok(Started { generation, child: None })
    }

    fn start_child(
        &self,
        plugin: &VerifiedPlugin,
        sealed: &SealedArtifact,
        terms: &Arc<Terms>,
        number: u64,
    ) -> Result<Started, String> {
        let Manifest { limits, permissions, .. } = &plugin.manifest;
        let (sandbox, config) = (self.ground.sandbox, &self.settings.config);
        let create = Create {
            config: Some(self.settings.config.clone()),
            window: terms.window,
            max_concurrency: terms.max_concurrency,
            confinement: Confinement::new(sandbox, permissions, config, sealed.gpu),
        };
        let (name, env) = (&self.settings.name, &self.settings.env);
        let Opened { link, frames, sandbox } =
            open_child(&self.ground, sealed, name, env, limits, &create, terms.limits.load)?;
        tracing::info!(instance = name, sandbox = sandbox.join(" "), "the plugin is confined");
        let generation = self.generation(terms, number, &sealed.variant, sandbox);
        generation.connect(Link::Child(link.clone()));
        Ok(Started { generation, child: Some((link, frames)) })
    }
}

fn lose(flights: &[Arc<Flight>], signal: Option<i32>) {
    for flight in flights {
        let delivered = flight.progress().delivered;
        flight.fail(CallError::Crashed { signal, delivered });
    }
}
