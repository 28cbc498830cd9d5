//! Seeded bugs. Each must be caught by an invariant, or else the check itself is worth nothing.
//!
//! Where several locks guard one door, opening one of them alone changes nothing; such a bug is
//! expected to do no harm, and the next one opens the other locks as well.

use anyhow::ensure;
use futures_util::{StreamExt as _, stream};

use crate::{
    drill::{Drill, Fault, Load, Outcome},
    points::AT_ONCE,
    stage::Stage,
};

/// What is broken before a drill.
#[derive(Debug, Clone, Copy)]
pub struct Sabotage {
    /// Bugs that are compiled into the node.
    pub bugs: &'static [&'static str],
    /// Changes of the schema's functions.
    pub edits: &'static [Edit],
    /// Locks of the schema that are taken off.
    pub statements: &'static [&'static str],
}

/// A change of a function's text.
#[derive(Debug, Clone, Copy)]
pub struct Edit {
    /// The function.
    pub function: &'static str,
    /// What it says.
    pub from: &'static str,
    /// What it shall say in its place.
    pub to: &'static str,
}

impl Sabotage {
    /// Nothing is broken.
    pub const NOTHING: Self = Self { bugs: &[], edits: &[], statements: &[] };

    /// Breaks it.
    ///
    /// # Errors
    /// If a function does not say what is to be changed: the bug must be written anew then.
    pub fn apply(&self, stage: &mut Stage) -> anyhow::Result<()> {
        stage.plan.bugs = self.bugs.iter().map(|bug| (*bug).to_owned()).collect();
        for Edit { function, from, to } in self.edits {
            let text = stage.sql(&format!("SELECT pg_get_functiondef('{function}'::regproc)"));
            ensure!(text.contains(from), "{function} no longer says {from:?}");
            stage.sql(&text.replace(from, to));
        }
        for statement in self.statements {
            stage.sql(statement);
        }
        Ok(())
    }
}

/// A seeded bug.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// What it is called.
    pub name: &'static str,
    /// What meets it.
    pub drill: Drill,
    /// The invariants of which at least one must catch it; none if another lock holds.
    pub caught_by: &'static [&'static str],
}

const fn mutant(
    name: &'static str,
    (fault, load): (Fault, Load),
    sabotage: Sabotage,
    caught_by: &'static [&'static str],
) -> Mutant {
    Mutant { name, drill: Drill { fault, load, sabotage }, caught_by }
}

const fn bugs(bugs: &'static [&'static str]) -> Sabotage {
    Sabotage { bugs, ..Sabotage::NOTHING }
}

const fn edits(edits: &'static [Edit]) -> Sabotage {
    Sabotage { edits, ..Sabotage::NOTHING }
}

const fn edit(function: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { function, from, to }
}

