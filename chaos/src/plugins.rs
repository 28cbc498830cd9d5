//! A plugin that breaks every rule, in a child of the node, among tenants whose models are sound.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::time;

use crate::{
    node::{Node, beside, children},
    plan::RoguePlan,
    platform::{Sent, Visitor},
    stage::Stage,
    verdict::{self, Bounds, Line, Verdict},
};

/// What the plugin is told to do, by the text of a message.
const RULES: &[&str] = &[
    "segfault",
    "abort",
    "abort midway",
    "hang",
    "hang midway",
    "balloon",
    "flood",
    "bad kind",
    "bad utf8",
    "bad size",
    "huge event",
    "after end",
    "two ends",
    "no end",
    "error code",
    "panic",
];
/// How long a neighbour may wait for an answer that takes its model half a second.
const NEIGHBOURLY: Duration = Duration::from_secs(5);
/// What the plugin's manifest allows, and its code on top.
const MEMORY_MB: usize = 256 + 64;
const DRAIN: Duration = Duration::from_secs(60);

/// Where the plugin and the program that runs it were built.
///
/// # Errors
/// If one of them is not there.
pub fn rogue_plan(state: &Path) -> anyhow::Result<RoguePlan> {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/chaos-plugins");
    ensure!(
        plugins.exists(),
        "{} is missing: run it through `cargo xtask check chaos`",
        plugins.display()
    );
    let state = PathBuf::from(state).join("plugins-state");
    Ok(RoguePlan { plugins, host_binary: beside("qudao-plugin-host")?, state })
}

/// Breaks every rule once, while neighbours ask all the time.
///
/// # Errors
/// If the run could not be made.
pub async fn run() -> anyhow::Result<Verdict> {
    let mut stage = Stage::set(false).await?;
    stage.plan.rogue = Some(rogue_plan(stage.folder())?);
    let rogue = stage.tenant(100_000_000, &["rogue"]).await;
    let good = stage.tenant(100_000_000, &["fake"]).await;
    let node = stage.node().await?;
    let over = Cell::new(false);
    let neighbour = async {
        let visitor = Visitor::of(&good);
        let (mut asked, mut accepted) = (0_usize, 0_usize);
        while !over.get() {
            let id = format!("good{asked}");
            let sent = stage.platform.deliver(&visitor, &id, "hello", NEIGHBOURLY).await?;
            asked += 1;
            accepted += usize::from(sent == Sent::Acknowledged);
            stage.platform.call(&good, 32).await?;
            time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok((asked, accepted))
    };
    let misbehaviour = async {
        for (n, rule) in RULES.iter().enumerate() {
            // A plugin that crashes five times in a minute is quarantined; every rule is to be
            // broken all the same.
            stage.platform.lift_quarantine("rogue").await;
            let visitor = Visitor::of(&rogue);
            let id = format!("rogue{n}");
            stage.platform.deliver(&visitor, &id, rule, Duration::from_secs(20)).await?;
            await_end(&stage, n + 1).await?;
        }
        over.set(true);
        anyhow::Ok(())
    };
    let (neighbour, misbehaviour, most) =
        tokio::join!(neighbour, misbehaviour, most_memory(&node, &over));
    let ((asked, accepted), ()) = (neighbour?, misbehaviour?);
    stage.drain(DRAIN).await?;
    let bounds = Bounds { answer: Duration::from_secs(60), redundant: 0 };
    let mut verdict = verdict::judge(&stage, bounds).await?;
    let slowest = verdict::slowest_answer(&stage, "good");
    verdict.lines.push(Line {
        id: "P1",
        title: format!(
            "the neighbours of a plugin that breaks are accepted, and answered within \
             {NEIGHBOURLY:?}: the slowest took {slowest:.1?}"
        ),
        examined: asked,
        violations: asked - accepted + usize::from(NEIGHBOURLY < slowest),
        sample: None,
    });
    let reached = "SELECT count(DISTINCT turn_id) FROM model_attempts WHERE model = 'rogue'";
    let reached: usize = stage.sql(reached).parse()?;
    verdict.lines.push(Line {
        id: "P5",
        title: "every rule was broken, none only refused".to_owned(),
        examined: RULES.len(),
        violations: RULES.len() - reached,
        sample: None,
    });
    verdict.lines.push(Line {
        id: "P6",
        title: format!("a plugin that wants two gigabytes gets its limit: {most} MB at most"),
        examined: 1,
        violations: usize::from(MEMORY_MB < most),
        sample: None,
    });
    drop(node);
    Ok(verdict)
}

/// Until so many conversations of the plugin's tenant had an answer or word of the failure.
async fn await_end(stage: &Stage, conversations: usize) -> anyhow::Result<()> {
    let ended = "SELECT count(DISTINCT conversation_id) FROM inbox \
                 WHERE external_id LIKE '%:rogue%' AND state <> 'accepted'";
    let begun = Instant::now();
    while stage.sql(ended).parse::<usize>()? < conversations {
        ensure!(begun.elapsed() < DRAIN, "a message of the plugin's tenant is never done");
        time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The most memory that a child of the node had at a time, in megabytes.
async fn most_memory(node: &Node, over: &Cell<bool>) -> usize {
    let mut most = 0;
    while !over.get() {
        for child in node.pid().map(children).unwrap_or_default() {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            most = most.max(kilobytes.unwrap_or(0) / 1024);
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    most
}
