//! `qudao serve`: everything is put together here, in the order in which it starts, and taken
//! apart in the reverse order.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use qudao_channels::{
    Host,
    letters::{Letters, LettersHandle, MailServer},
    partner::{Postman, PostmanHandle},
};
use qudao_core::{Core, CoreParts};
use qudao_domain::{NodeId, SystemClock, key::SecretHash};
use qudao_plugin_host::PluginHost;
use qudao_server::{Doors, PartnerSettings, ServerHandle};
use qudao_services::{Environment, HomeLock, Instance, Services};
use qudao_storage::{Bus, Store};
use qudao_worker::{Worker, WorkerHandle};
use tokio_util::task::TaskTracker;

use crate::{
    args::{Role, ServeOptions},
    commands::audit,
    context::Context,
    instances, log, master_key, operator_key,
    terminal::{self, Steps},
};

mod demo;
mod exporter;
mod first_answer;
mod heads;
pub(crate) mod settings;
mod shutdown;
mod watch;

use exporter::Exporter;
use heads::Heads;
use watch::Watch;

pub(crate) async fn serve(options: ServeOptions, mut context: Context) -> anyhow::Result<ExitCode> {
    context.settings.server.bind = options.bind.unwrap_or(context.settings.server.bind);
    // Whoever tries the demo tries a partner's adapter beside it.
    let alone = context.settings.server.bind.ip().is_loopback();
    context.settings.partner.sandbox_this_machine |= options.demo && alone;
    log::start(&context.settings.log)?;
    let mut steps = Steps::begin();
    let mut signals = shutdown::Signals::listen()?;
    context.prepare_home()?;
    let mut lock = HomeLock::acquire(&context.home)?;
    let operator_key = operator_key::find_or_make(&context)?;
    let metrics = settings::metrics()?;
    let instances = instances::decide(&context)?;

    let services = Services::start(context.services_settings(), &Environment::read()).await?;
    steps.done("Postgres and Redis");
    let running = tokio::select! {
        started = Running::start(&options, &context, &services, &operator_key, &instances, metrics, &mut steps) => started,
        () = signals.next() => {
            services.stop().await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let running = match running {
        Ok(running) => running,
        Err(error) => {
            services.stop().await;
            return Err(error);
        }
    };
    let base_url = running.base_url(&context, options.role);
    lock.publish(&Instance {
        pid: std::process::id(),
        base_url: base_url.clone(),
        database_url: services.database_url.clone(),
        redis_url: services.redis_url.clone(),
    })?;
    let does = if options.role.serves() { "runs" } else { "works" };
    terminal::say(&format!("Qudao {does} at {base_url} ({})", steps.line()));
    if options.demo {
        // A worker answers no clients.
        let base_url = if options.role.serves() { base_url } else { String::new() };
        let wanted = demo::Wanted::new(&context, &base_url, &operator_key, &services, &instances);
        running.show_demo(&context, wanted).await?;
    }
    signals.next().await;
    tracing::info!("draining: a second signal does not wait");
    let deadline = Duration::from_secs(context.settings.server.drain_timeout_s);
    tokio::select! {
        () = running.drain(options.role, deadline) => {}
        () = signals.next() => tracing::warn!("what was under way is given up"),
    }
    services.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The platform without its services.
struct Running {
    store: Store,
    core: Arc<Core>,
    plugins: PluginHost,
    channels: Arc<Host>,
    worker: Option<WorkerHandle>,
    senders: (Option<PostmanHandle>, Option<LettersHandle>),
    server: ServerHandle,
    watch: Watch,
    heads: Heads,
    exporter: Option<Exporter>,
}

impl Running {
    async fn start(
        options: &ServeOptions,
        context: &Context,
        services: &Services,
        operator_key: &str,
        instances: &[qudao_config::Instance],
        metrics: PrometheusHandle,
        steps: &mut Steps,
    ) -> anyhow::Result<Self> {
        Store::migrate(&services.database_url).await.context("bringing the schema up to date")?;
        let store = Store::connect(settings::store(context, &services.database_url)).await?;
        let bus = Bus::connect(&services.redis_url)?;
        let vault = master_key::unlock(context, &store).await?;
        store.sync_prices(&instances::prices(instances)).await.context("writing the price book")?;
        steps.done("schema");

        // A machine without certificates of authorities can do everything else.
        let courier = settings::courier(&context.settings).unwrap_or_default();
        let report_keys = settings::report_keys(&context.settings)?;
        let mail_server = settings::mail_server(&context.settings)?;
        let egress = settings::egress(&context.settings).inspect_err(|error| {
            tracing::warn!("no address of a tenant can be requested: {error:#}")
        });
        let node = NodeId::new();
        let exporter = Exporter::start(&context.settings.telemetry, node, options.role)?;
        let plugins = PluginHost::start(settings::plugin_host(context, instances)?).await;
        let parts = CoreParts {
            store: store.clone(),
            bus,
            plugins: plugins.clone(),
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node,
            vault,
        };
        let core = Core::new(parts, settings::core(&context.settings));
        let egress = egress.ok();
        let channels = Host::new(Arc::clone(&core), egress.clone(), qudao_channels::adapters());
        core.watch_turns(Arc::clone(&channels) as _);
        steps.done("plugins");

        let render = settings::render(&metrics);
        let watch = Watch::start(Arc::clone(&core), metrics, &context.settings).await;
        let heads = Heads::start(Arc::clone(&core), context.home.join(audit::HEADS));
        let operator_key = SecretHash::of(operator_key);
        let mut server = settings::server(&context.settings, operator_key);
        server.egress = egress;
        server.channels = Some(Arc::clone(&channels));
        server.partner = PartnerSettings { courier: courier.clone(), report_keys };
        server.doors = if options.role.serves() { Doors::All } else { Doors::Operations };
        let server = qudao_server::run(server, Arc::clone(&core), render).await?;
        let worker = options.role.works().then(|| {
            core.tasks.spawn(Arc::clone(&channels).poll());
            let all = [qudao_channels::all(&core), channels.channels()].concat();
            Worker::start(Arc::clone(&core), all, settings::worker(&context.settings))
        });
        let postman =
            options.role.works().then(|| Postman::default().start(Arc::clone(&core), courier));
        let senders = (postman, Self::letters(options, &core, &channels, mail_server));
        steps.done("server");
        Ok(Self { store, core, plugins, channels, worker, senders, server, watch, heads, exporter })
    }

    fn letters(
        options: &ServeOptions,
        core: &Arc<Core>,
        channels: &Arc<Host>,
        server: Option<MailServer>,
    ) -> Option<LettersHandle> {
        let start = || Letters::start(Arc::clone(core), Arc::clone(channels), server);
        options.role.works().then(start)
    }

    /// What others call this node.
    fn base_url(&self, context: &Context, role: Role) -> String {
        let addr = self.server.addrs().first().copied();
        match (&context.settings.server.public_url, addr) {
            // The public address leads to the nodes that answer clients.
            (Some(url), _) if role.serves() => url.trim_end_matches('/').to_owned(),
            (_, None) => String::new(),
            // Nobody can call the address that means all addresses.
            (_, Some(addr)) if addr.ip().is_unspecified() => {
                format!("http://127.0.0.1:{}", addr.port())
            }
            (_, Some(addr)) => format!("http://{addr}"),
        }
    }

    async fn show_demo(&self, context: &Context, wanted: demo::Wanted<'_>) -> anyhow::Result<()> {
        let model = wanted.models.first().cloned();
        let demo =
            demo::prepare(&self.core, &context.home, &wanted).await.context("making the demo")?;
        first_answer::show(Arc::clone(&self.core), &demo, model);
        Ok(())
    }

    /// Nothing new is taken; what is under way is finished, up to the deadline.
    async fn drain(self, role: Role, deadline: Duration) {
        let (server, worker) = (self.server, self.worker);
        let (postman, letters) = self.senders;
        server.announce_drain();
        self.channels.close();
        let works = async {
            if let Some(worker) = worker {
                worker.drain(deadline).await;
            }
            if let Some(postman) = postman {
                postman.drain(deadline).await;
            }
            if let Some(letters) = letters {
                letters.drain(deadline).await;
            }
        };
        if role.serves() {
            tokio::join!(server.drain(deadline), works);
        } else {
            // Whoever watches this node sees it until its last turn is over.
            works.await;
            server.drain(deadline).await;
        }
        if !self.core.drain(deadline).await {
            tracing::warn!(tasks = self.core.tasks.len(), "left behind at the deadline");
        }
        self.watch.stop().await;
        self.heads.stop().await;
        self.plugins.shutdown(Duration::from_secs(5)).await;
        if let Some(exporter) = self.exporter {
            exporter.flush().await;
        }
        self.store.close().await;
    }
}
