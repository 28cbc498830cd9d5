//! Random kills, freezes, and crashes of Postgres, under traffic with repeated deliveries.
//!
//! The seed decides what comes in and what goes wrong and when; in which order the processes run
//! is up to the kernel, so a seed repeats a schedule and not every interleaving.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qudao_storage::Scope;
use qudao_testkit::{DATABASE_VARIABLE, TestRedis, TestTenant};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time};

use crate::{
    node::{Node, children},
    platform::{Platform, Visitor},
    plugins,
    stage::{LEASE, REPLY_COST, Stage},
    verdict::{self, Bounds, Line, Verdict},
    wires::Wires,
};

/// Nodes that share the work.
const NODES: usize = 3;
/// Deliveries that a node makes at a time, as the node sets it.
const IN_FLIGHT: usize = 4;
/// How many of a hundred messages are delivered twice.
const TWICE: u32 = 15;
/// Crashes of Postgres in a run, at most: each takes seconds in which nothing else is proven.
const MAX_OUTAGES: usize = 2;
const DRAIN: Duration = Duration::from_secs(90);
/// How long a sign of life may take: a frozen server gives none.
const PING: Duration = Duration::from_secs(3);

/// What was done to the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Damage {
    /// Nodes killed.
    pub kills: usize,
    /// Nodes frozen for longer than a lease.
    pub freezes: usize,
    /// Crashes of Postgres.
    pub outages: usize,
    /// Plugin processes killed.
    pub plugins: usize,
}

impl Damage {
    /// Sends that may have been repeated because of it.
    fn redundant(self) -> usize {
        (self.kills + self.freezes + self.outages * NODES) * IN_FLIGHT
    }
}

/// The senders of a run.
pub(crate) type Senders = JoinSet<anyhow::Result<()>>;

/// Runs for so many seconds and judges what is left.
///
/// # Errors
/// If the run could not be made.
pub async fn run(seed: u64, seconds: u64) -> anyhow::Result<(Verdict, Damage)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set(false).await?;
    let redis = TestRedis::new().await;
    redis.url().clone_into(&mut stage.plan.redis_url);
    stage.plan.rogue = Some(plugins::rogue_plan(stage.folder())?);
    let tenants = tenants(&stage).await;
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(stage.node().await?);
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let senders = send(&stage, &tenants, &mut random, until);
    let damage = async {
        let mut damage = Damage::default();
        while Instant::now() < until {
            time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
            disturb(&stage, &mut nodes, &mut random, &mut damage, MAX_OUTAGES).await?;
        }
        anyhow::Ok(damage)
    };
    let (damage, always) = tokio::join!(damage, watch(&stage, until));
    let damage = damage?;
    let verdict = settle_down(&stage, senders, damage, always).await?;
    drop(nodes);
    Ok((verdict, damage))
}

/// Waits until the senders are through and nothing is left to do, and judges what is there. `always`
/// is what was seen during the run.
pub(crate) async fn settle_down(
    stage: &Stage,
    mut senders: Senders,
    damage: Damage,
    always: Vec<Line>,
) -> anyhow::Result<Verdict> {
    while let Some(sent) = senders.join_next().await {
        sent.context("a sender broke off")??;
    }
    stage.drain(DRAIN).await?;
    // A node that was frozen last has had its time to do harm.
    time::sleep(LEASE * 2).await;
    let unheard = stage.wires.as_ref().map_or(0, Wires::unheard);
    let redundant = damage.redundant() + unheard;
    let bounds = Bounds { answer: Duration::from_secs(30), redundant };
    let mut verdict = verdict::judge(stage, bounds).await?;
    verdict.merge(Verdict { lines: always, ..Verdict::default() });
    Ok(verdict)
}

/// Two with enough to spend, one of them with a model that misbehaves, and a poor one.
pub(crate) async fn tenants(stage: &Stage) -> Vec<TestTenant> {
    vec![
        stage.tenant(100_000_000, &["fake"]).await,
        stage.tenant(100_000_000, &["rogue", "fake"]).await,
        // An answer or eleven, and then no more.
        stage.tenant(12 * REPLY_COST, &["fake"]).await,
    ]
}

/// Lets people write to these tenants, and programs call, until then.
pub(crate) fn send(
    stage: &Stage,
    tenants: &[TestTenant],
    random: &mut StdRng,
    until: Instant,
) -> Senders {
    let mut senders = JoinSet::new();
    for tenant in tenants {
        for _ in 0..3 {
            let own = StdRng::seed_from_u64(random.random());
            senders.spawn(write(stage.platform.clone(), tenant.clone(), own, until));
        }
        let own = StdRng::seed_from_u64(random.random());
        senders.spawn(call(stage.platform.clone(), tenant.clone(), own, until));
    }
    senders
}

