use std::{collections::BTreeSet, time::Duration};

use qudao_domain::Micros;
use qudao_storage::{Commit, Hold, HoldTurn, Speaker, StorageError};

use crate::{
    accept::join_all,
    world::{LEASE, World, turn_of},
};

#[tokio::test]
async fn a_conversation_is_claimed_by_one_worker_only() {
    let world = World::new().await;
    for n in 0..40 {
        world.say(&format!("peer {n}"), &format!("m{n}")).await;
    }
    let workers = (0..8).map(|_| world.store.claim_conversations(world.node, 10, LEASE));
    let claims: Vec<_> = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    let distinct: BTreeSet<_> = claims.iter().map(|claim| claim.conversation_id).collect();
    assert_eq!(distinct.len(), claims.len());
    let rest = world.claim().await.len();
    assert_eq!(claims.len() + rest, 40);
    assert_eq!(world.claim().await, []);
}

#[tokio::test]
async fn a_burst_of_messages_gets_one_reply() {
    let world = World::new().await;
    for id in ["m1", "m2", "m3"] {
        world.say("peer", id).await;
    }
    let claim = world.claim_one().await;
    assert_eq!((claim.from_seq, claim.to_seq, claim.attempts), (1, 3, 1));
    // One more comes while the answer is being made: it is the next turn's.
    world.say("peer", "m4").await;
    world.hold(&claim, 1000).await;
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { out_seq: 1, .. }));
    let next = world.claim_one().await;
    assert_eq!((next.from_seq, next.to_seq, next.attempts), (4, 4, 1));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_turn_is_charged_once_and_the_rest_of_its_hold_returns() {
    let world = World::with_credits(Micros::new(5000)).await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    assert_eq!(world.hold(&claim, 1000).await, Hold::Held { amount: Micros::new(1000) });
    assert_eq!(world.wallet().await, (5000, 1000));
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { .. }));
    assert_eq!(world.wallet().await, (4300, 0));
    assert_eq!(world.commit(&claim, 700).await, Commit::Fenced);
    assert_eq!(world.wallet().await, (4300, 0));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_charge_above_the_hold_is_refused_and_what_exceeds_it_is_borne_by_the_platform() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    let refused = world.store.commit_turn(world.tenant.id, &world.reply(&claim, 1001)).await;
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, StorageError::Refused { constraint } if constraint == "holds_settled_within_amount"),
        "{error:?}"
    );
    let mut commit = world.reply(&claim, 1000);
    commit.usage.absorbed = Micros::new(1);
    let committed = world.store.commit_turn(world.tenant.id, &commit).await.unwrap();
    assert!(matches!(committed, Commit::Done { .. }));
    assert_eq!(
        world.number("SELECT sum(amount) FROM ledger_entries WHERE account = 'revenue'"),
        1001
    );
    world.assert_sound().await;
}

#[tokio::test]
async fn a_worker_that_was_overtaken_changes_nothing() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let slow = world.store.claim_conversations(world.node, 1, Duration::ZERO).await.unwrap()[0];
    assert!(matches!(world.hold(&slow, 1000).await, Hold::Held { .. }));
    let fast = world.claim_one().await;
    assert_eq!((fast.epoch, fast.attempts), (slow.epoch + 1, 2));
    // The second one finds the hold of the first, and does not take another.
    assert_eq!(world.hold(&fast, 800).await, Hold::Found { amount: Micros::new(1000) });

    assert_eq!(world.hold(&slow, 1000).await, Hold::Fenced);
    assert_eq!(world.commit(&slow, 700).await, Commit::Fenced);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(!tx.heartbeat(slow.conversation_id, slow.epoch, LEASE).await.unwrap());
    assert!(!tx.release_turn(slow.conversation_id, slow.epoch, Duration::ZERO).await.unwrap());
    assert_eq!(tx.bury_turn(&world.ending(&slow)).await.unwrap(), Commit::Fenced);
    assert!(tx.heartbeat(fast.conversation_id, fast.epoch, LEASE).await.unwrap());
    tx.commit().await.unwrap();

    assert!(matches!(world.commit(&fast, 700).await, Commit::Done { .. }));
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 1);
    assert_eq!(world.number("SELECT count(*) FROM model_attempts"), 2);
    world.assert_sound().await;
}

