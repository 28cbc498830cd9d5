//! A node for checks under faults: the server, the worker, the core and the storage that are
//! shipped, with models from the testkit and a channel that delivers to the fake remote.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use qudao_channels::{
    Host,
    partner::{Courier, PartnerChannel, Postman},
};
use qudao_chaos::plan::{Announcement, Delivery, NodePlan, OPERATOR};
use qudao_core::{Channel, Core, CoreParts, CoreSettings, DeliverError};
use qudao_domain::{NodeId, SystemClock, key::SecretHash, state::ChannelKind};
use qudao_egress::{Egress, Limits, Rules};
use qudao_plugin_host::{HostSettings, InstanceSettings, PluginHost, Timeouts};
use qudao_server::{Doors, ServerSettings};
use qudao_storage::{Bus, OutboxClaim, Store, StoreSettings};
use qudao_testkit::FakeModel;
use qudao_worker::{Worker, WorkerSettings};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};
use tokio_util::task::TaskTracker;

#[tokio::main(worker_threads = 3)]
async fn main() -> anyhow::Result<()> {
    let plan = std::env::args().nth(1).context("a plan")?;
    let plan: NodePlan = serde_json::from_str(&plan).context("reading the plan")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    end_with_the_parent();
    arm(&plan)?;
    serve(&plan).await
}

/// The check holds the other end of the standard input for as long as it lives.
fn end_with_the_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        // Not by abort, which means that a point was reached.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    });
}

