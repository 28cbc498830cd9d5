//! One fault, a little traffic, no later input: what a crash point and a seeded bug are tried with.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use qudao_testkit::TestTenant;
use tokio::time;

use crate::{
    customers::{Bot, Partner},
    mutants::Sabotage,
    node::Node,
    platform::Visitor,
    record::Seen,
    stage::{LEASE, REPLY_COST, Stage},
    verdict::{self, Bounds, Verdict},
};

/// How long what a fault waits for may take.
const REACHED: Duration = Duration::from_secs(60);
/// How long the rest may take once the fault is over.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a message may wait for its answer, the start of another node within that.
const ANSWER: Duration = Duration::from_secs(45);
/// How long a message is delivered again while nobody acknowledges it.
const DELIVERING: Duration = Duration::from_secs(60);
/// A limit of an API call that a block of the first size covers once and not twice.
const CALL_TOKENS: u32 = 32;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The node ends at this point; another one follows.
    AbortAt(&'static str),
    /// The node is killed when it has acknowledged the message.
    KillAfterAck,
    /// The node is killed when a caller has read the end of an API call.
    KillAfterCall,
    /// The node stands still when its model has answered, until its lease is over and somebody
    /// else's answer has been delivered, and then goes on as if nothing had happened.
    Zombie,
    /// The remote refuses the first message of the conversation until it has had a later one, or
    /// for a while.
    Rebuff,
}

/// What comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One message and two API calls at once.
    One,
    /// One message, of a tenant whose wallet does not cover an answer.
    Poor,
    /// One message, for a model that fails.
    Broken,
    /// One message that is delivered twice.
    Twice,
    /// Two messages, the second when the first is answered.
    Two,
    /// Eight people at once, of a tenant that can pay five answers.
    Crowd,
    /// One API call.
    Call,
    /// One message to a bot, which Telegram sends twice.
    Bot,
    /// One message by way of a partner, which sends it twice.
    Partner,
}

impl Load {
    /// Whether it comes and is answered over real adapters.
    fn has_wires(self) -> bool {
        matches!(self, Self::Bot | Self::Partner)
    }
}

/// A fault and what it meets.
#[derive(Debug, Clone, Copy)]
pub struct Drill {
    /// What goes wrong.
    pub fault: Fault,
    /// What comes in.
    pub load: Load,
    /// What was broken before, to see whether it is noticed.
    pub sabotage: Sabotage,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// Every invariant.
    pub verdict: Verdict,
    /// From the fault until nothing was left to do; `None` if something was left.
    pub recovery: Option<Duration>,
}

impl Drill {
    /// Runs it on a database of its own.
    ///
    /// # Errors
    /// If it could not be run as planned, such as a point that was never reached.
    pub async fn run(&self) -> anyhow::Result<Outcome> {
        let mut stage = Stage::set(self.fault == Fault::Rebuff).await?;
        self.sabotage.apply(&mut stage)?;
        if self.load.has_wires() {
            stage.add_wires(0, 0).await?;
        }
        let (credits, model) = match self.load {
            Load::Poor => (5_000, "fake"),
            Load::Broken => (240_000, "broken"),
            Load::Crowd => (5 * REPLY_COST, "fake"),
            _ => (240_000, "fake"),
        };
        let tenant = stage.tenant(credits, &[model]).await;
        let mut plan = stage.plan.clone();
        match self.fault {
            Fault::AbortAt(point) => plan.abort_at = Some(point.to_owned()),
            Fault::Zombie => plan.wait_at = Some(("model.ended".to_owned(), gate(&stage))),
            _ => {}
        }
        let node = Node::start(&plan, &stage.doors).await?;
        let (traffic, survivors) =
            tokio::join!(self.send(&stage, &tenant), self.strike(&stage, node));
        traffic?;
        let survivors = survivors?;
        let recovery = stage.drain(DRAIN).await?;
        if self.fault == Fault::Zombie {
            // Until the one that stood still has done its worst.
            time::sleep(LEASE * 3).await;
        }
        let bounds = Bounds { answer: ANSWER, redundant: 1 };
        let verdict = verdict::judge(&stage, bounds).await?;
        drop(survivors);
        Ok(Outcome { verdict, recovery })
    }