#[tokio::test]
async fn eighty_holds_at_once_take_no_more_than_there_is() {
    let world = World::with_credits(Micros::new(3700)).await;
    for n in 0..80 {
        world.say(&format!("peer {n}"), &format!("m{n}")).await;
    }
    let mut claims = world.claim().await;
    claims.extend(world.claim().await);
    assert_eq!(claims.len(), 80);
    let holds = join_all(claims.iter().map(|claim| world.hold(claim, 100))).await;
    let held = holds.iter().filter(|hold| matches!(hold, Hold::Held { .. })).count();
    let refused = holds.iter().filter(|hold| **hold == Hold::NoFunds).count();
    assert_eq!((held, refused), (37, 43));
    assert_eq!(world.wallet().await, (3700, 3700));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_rejected_turn_returns_its_hold_and_says_so() {
    let world = World::with_credits(Micros::new(5000)).await;
    for bury in [false, true] {
        let id = format!("m {bury}");
        world.say("peer", &id).await;
        let claim = world.claim_one().await;
        world.hold(&claim, 1000).await;
        let mut tx = world.store.begin(world.tenant.id).await.unwrap();
        let ending = world.ending(&claim);
        let end = if bury { tx.bury_turn(&ending).await } else { tx.reject_turn(&ending).await };
        assert!(matches!(end.unwrap(), Commit::Done { .. }));
        tx.commit().await.unwrap();
        assert_eq!(world.wallet().await, (5000, 0));
    }
    let states = world.db.psql("SELECT string_agg(state, ',' ORDER BY seq) FROM inbox");
    assert_eq!(states.trim(), "rejected,dead");
    assert_eq!(world.number("SELECT count(*) FROM outbox WHERE kind = 'notice'"), 2);
    assert_eq!(world.number("SELECT count(*) FROM usage_events"), 0);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_released_turn_waits_and_keeps_its_hold() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.release_turn(claim.conversation_id, claim.epoch, LEASE).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(world.claim().await, []);
    // It gave the claim back: it may not go on.
    assert_eq!(world.commit(&claim, 700).await, Commit::Fenced);

    world.db.psql("UPDATE conversations SET ready_at = now()");
    let again = world.claim_one().await;
    assert_eq!(again.attempts, 2);
    assert!(matches!(world.hold(&again, 1000).await, Hold::Found { .. }));
}

#[tokio::test]
async fn a_sweep_fences_the_worker_before_it_voids_the_hold() {
    let world = World::with_credits(Micros::new(5000)).await;
    world.say("peer", "m1").await;
    let zombie = world.store.claim_conversations(world.node, 1, Duration::ZERO).await.unwrap()[0];
    world.hold(&zombie, 1000).await;
    assert_eq!(world.store.sweep().await.unwrap().holds, 0, "it is young");
    let swept = world.store.sweep_older_than(Duration::ZERO).await.unwrap();
    assert_eq!((swept.holds, swept.blocks), (1, 0));
    assert_eq!(world.wallet().await, (5000, 0));
    assert_eq!(world.commit(&zombie, 700).await, Commit::Fenced);

    // The question is not lost: the next worker holds anew and answers.
    let next = world.claim_one().await;
    assert!(matches!(world.hold(&next, 800).await, Hold::Held { .. }));
    assert!(matches!(world.commit(&next, 700).await, Commit::Done { .. }));
    assert_eq!(world.wallet().await, (4300, 0));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_sweep_leaves_a_turn_alone_that_is_being_worked_on() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    assert_eq!(world.store.sweep_older_than(Duration::ZERO).await.unwrap().holds, 0);
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { .. }));
}

#[tokio::test]
async fn a_turn_sees_what_it_answers_and_what_was_said_before() {
    let world = World::new().await;
    world.chat("peer", "m1").await;
    world.say("peer", "m2").await;
    let lost = world.claim_one().await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.reject_turn(&world.ending(&lost)).await.unwrap();
    tx.commit().await.unwrap();
    world.say("peer", "m3").await;
    let claim = world.claim_one().await;

    let context = world.store.turn_context(&claim, 10).await.unwrap();
    let pending: Vec<_> = context.pending.iter().map(|m| m.body.text.as_str()).collect();
    assert_eq!(pending, ["text of m3"]);
    let said: Vec<_> = context.history.iter().map(|p| (p.speaker, p.text.as_str())).collect();
    // The message that was refused is not part of what the model sees.
    assert_eq!(said, [(Speaker::User, "text of m1"), (Speaker::Assistant, "an answer")]);
    assert_eq!(context.models, ["fake"]);
    assert_eq!(context.assistant.id, world.tenant.assistant_id);

    let short = world.store.turn_context(&claim, 1).await.unwrap();
    assert_eq!(short.history, context.history[1..]);
}

#[tokio::test]
async fn a_free_model_needs_a_hold_of_nothing() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    assert_eq!(world.hold(&claim, 0).await, Hold::Held { amount: Micros::ZERO });
    assert!(matches!(world.commit(&claim, 0).await, Commit::Done { .. }));
    assert_eq!(world.number("SELECT count(*) FROM ledger_entries"), 2, "the credit alone");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_hold_in_another_currency_finds_no_wallet() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    let hold = HoldTurn {
        conversation_id: claim.conversation_id,
        epoch: claim.epoch,
        turn_id: turn_of(&claim),
        amount: Micros::new(1),
        currency: qudao_domain::Currency::USD,
        model: "fake".to_owned(),
    };
    let outcome = world.store.hold_turn(world.tenant.id, &hold).await.unwrap();
    assert_eq!(outcome, Hold::NoFunds);
}

#[tokio::test]
async fn a_found_hold_is_raised_by_the_difference_if_the_wallet_covers_it() {
    let world = World::with_credits(Micros::new(5000)).await;
    world.say("peer", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1).await;
    assert_eq!(world.hold(&claim, 3000).await, Hold::Found { amount: Micros::new(3000) });
    assert_eq!(world.wallet().await, (5000, 3000));
    assert_eq!(world.hold(&claim, 5001).await, Hold::NoFunds);
    assert_eq!(world.wallet().await, (5000, 3000));
    world.assert_sound().await;
    // What is set aside for the turn is the turn's to spend.
    let context = world.store.turn_context(&claim, 1).await.unwrap();
    assert_eq!((context.available.get(), context.posted.get()), (5000, 5000));
    assert!(matches!(world.commit(&claim, 2500).await, Commit::Done { .. }));
    assert_eq!(world.wallet().await, (2500, 0));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_postponed_turn_comes_back_as_the_same_attempt() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    for attempts in [1, 1, 1] {
        let claim = world.claim_one().await;
        assert_eq!(claim.attempts, attempts);
        let mut tx = world.store.begin(world.tenant.id).await.unwrap();
        let now = Duration::ZERO;
        assert!(tx.postpone_turn(claim.conversation_id, claim.epoch, now).await.unwrap());
        tx.commit().await.unwrap();
    }
}
