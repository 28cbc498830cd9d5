//! One crash per point, one message and two API calls, no later input.

use futures_util::{StreamExt as _, stream};

use crate::{
    drill::{Drill, Fault, Load, Outcome},
    mutants::Sabotage,
    verdict::{Line, Verdict},
};

/// How many drills run at a time.
pub const AT_ONCE: usize = 4;

/// Every point that a node passes, and what comes in so that it does.
pub const POINTS: &[(&str, Load)] = &[
    ("accept.gathered", Load::One),
    ("accept.committed", Load::One),
    ("turn.claimed", Load::One),
    ("turn.read", Load::One),
    ("route.decided", Load::One),
    ("decision.gathered", Load::Broken),
    ("decision.recorded", Load::Broken),
    ("hold.committed", Load::One),
    ("model.called", Load::One),
    ("model.began", Load::One),
    ("turn.lease_extended", Load::One),
    ("model.ended", Load::One),
    ("turn.committed", Load::One),
    ("turn.rejecting", Load::Poor),
    ("turn.rejected", Load::Poor),
    ("turn.released", Load::Broken),
    ("turn.burying", Load::Broken),
    ("turn.buried", Load::Broken),
    ("delivery.claimed", Load::One),
    ("delivery.sent", Load::One),
    ("delivery.recording", Load::One),
    ("delivery.recorded", Load::One),
    ("inbound.taken", Load::Bot),
    ("delivery.piece_sent", Load::Bot),
    ("delivery.piece", Load::Bot),
    ("delivery.sent", Load::Partner),
    ("post.claimed", Load::Partner),
    ("post.sent", Load::Partner),
    ("post.recorded", Load::Partner),
    ("sweep.done", Load::One),
    ("block.reserving", Load::One),
    ("block.reserved", Load::One),
    ("block.extending", Load::One),
    ("block.extended", Load::One),
    ("block.spent", Load::One),
    ("block.renewed", Load::One),
    ("block.closing", Load::One),
    ("block.closed", Load::One),
    ("call.made", Load::One),
    ("call.began", Load::One),
    ("call.ended", Load::One),
    ("settle.handed_over", Load::One),
    ("settle.gathered", Load::One),
    ("settle.committed", Load::One),
    ("settle.answering", Load::One),
];

/// Ends a node at every point whose name contains one of `only`, or at all. `say` hears of each.
///
/// A point that is not reached is a violation of the line `P0`.
pub async fn run(only: &[String], say: impl Fn(&str)) -> (Verdict, usize) {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(&**word));
    let chosen = POINTS.iter().filter(|(name, _)| wanted(name));
    let drills = chosen.map(|(name, load)| async move {
        let drill = Drill { fault: Fault::AbortAt(name), load: *load, sabotage: Sabotage::NOTHING };
        (*name, drill.run().await)
    });
    let mut running = stream::iter(drills).buffer_unordered(AT_ONCE);
    let (mut total, mut crashes) = (Verdict::default(), 0);
    let mut missed = Vec::new();
    while let Some((name, outcome)) = running.next().await {
        let Outcome { verdict, recovery } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                say(&format!("{name:<20} {error:#}"));
                missed.push(name);
                continue;
            }
        };
        crashes += 1;
        let recovered = match recovery {
            Some(time) => format!("at rest {:.1} s after", time.as_secs_f64()),
            None => "never at rest".to_owned(),
        };
        let violated = verdict.violated();
        let held = if violated.is_empty() { "all hold".to_owned() } else { violated.join(" ") };
        say(&format!("{name:<20} {recovered:<24} {held}"));
        total.merge(verdict);
    }
    total.lines.push(Line {
        id: "P0",
        title: "every point is reached, and a node that ends there is followed by another"
            .to_owned(),
        examined: crashes + missed.len(),
        violations: missed.len(),
        sample: missed.first().map(|name| (*name).to_owned()),
    });
    (total, crashes)
}
