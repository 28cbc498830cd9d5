//! A plugin that breaks every rule, in a child of the node, among tenants whose models are sound.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::time;

use crate::{
    node::beside,
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
    let until = Instant::now() + Duration::from_secs(20);
    let neighbour = async {
        let visitor = Visitor::of(&good);
        let (mut asked, mut accepted) = (0_usize, 0_usize);
        while Instant::now() < until {
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
            let visitor = Visitor::of(&rogue);
            let id = format!("rogue{n}");
            stage.platform.deliver(&visitor, &id, rule, Duration::from_secs(20)).await?;
            time::sleep(Duration::from_millis(700)).await;
        }
        anyhow::Ok(())
    };
    let (neighbour, misbehaviour) = tokio::join!(neighbour, misbehaviour);
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
    drop(node);
    Ok(verdict)
}
