//! A platform on several machines' worth of engines: nodes for clients and nodes for work, a
//! primary with a synchronous standby, a Redis Cluster of three masters. While nodes are killed
//! and frozen at random, the primary dies and its standby is promoted, and later one master of the
//! cluster dies. What was acknowledged before, meanwhile and afterwards must be there.

use std::{
    collections::HashSet,
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use qudao_testkit::TestRedisCluster;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time;

use crate::{
    node::Node,
    plan::Role,
    plugins,
    record::Seen,
    stage::Stage,
    storm::{self, Damage, await_postgres},
    verdict::Verdict,
};

const ROLES: [Role; 4] = [Role::Api, Role::Api, Role::Worker, Role::Worker];

/// What was acknowledged around the failover, and what is left of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Since the record began: when the primary was killed, or frozen.
    pub killed: Duration,
    /// It was frozen: its connections stayed open and said nothing.
    pub frozen: bool,
    /// Until the promoted standby accepted the first write of a node that was not restarted.
    pub down: Duration,
    /// Messages acknowledged before the kill, while nobody accepted writes, and later.
    pub acknowledged: [usize; 3],
    /// How many of each are in the inbox.
    pub kept: [usize; 3],
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([a, b, c], [x, y, z]) = (self.acknowledged, self.kept);
        write!(
            f,
            "primary {} after {:.1?}, writes again after {:.1?}; \
             kept of acknowledged: {x} of {a} before, {y} of {b} meanwhile, {z} of {c} afterwards",
            if self.frozen { "frozen" } else { "killed" },
            self.killed,
            self.down
        )
    }
}

/// Runs for so many seconds and judges what is left. An even seed freezes the primary in place of
/// killing it, as a cut cable would. With `asynchronous` the primary does not wait
/// for its standby, which shows that the check can fail.
///
/// # Errors
/// If the run could not be made, or the platform did not get over the failover.
pub async fn run(
    seed: u64,
    seconds: u64,
    asynchronous: bool,
) -> anyhow::Result<(Verdict, Damage, Account)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set_on_replicas().await?;
    if asynchronous {
        stage.replicas().context("servers to fail over")?.make_asynchronous();
    }
    let mut redis = TestRedisCluster::start().await;
    stage.plan.redis_url = redis.url();
    stage.plan.rogue = Some(plugins::rogue_plan(stage.folder())?);
    let tenants = storm::tenants(&stage).await;
    let mut nodes = Vec::new();
    for role in ROLES {
        nodes.push(stage.node_for(role).await?);
    }
    let began = Instant::now();
    let length = Duration::from_secs(seconds);
    let until = began + length;
    let senders = storm::send(&stage, &tenants, &mut random, until);
    let mut account = Account::default();
    let damage = async {
        let mut damage = Damage::default();
        disturb_until(began + length.mul_f64(0.4), &stage, &mut nodes, &mut random, &mut damage)
            .await?;
        account.frozen = seed.is_multiple_of(2);
        let failed_over = fail_over(&stage, &mut random, account.frozen).await?;
        (account.killed, account.down) = failed_over;
        damage.outages += 1;
        disturb_until(began + length.mul_f64(0.7), &stage, &mut nodes, &mut random, &mut damage)
            .await?;
        redis.kill(0);
        disturb_until(until, &stage, &mut nodes, &mut random, &mut damage).await?;
        anyhow::Ok(damage)
    };
    let (damage, always) = tokio::join!(damage, storm::watch(&stage, until));
    let damage = damage?;
    let verdict = storm::settle_down(&stage, senders, damage, always).await?;
    count(&stage, &mut account);
    drop(nodes);
    Ok((verdict, damage, account))
}

async fn disturb_until(
    until: Instant,
    stage: &Stage,
    nodes: &mut Vec<Node>,
    random: &mut StdRng,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    while Instant::now() < until {
        time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
        storm::disturb(stage, nodes, random, damage, 0).await?;
    }
    Ok(())
}

/// Cuts the standby off, kills or freezes the primary a moment later, promotes the standby as an
/// operator would, and waits until writes are accepted. When it was killed, and how long that took.
async fn fail_over(
    stage: &Stage,
    random: &mut StdRng,
    freeze: bool,
) -> anyhow::Result<(Duration, Duration)> {
    let replicas = stage.replicas().context("servers to fail over")?;
    let since = Instant::now();
    replicas.part();
    time::sleep(Duration::from_millis(random.random_range(500..2500))).await;
    let killed = stage.record.elapsed();
    if freeze {
        replicas.freeze_primary();
    } else {
        replicas.kill_primary();
    }
    time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
    replicas.promote();
    await_postgres(stage).await?;
    stage.record.outage_since(since);
    Ok((killed, stage.record.elapsed().saturating_sub(killed)))
}

/// Holds the record against the inbox.
fn count(stage: &Stage, account: &mut Account) {
    let inbox = stage.sql("SELECT split_part(external_id, ':', 2) FROM inbox");
    let inbox: HashSet<&str> = inbox.lines().collect();
    for entry in stage.record.entries() {
        let Seen::Acknowledged { id } = entry.seen else { continue };
        let part = match entry.at {
            at if at < account.killed => 0,
            at if at < account.killed + account.down => 1,
            _ => 2,
        };
        account.acknowledged[part] += 1;
        account.kept[part] += usize::from(inbox.contains(id.as_str()));
    }
}