/// Sets what happens at the named points.
fn arm(plan: &NodePlan) -> anyhow::Result<()> {
    let failed = |error: String| anyhow!(error);
    if let Some(point) = &plan.abort_at {
        let end = || std::process::abort();
        fail::cfg_callback(format!("failpoint:{point}"), end).map_err(failed)?;
    }
    if let Some((point, gate)) = plan.wait_at.clone() {
        let reached = AtomicBool::new(false);
        let wait = move || {
            let first = !reached.swap(true, Ordering::SeqCst);
            while first && !gate.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        fail::cfg_callback(format!("failpoint:{point}"), wait).map_err(failed)?;
    }
    for bug in &plan.bugs {
        fail::cfg(format!("bug:{bug}"), "return").map_err(failed)?;
    }
    Ok(())
}

async fn serve(plan: &NodePlan) -> anyhow::Result<()> {
    let store = StoreSettings { max_connections: 8, ..StoreSettings::new(&*plan.database_url) };
    let store = Store::connect(store).await.context("connecting to the database")?;
    let plugins = PluginHost::start(host_settings(plan)).await;
    for (name, script) in &plan.models {
        let config = serde_json::to_value(script)?;
        let settings = InstanceSettings::new(name, "fake", name);
        plugins.register_static::<FakeModel>(InstanceSettings {
            config,
            max_concurrency: 64,
            ..settings
        });
        while !plugins.model(name).is_some_and(|report| report.state.serves()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let parts = CoreParts {
        vault: qudao_core::Vault::unlock(store.clone(), qudao_testkit::master_keys())
            .await
            .context("unlocking the vault")?,
        store,
        bus: Bus::connect(&plan.redis_url)?,
        plugins,
        clock: Arc::new(SystemClock),
        tasks: TaskTracker::new(),
        node: NodeId::new(),
    };
    let lease = Duration::from_millis(plan.lease_ms);
    let core = Core::new(parts, core_settings(lease));
    let egress = plan.wires.map(egress).transpose()?;
    let host = Host::new(Arc::clone(&core), egress.clone(), qudao_channels::adapters());
    core.watch_turns(Arc::clone(&host) as _);
    let courier = Courier { public: egress.clone(), sandbox: None };
    let door = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = ServerSettings::new(door, SecretHash::of(OPERATOR));
    settings.workers = 1;
    settings.doors = if plan.role.serves() { Doors::All } else { Doors::Operations };
    settings.channels = Some(Arc::clone(&host));
    settings.egress = egress;
    settings.partner.courier = courier.clone();
    let server = qudao_server::run(settings, Arc::clone(&core), Arc::new(String::new)).await?;
    let remote: Arc<dyn Channel> = Arc::new(Remote { socket: plan.remote.clone() });
    let partners: Arc<dyn Channel> = Arc::new(PartnerChannel::new(Arc::clone(&core)));
    let channels = [vec![remote, partners], host.channels()].concat();
    let postman = Postman { lease, poll: lease / 20 };
    let works = plan.role.works();
    let posting =
        (works && plan.wires.is_some()).then(|| postman.start(Arc::clone(&core), courier));
    let worker = works.then(|| Worker::start(core, channels, worker_settings(lease)));
    let addr = *server.addrs().first().context("an address")?;
    let mut line = serde_json::to_string(&Announcement { addr })?;
    line.push('\n');
    let mut stdout = std::io::stdout();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())?;
    std::future::pending::<()>().await;
    drop((server, worker, posting));
    Ok(())
}

/// Reaches the other ends, which are on this machine, and nothing else there.
fn egress(wires: SocketAddr) -> anyhow::Result<Egress> {
    let rules = Rules::new(vec![wires.ip().into()], true, vec![wires.port()])?;
    Ok(Egress::new(rules, Limits::default())?)
}

fn core_settings(lease: Duration) -> CoreSettings {
    // Telegram is told an address; the check finds the way from it to whichever node lives.
    let public_url = Some("http://chaos.example".to_owned());
    let mut core = CoreSettings { public_url, ..CoreSettings::default() };
    core.turns.lease = lease;
    core.turns.heartbeat = lease / 4;
    core.turns.hard_cap = lease * 4;
    core.turns.ready_wait = lease * 2;
    core.turns.patience = lease * 10;
    core.turns.backoff = [200, 500, 1000].map(Duration::from_millis).to_vec();
    core.turns.max_reply_tokens = 64;
    core.api.timeout = lease * 4;
    core.api.blocks.lease = lease;
    core.api.blocks.renew = lease / 4;
    core.api.blocks.idle = lease / 3;
    core
}

fn worker_settings(lease: Duration) -> WorkerSettings {
    WorkerSettings {
        turns_in_flight: 8,
        tenant_turns_in_flight: 7,
        deliveries_in_flight: 4,
        claim_batch: 4,
        poll_min: Duration::from_millis(10),
        poll_max: Duration::from_millis(40),
        delivery_lease: lease,
        delivery_backoff: vec![Duration::from_millis(400); 60],
        sweep_every: lease / 4,
    }
}

fn host_settings(plan: &NodePlan) -> HostSettings {
    let Some(rogue) = &plan.rogue else { return HostSettings::default() };
    HostSettings {
        plugin_dirs: vec![rogue.plugins.clone()],
        state_dir: rogue.state.clone(),
        host_binary: rogue.host_binary.clone(),
        allow_unsigned: true,
        instances: vec![InstanceSettings {
            timeouts: Timeouts {
                first_token: Some(Duration::from_secs(2)),
                inter_token: Some(Duration::from_secs(2)),
                total: Some(Duration::from_secs(4)),
                cancel_grace: Some(Duration::from_millis(500)),
                ..Timeouts::default()
            },
            max_concurrency: 4,
            ..InstanceSettings::new("rogue", "rogue", "rogue")
        }],
        ..HostSettings::default()
    }
}

/// The channel whose other side is the fake remote.
struct Remote {
    socket: std::path::PathBuf,
}

#[async_trait]
impl Channel for Remote {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Web
    }

    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError> {
        self.send(message).await.map_err(|error| DeliverError::retry(format!("{error:#}")))
    }
}

impl Remote {
    async fn send(&self, message: &OutboxClaim) -> anyhow::Result<()> {
        let delivery = Delivery {
            outbox_id: message.outbox_id.as_uuid().to_string(),
            conversation_id: message.conversation_id.as_uuid().to_string(),
            turn_id: message.turn_id.map(|id| id.as_uuid().to_string()),
            kind: message.kind.as_str().to_owned(),
            out_seq: message.out_seq,
            to_seq: message.to_seq,
        };
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_string(&delivery)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        if answer.trim() == "ok" { Ok(()) } else { Err(anyhow!("the remote said {answer:?}")) }
    }
}
