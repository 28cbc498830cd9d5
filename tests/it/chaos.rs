//! The pipeline under faults, in short: the steps that matter most, and bugs that show that the
//! check would notice. `cargo xtask check chaos` does all of it.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::platform::built;

fn chaos(words: &[&str]) -> Output {
    Command::new(built("chaos")).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_node_that_ends_between_two_steps_is_followed_by_one_that_leaves_nothing_wrong() {
    let points = [
        "accept",
        "turn.claimed",
        "hold.committed",
        "model.began",
        "turn.committed",
        "delivery.claimed",
        "delivery.sent",
        "delivery.record",
        "block.reserved",
        "settle.committed",
        // Of a bot and of a partner.
        "inbound.taken",
        "delivery.piece_sent",
        "post.sent",
    ];
    let output = chaos(&[&["points"], points.as_slice()].concat());
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    assert!(said.contains("points: 16 crashes"), "{said}");
    assert!(!said.contains("VIOLATED"), "{said}");
}

#[test]
fn real_adapters_whose_other_ends_fail_answer_everything_once_while_nodes_are_killed() {
    let output = chaos(&["adapters", "--seed", "1", "--seconds", "8"]);
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    assert!(said.contains("I28  holds"), "{said}");
}

#[test]
fn a_seeded_bug_is_caught_by_an_invariant() {
    let bugs = ["before its commit", "id is random", "one leg", "not released wholly", "of a turn"];
    let output = chaos(&[&["mutants"], bugs.as_slice()].concat());
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    for invariant in ["I1", "I12", "I7 I10", "I9", "I4"] {
        assert!(said.contains(&format!("caught by {invariant}")), "{invariant}: {said}");
    }
}

#[test]
fn what_is_shipped_has_no_failpoint() {
    let holds_one = |program: &Path| {
        let found = Command::new("grep").args(["-qF", "failpoint:"]).arg(program).status();
        found.unwrap().success()
    };
    assert!(holds_one(&built("chaos-node")), "the node of the checks has them");
    assert!(!holds_one(&built("qudao")));
}