    async fn send(&self, stage: &Stage, tenant: &TestTenant) -> anyhow::Result<()> {
        let visitor = Visitor::of(tenant);
        let say = async |visitor: &Visitor, id: &str| {
            let text = "what is the answer";
            stage.platform.deliver(visitor, id, text, DELIVERING).await
        };
        match self.load {
            Load::One => {
                let call = || stage.platform.call(tenant, CALL_TOKENS);
                let (said, one, other) = tokio::join!(say(&visitor, "m1"), call(), call());
                said?;
                one?;
                other?;
            }
            Load::Poor | Load::Broken => {
                say(&visitor, "m1").await?;
            }
            Load::Twice => {
                say(&visitor, "m1").await?;
                say(&visitor, "m1").await?;
            }
            Load::Two => {
                say(&visitor, "m1").await?;
                answered(stage).await?;
                say(&visitor, "m2").await?;
            }
            Load::Crowd => {
                let crowd: Vec<Visitor> = (0..8).map(|_| Visitor::of(tenant)).collect();
                let ids: Vec<String> = (0..8).map(|n| format!("m{n}")).collect();
                let all = crowd.iter().zip(&ids).map(|(visitor, id)| say(visitor, id));
                for said in futures_util::future::join_all(all).await {
                    said?;
                }
            }
            Load::Call => {
                stage.platform.call(tenant, CALL_TOKENS).await?;
            }
            Load::Bot => {
                let bot = Bot::make(stage, tenant).await?;
                for _ in 0..2 {
                    bot.send(&stage.platform, 4711, DELIVERING).await?;
                }
            }
            Load::Partner => {
                let partner = Partner::make(stage, tenant).await?;
                for _ in 0..2 {
                    partner.send(&stage.platform, ("room", "p1"), DELIVERING).await?;
                }
            }
        }
        Ok(())
    }

    /// Does what the fault is, and returns the nodes that live on.
    async fn strike(&self, stage: &Stage, mut node: Node) -> anyhow::Result<Vec<Node>> {
        match self.fault {
            Fault::None | Fault::Rebuff => return Ok(vec![node]),
            Fault::AbortAt(point) => {
                if !node.aborts_within(REACHED).await {
                    bail!("the point {point} was never reached");
                }
            }
            Fault::KillAfterAck => {
                seen(stage, |seen| matches!(seen, Seen::Acknowledged { .. })).await?;
                node.kill().await?;
            }
            Fault::KillAfterCall => {
                seen(stage, |seen| matches!(seen, Seen::Confirmed { .. })).await?;
                node.kill().await?;
            }
            Fault::Zombie => {
                seen(stage, |seen| matches!(seen, Seen::Acknowledged { .. })).await?;
                let other = stage.node().await?;
                seen(stage, |seen| matches!(seen, Seen::Delivered(_))).await?;
                fs::write(gate(stage), "").context("letting the node go on")?;
                return Ok(vec![node, other]);
            }
        }
        Ok(vec![stage.node().await?])
    }
}

/// What a node that stands still waits for.
fn gate(stage: &Stage) -> PathBuf {
    stage.folder().join("gate")
}

async fn seen(stage: &Stage, what: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
    let look = async {
        while !stage.record.entries().iter().any(|entry| what(&entry.seen)) {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(REACHED, look).await.context("what the fault waits for never came")
}

async fn answered(stage: &Stage) -> anyhow::Result<()> {
    let look = async {
        while stage.sql("SELECT count(*) FROM outbox") == "0" {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(REACHED, look).await.context("the first message was not answered")
}
