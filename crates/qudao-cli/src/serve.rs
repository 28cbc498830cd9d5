//! `qudao serve`: everything is put together here, in the order in which it starts, and taken
//! apart in the reverse order.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use qudao_core::{Core, CoreParts};
use qudao_domain::{NodeId, SystemClock, key::SecretHash};
use qudao_plugin_host::PluginHost;
use qudao_server::ServerHandle;
use qudao_services::{Environment, HomeLock, Instance, Services};
use qudao_storage::{Bus, Store};
use qudao_worker::{Worker, WorkerHandle};
use tokio_util::task::TaskTracker;

use crate::{
    args::ServeOptions,
    context::Context,
    instances, log, operator_key,
    terminal::{self, Steps},
};

mod demo;
mod first_answer;
pub(crate) mod settings;
mod shutdown;

pub(crate) async fn serve(options: ServeOptions, mut context: Context) -> anyhow::Result<ExitCode> {
    context.settings.server.bind = options.bind.unwrap_or(context.settings.server.bind);
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
    let base_url = running.base_url(&context);
    lock.publish(&Instance {
        pid: std::process::id(),
        base_url: base_url.clone(),
        database_url: services.database_url.clone(),
        redis_url: services.redis_url.clone(),
    })?;
    let door = if base_url.is_empty() { "works" } else { &format!("runs at {base_url}") };
    terminal::say(&format!("Qudao {door} ({})", steps.line()));
    if options.demo {
        let wanted = demo::Wanted::new(&context, &base_url, &operator_key, &services, &instances);
        running.show_demo(&context, wanted).await?;
    }
    signals.next().await;
    tracing::info!("draining: a second signal does not wait");
    let deadline = Duration::from_secs(context.settings.server.drain_timeout_s);
    tokio::select! {
        () = running.drain(deadline) => {}
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
    worker: Option<WorkerHandle>,
    server: Option<ServerHandle>,
}

impl Running {
    async fn start(
        options: &ServeOptions,
        context: &Context,
        services: &Services,
        operator_key: &str,
        instances: &[qudao_config::Instance],
        metrics: qudao_server::MetricsRender,
        steps: &mut Steps,
    ) -> anyhow::Result<Self> {
        Store::migrate(&services.database_url).await.context("bringing the schema up to date")?;
        let store = Store::connect(settings::store(context, &services.database_url)).await?;
        let bus = Bus::connect(&services.redis_url)?;
        store.sync_prices(&instances::prices(instances)).await.context("writing the price book")?;
        steps.done("schema");

        let plugins = PluginHost::start(settings::plugin_host(context, instances)?).await;
        let parts = CoreParts {
            store: store.clone(),
            bus,
            plugins: plugins.clone(),
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            node: NodeId::new(),
        };
        let core = Core::new(parts, settings::core(&context.settings));
        steps.done("plugins");

        let server = if options.role.serves() {
            let settings = settings::server(&context.settings, SecretHash::of(operator_key));
            Some(qudao_server::run(settings, Arc::clone(&core), metrics).await?)
        } else {
            None
        };
        let worker = options.role.works().then(|| {
            let channels = qudao_channels::all(&core);
            Worker::start(Arc::clone(&core), channels, settings::worker(&context.settings))
        });
        steps.done("server");
        Ok(Self { store, core, plugins, worker, server })
    }

    /// What clients call this node; empty for a worker, which has no door.
    fn base_url(&self, context: &Context) -> String {
        let addr = self.server.as_ref().and_then(|server| server.addrs().first().copied());
        match (&context.settings.server.public_url, addr) {
            (_, None) => String::new(),
            (Some(url), Some(_)) => url.trim_end_matches('/').to_owned(),
            // Nobody can call the address that means all addresses.
            (None, Some(addr)) if addr.ip().is_unspecified() => {
                format!("http://127.0.0.1:{}", addr.port())
            }
            (None, Some(addr)) => format!("http://{addr}"),
        }
    }

    async fn show_demo(&self, context: &Context, wanted: demo::Wanted<'_>) -> anyhow::Result<()> {
        let model = wanted.models.first().cloned();
        let demo =
            demo::prepare(&self.store, &context.home, &wanted).await.context("making the demo")?;
        first_answer::show(Arc::clone(&self.core), &demo, model);
        Ok(())
    }

    /// Nothing new is taken; what is under way is finished, up to the deadline.
    async fn drain(self, deadline: Duration) {
        let (server, worker) = (self.server, self.worker);
        let server = async {
            if let Some(server) = server {
                server.drain(deadline).await;
            }
        };
        let worker = async {
            if let Some(worker) = worker {
                worker.drain(deadline).await;
            }
        };
        tokio::join!(server, worker);
        if !self.core.drain(deadline).await {
            tracing::warn!(tasks = self.core.tasks.len(), "left behind at the deadline");
        }
        self.plugins.shutdown(Duration::from_secs(5)).await;
        self.store.close().await;
    }
}
