//! One crash per point, one message and two API calls, no later input.

use futures_util::{StreamExt as _, stream};

use crate::{
    drill::{Drill, Fault, Load, Outcome},
    mutants::Sabotage,
    verdict::Verdict,
};

/// How many drills run at a time.
pub const AT_ONCE: usize = 4;

/// Every point that a node passes, and what comes in so that it does.
pub const POINTS: &[(&str, Load)] = &[
    ("accept.written", Load::One),
    ("accept.committed", Load::One),
    ("turn.claimed", Load::One),
    ("turn.read", Load::One),
    ("hold.written", Load::One),
    ("hold.committed", Load::One),
    ("model.called", Load::One),
    ("model.began", Load::One),
    ("turn.lease_extended", Load::One),
    ("model.ended", Load::One),
    ("turn.written", Load::One),
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
    ("settle.written", Load::One),
    ("settle.committed", Load::One),
    ("settle.answering", Load::One),
];

/// Ends a node at every point whose name contains `only`. `say` hears of each.
///
/// # Errors
/// If a drill could not be run as planned.
pub async fn run(only: &str, say: impl Fn(&str)) -> anyhow::Result<(Verdict, usize)> {
    let chosen = POINTS.iter().filter(|(name, _)| name.contains(only));
    let drills = chosen.map(|(name, load)| async move {
        let drill = Drill { fault: Fault::AbortAt(name), load: *load, sabotage: Sabotage::NOTHING };
        (*name, drill.run().await)
    });
    let mut running = stream::iter(drills).buffer_unordered(AT_ONCE);
    let (mut total, mut crashes) = (Verdict::default(), 0);
    while let Some((name, outcome)) = running.next().await {
        let Outcome { verdict, recovery } = outcome?;
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
    Ok((total, crashes))
}