/// Writes messages of some people, one after the other each.
pub(crate) async fn write(
    platform: Platform,
    tenant: TestTenant,
    mut random: StdRng,
    until: Instant,
) -> anyhow::Result<()> {
    let people: Vec<Visitor> = (0..4).map(|_| Visitor::of(&tenant)).collect();
    let patience = Duration::from_secs(60);
    while Instant::now() < until {
        let person = &people[random.random_range(0..people.len())];
        let id = format!("m{:016x}", random.random::<u64>());
        platform.deliver(person, &id, "what now", patience).await?;
        if random.random_range(0..100) < TWICE {
            platform.deliver(person, &id, "what now", patience).await?;
        }
        time::sleep(Duration::from_millis(random.random_range(20..300))).await;
    }
    Ok(())
}

/// Calls the API again and again; a call that breaks off is not repeated.
async fn call(
    platform: Platform,
    tenant: TestTenant,
    mut random: StdRng,
    until: Instant,
) -> anyhow::Result<()> {
    while Instant::now() < until {
        platform.call(&tenant, random.random_range(8..64)).await?;
        time::sleep(Duration::from_millis(random.random_range(20..400))).await;
    }
    Ok(())
}

/// Does one bad thing.
pub(crate) async fn disturb(
    stage: &Stage,
    nodes: &mut Vec<Node>,
    random: &mut StdRng,
    damage: &mut Damage,
    max_outages: usize,
) -> anyhow::Result<()> {
    let victim = random.random_range(0..nodes.len());
    // Each run of some length has a crash of Postgres: after three kills it is due.
    let due = damage.outages == 0 && 0 < max_outages && 2 < damage.kills;
    let kind = random.random_range(if due { 90 } else { 0 }..100);
    match kind {
        0..45 => {
            let killed = nodes.swap_remove(victim);
            let role = killed.role();
            killed.kill().await?;
            damage.kills += 1;
            nodes.push(stage.node_for(role).await?);
        }
        45..75 => {
            nodes[victim].freeze()?;
            time::sleep(LEASE.mul_f64(1.6)).await;
            nodes[victim].thaw()?;
            damage.freezes += 1;
        }
        75..90 => {
            for pid in nodes[victim].pid().map(children).unwrap_or_default() {
                damage.plugins += usize::from(kill(pid, Signal::SIGKILL).is_ok());
            }
        }
        _ if damage.outages < max_outages && stop_postgres(stage)? => {
            damage.outages += 1;
            let since = Instant::now();
            await_postgres(stage).await?;
            stage.record.outage_since(since);
        }
        _ => {}
    }
    Ok(())
}

/// `pg_ctl stop -m immediate`, unless the server is somebody else's.
pub(crate) fn stop_postgres(stage: &Stage) -> anyhow::Result<bool> {
    if std::env::var_os(DATABASE_VARIABLE).is_some() {
        return Ok(false);
    }
    let data = stage.sql("SHOW data_directory");
    let pid = fs::read_to_string(Path::new(&data).join("postmaster.pid"))?;
    let pid = pid.lines().next().context("the postmaster's id")?.trim().parse()?;
    kill(Pid::from_raw(pid), Signal::SIGQUIT).context("stopping Postgres")?;
    Ok(true)
}

/// Until it serves again: its keeper restarts it.
pub(crate) async fn await_postgres(stage: &Stage) -> anyhow::Result<()> {
    let begun = Instant::now();
    time::sleep(Duration::from_millis(200)).await;
    while !matches!(time::timeout(PING, stage.store.ping()).await, Ok(Ok(()))) {
        if Duration::from_secs(60) < begun.elapsed() {
            bail!("Postgres did not come back");
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Looks again and again for violations of what must hold at every moment.
pub(crate) async fn watch(stage: &Stage, until: Instant) -> Vec<Line> {
    let mut seen = Verdict::default();
    while Instant::now() < until {
        time::sleep(Duration::from_millis(500)).await;
        // The database may be down.
        let Ok(findings) = stage.store.check().await else { continue };
        let always = findings.into_iter().filter(|finding| finding.scope == Scope::Always);
        let lines = always.map(|finding| Line {
            id: finding.id,
            title: finding.title.to_owned(),
            examined: usize::try_from(finding.examined).unwrap_or_default(),
            violations: usize::try_from(finding.violations).unwrap_or_default(),
            sample: finding.sample,
        });
        seen.merge(Verdict { lines: lines.collect(), ..Verdict::default() });
    }
    seen.lines
}
