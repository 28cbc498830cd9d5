//! The same storm over real adapters: people write to bots and by way of partners, whose other ends
//! fail once for every third message, while nodes are killed and frozen.

use std::time::{Duration, Instant};

use qudao_testkit::TestRedis;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time;

use crate::{
    customers::{Bot, Partner},
    node::Node,
    platform::Platform,
    stage::Stage,
    storm::{self, Damage, Senders},
    verdict::Verdict,
};

/// Nodes that share the work.
const NODES: usize = 2;
/// Messages of a hundred that meet a fault at the other end.
const FAULTS: u32 = 33;
/// A message that comes again comes so many times more, at most.
const TIMES_MORE: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs for so many seconds and judges what is left.
///
/// # Errors
/// If the run could not be made.
pub async fn run(seed: u64, seconds: u64) -> anyhow::Result<(Verdict, Damage)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set(false).await?;
    let redis = TestRedis::new().await;
    redis.url().clone_into(&mut stage.plan.redis_url);
    stage.add_wires(seed, FAULTS).await?;
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..NODES {
        nodes.push(stage.node().await?);
    }
    let mut senders = Senders::new();
    let mut people = Vec::new();
    for _ in 0..2 {
        let tenant = stage.tenant(100_000_000, &["fake"]).await;
        people.push((Bot::make(&stage, &tenant).await?, Partner::make(&stage, &tenant).await?));
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    for (bot, partner) in people {
        let mut own = || (stage.platform.clone(), StdRng::seed_from_u64(random.random()));
        senders.spawn(ask_bot(own(), bot, until));
        senders.spawn(ask_partner(own(), partner, until));
    }
    let mut damage = Damage::default();
    let striking = async {
        while Instant::now() < until {
            time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
            storm::disturb(&stage, &mut nodes, &mut random, &mut damage, 0).await?;
        }
        anyhow::Ok(())
    };
    let (struck, always) = tokio::join!(striking, storm::watch(&stage, until));
    struck?;
    let verdict = storm::settle_down(&stage, senders, damage, always).await?;
    drop(nodes);
    Ok((verdict, damage))
}

/// How often more a message is sent that was acknowledged: mostly never.
fn times_more(random: &mut StdRng) -> u32 {
    if random.random_ratio(1, 4) { random.random_range(1..=TIMES_MORE) } else { 0 }
}

async fn pause(random: &mut StdRng) {
    time::sleep(Duration::from_millis(random.random_range(50..400))).await;
}

/// Everybody writes once. What is repeated comes among what others write, in another order.
async fn ask_bot(
    (platform, mut random): (Platform, StdRng),
    bot: Bot,
    until: Instant,
) -> anyhow::Result<()> {
    let mut again: Vec<u32> = Vec::new();
    while Instant::now() < until {
        let number = random.random_range(10_000..u32::MAX);
        bot.send(&platform, number, PATIENCE).await?;
        again.extend((0..times_more(&mut random)).map(|_| number));
        if !again.is_empty() && random.random() {
            let number = again.swap_remove(random.random_range(0..again.len()));
            bot.send(&platform, number, PATIENCE).await?;
        }
        pause(&mut random).await;
    }
    for number in again {
        bot.send(&platform, number, PATIENCE).await?;
    }
    Ok(())
}

/// Some rooms, each with its order.
async fn ask_partner(
    (platform, mut random): (Platform, StdRng),
    partner: Partner,
    until: Instant,
) -> anyhow::Result<()> {
    let own: u32 = random.random();
    let mut again: Vec<(String, String)> = Vec::new();
    while Instant::now() < until {
        let room = format!("room-{own:08x}-{}", random.random_range(0..6));
        let message = format!("p{:015x}", random.random::<u64>() >> 4);
        partner.send(&platform, (&room, &message), PATIENCE).await?;
        again.extend((0..times_more(&mut random)).map(|_| (room.clone(), message.clone())));
        if !again.is_empty() && random.random() {
            let (room, message) = again.swap_remove(random.random_range(0..again.len()));
            partner.send(&platform, (&room, &message), PATIENCE).await?;
        }
        pause(&mut random).await;
    }
    for (room, message) in again {
        partner.send(&platform, (&room, &message), PATIENCE).await?;
    }
    Ok(())
}