const FENCE: &str = "AND c.epoch = p_epochs[i.place] AND c.lease_until IS NOT NULL\n                  AND c.done_seq";
const FENCE_AND_PROGRESS: &str = "AND c.epoch = p_epochs[i.place] AND c.lease_until IS NOT NULL\n                  AND c.done_seq < p_to[i.place]";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    mutant(
        "a message is acknowledged before its commit",
        (Fault::KillAfterAck, Load::One),
        bugs(&["ack_before_commit"]),
        &["I1"],
    ),
    mutant(
        "a turn's id is random",
        (Fault::AbortAt("hold.committed"), Load::One),
        bugs(&["random_turn_id"]),
        &["I12"],
    ),
    mutant(
        "an API call is confirmed before it is settled",
        (Fault::KillAfterCall, Load::Call),
        bugs(&["answer_before_settling"]),
        &["I26"],
    ),
    mutant(
        "a hold does not look at the wallet, and its CHECK is gone",
        (Fault::None, Load::Crowd),
        Sabotage {
            edits: &[edit("app.hold_turns", "AND w.posted - w.held >= v_sum;", ";")],
            statements: &["ALTER TABLE wallets DROP CONSTRAINT wallets_not_overdrawn"],
            ..Sabotage::NOTHING
        },
        &["I11"],
    ),
    mutant(
        "a repeated message is not looked up, the primary key holds",
        (Fault::None, Load::Twice),
        edits(&[edit("app.accept", "i.external_id = p_external;\n    IF", "false;\n    IF")]),
        &[],
    ),
    mutant(
        "a repeated message is not recognised, and the primary key is gone",
        (Fault::None, Load::Twice),
        Sabotage {
            edits: &[
                edit("app.accept", "i.external_id = p_external;\n    IF", "false;\n    IF"),
                edit("app.accept", "ON CONFLICT ON CONSTRAINT inbox_pk DO NOTHING", ""),
            ],
            statements: &["ALTER TABLE inbox DROP CONSTRAINT inbox_pk"],
            ..Sabotage::NOTHING
        },
        &["I2"],
    ),
    mutant(
        "messages are numbered with gaps",
        (Fault::None, Load::Two),
        edits(&[
            edit("app.accept", "c.last_seq + 1", "c.last_seq + 2"),
            edit(
                "app.accept_together",
                "l.last_seq + row_number()",
                "1 + l.last_seq + row_number()",
            ),
        ]),
        &["I3"],
    ),
    mutant(
        "a charge has one leg, and the trigger is gone",
        (Fault::None, Load::One),
        Sabotage {
            edits: &[edit(
                "app.commit_routed_turns",
                "(1::smallint, 'revenue', p_charges[u.place]),",
                "",
            )],
            statements: &["DROP TRIGGER ledger_entries_balanced ON ledger_entries"],
            ..Sabotage::NOTHING
        },
        &["I7", "I10"],
    ),
    mutant(
        "a turn is metered and not booked",
        (Fault::None, Load::One),
        edits(&[edit("app.commit_routed_turns", "WHERE l.amount <> 0;", "WHERE false;")]),
        &["I8", "I10"],
    ),
    mutant(
        "a settled hold is not released wholly",
        (Fault::None, Load::One),
        edits(&[edit("app.commit_routed_turns", "w.held - v_held,", "w.held - v_charged,")]),
        &["I9"],
    ),
    mutant(
        "a settled hold does not say how much was settled",
        (Fault::None, Load::One),
        edits(&[edit("app.commit_routed_turns", "settled = p_charges[u.place],", "settled = 0,")]),
        &["I17"],
    ),
    mutant(
        "a voided hold is not released",
        (Fault::None, Load::Broken),
        edits(&[edit("app.end_turn", "w.held - v_hold.amount", "w.held")]),
        &["I9"],
    ),
    mutant(
        "a call's charge stays held",
        (Fault::None, Load::Call),
        edits(&[edit("app.settle_calls", "SET held = w.held - v_total, posted", "SET posted")]),
        &["I9"],
    ),
    mutant(
        "a message is sent without an outbox that remembers it",
        (Fault::AbortAt("delivery.claimed"), Load::One),
        edits(&[edit("app.claim_outbox", "state = 'sending'", "state = 'delivered'")]),
        &["I15"],
    ),
    mutant(
        "a message does not wait for the one before it",
        (Fault::Rebuff, Load::Two),
        edits(&[edit("app.claim_outbox", "e.out_seq < d.out_seq", "false")]),
        &["I14"],
    ),
    mutant(
        "a stale node is not fenced, its lack of progress is seen",
        (Fault::Zombie, Load::One),
        edits(&[edit("app.commit_routed_turns", FENCE, "AND c.done_seq")]),
        &[],
    ),
    mutant(
        "a stale node is not fenced nor its progress seen, the settled hold stops it",
        (Fault::Zombie, Load::One),
        edits(&[edit("app.commit_routed_turns", FENCE_AND_PROGRESS, "")]),
        &[],
    ),
    mutant(
        "a stale node is not fenced, and a turn's id is random",
        (Fault::Zombie, Load::One),
        Sabotage {
            bugs: &["random_turn_id"],
            edits: &[edit("app.commit_routed_turns", FENCE_AND_PROGRESS, "")],
            statements: &[],
        },
        &["I5", "I18"],
    ),
    mutant(
        "a stale node is not fenced, and no key or CHECK stops a second settlement",
        (Fault::Zombie, Load::One),
        Sabotage {
            bugs: &[],
            edits: &[
                edit("app.commit_routed_turns", FENCE_AND_PROGRESS, ""),
                edit("app.commit_routed_turns", "AND k.state <> 'settled'", ""),
                edit("app.commit_routed_turns", "AND h.state = 'held'", ""),
            ],
            statements: &[
                "ALTER TABLE usage_events DROP CONSTRAINT usage_events_pk",
                "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pk",
                "DROP INDEX outbox_one_reply",
                "ALTER TABLE wallets DROP CONSTRAINT wallets_held_not_negative",
            ],
        },
        &["I5", "I9", "I16"],
    ),
    mutant(
        "the lease of a turn never ends",
        (Fault::AbortAt("turn.claimed"), Load::One),
        edits(&[edit(
            "app.claim_turns",
            "lease_until = v_until, ready_at = v_until,",
            "lease_until = 'infinity', ready_at = 'infinity',",
        )]),
        &["I4"],
    ),
    mutant(
        "the lease of a delivery never ends",
        (Fault::AbortAt("delivery.claimed"), Load::One),
        edits(&[edit("app.claim_outbox", "next_at = v_until", "next_at = 'infinity'")]),
        &["I13"],
    ),
    mutant(
        "the lease of a block never ends",
        (Fault::AbortAt("block.reserved"), Load::One),
        edits(&[edit("app.sweep", "AND h.lease_until < now()", "AND false")]),
        &["I12"],
    ),
];

/// Tries every bug whose name contains one of `only`, or all. `say` hears of each. Returns how
/// many there were and how many of them went unnoticed.
///
/// # Errors
/// If a drill could not be run as planned.
pub async fn run(only: &[String], say: impl Fn(&str)) -> anyhow::Result<(usize, usize)> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(&**word));
    let chosen = MUTANTS.iter().filter(|mutant| wanted(mutant.name));
    let drills = chosen.map(|mutant| async move { (mutant, mutant.drill.run().await) });
    let mut running = stream::iter(drills).buffer_unordered(AT_ONCE);
    let (mut tried, mut unnoticed) = (0, 0);
    while let Some((mutant, outcome)) = running.next().await {
        let Outcome { verdict, .. } = outcome?;
        let violated = verdict.violated();
        tried += 1;
        let caught = mutant.caught_by.iter().any(|id| violated.contains(id));
        let harmless = mutant.caught_by.is_empty() && violated.is_empty();
        let word = match (caught, harmless) {
            (true, _) => format!("caught by {}", violated.join(" ")),
            (_, true) => "harmless: another lock holds".to_owned(),
            _ if violated.is_empty() => "NOT CAUGHT".to_owned(),
            _ => format!("UNEXPECTED: {}", violated.join(" ")),
        };
        if !caught && !harmless {
            unnoticed += 1;
        }
        say(&format!("{:<74} {word}", mutant.name));
    }
    Ok((tried, unnoticed))
}
