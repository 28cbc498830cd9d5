use std::collections::BTreeSet;

use qudao_domain::{ChannelId, Micros};
use qudao_storage::{Accept, ChannelChange, Inbound};

use crate::world::World;

#[tokio::test]
async fn a_message_that_comes_many_times_at_once_is_kept_once() {
    let world = World::new().await;
    let deliveries = (0..16).map(|_| world.say("peer", "m1"));
    let outcomes = join_all(deliveries).await;
    let new = outcomes.iter().filter(|o| matches!(o, Accept::New { .. })).count();
    let again = outcomes.iter().filter(|o| matches!(o, Accept::Duplicate { seq: 1, .. })).count();
    assert_eq!((new, again), (1, 15), "{outcomes:?}");
    assert_eq!(world.number("SELECT count(*) FROM conversations"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn messages_that_come_at_once_are_numbered_without_a_gap() {
    let world = World::new().await;
    let ids: Vec<_> = (0..24).map(|n| format!("m{n}")).collect();
    let outcomes = join_all(ids.iter().map(|id| world.say("peer", id))).await;
    let numbers: BTreeSet<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Accept::New { seq, .. } => *seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, (1..=24).collect());
    assert_eq!(world.number("SELECT count(*) FROM contacts"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_message_that_was_accepted_stays_so_when_the_funds_are_gone_and_the_channel_closed() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let close = ChannelChange { open: Some(false), ..ChannelChange::default() };
    assert!(tx.change_channel(world.tenant.channel_id, 0, &close).await.unwrap().is_some());
    tx.commit().await.unwrap();
    assert!(matches!(world.say("peer", "m1").await, Accept::Duplicate { seq: 1, .. }));
    assert_eq!(world.say("peer", "m2").await, Accept::ChannelClosed);
}

#[tokio::test]
async fn an_empty_wallet_accepts_nothing() {
    let world = World::with_credits(Micros::ZERO).await;
    assert_eq!(world.say("peer", "m1").await, Accept::NoFunds);
    assert_eq!(world.number("SELECT count(*) FROM conversations"), 0);
}

#[tokio::test]
async fn a_channel_of_nobody_or_of_another_tenant_is_closed() {
    let world = World::new().await;
    let rival = world.other_tenant().await;
    for channel_id in [ChannelId::new(), rival.channel_id] {
        let mut tx = world.store.begin(world.tenant.id).await.unwrap();
        let inbound = Inbound { channel_id, ..world.inbound("peer", "m1") };
        assert_eq!(tx.accept(&inbound).await.unwrap(), Accept::ChannelClosed);
    }
}

#[tokio::test]
async fn messages_of_several_tenants_share_a_commit_and_each_gets_its_own_answer() {
    let world = World::new().await;
    let rival = world.other_tenant().await;
    let theirs =
        |peer: &str, id: &str| Inbound { channel_id: rival.channel_id, ..world.inbound(peer, id) };
    let us = world.tenant.id;
    let messages = [
        (us, world.inbound("zoe", "zoe:1")),
        (rival.id, theirs("ann", "ann:1")),
        (us, world.inbound("ann", "ann:1")),
        (us, theirs("ann", "ann:9")),
        (us, world.inbound("zoe", "zoe:2")),
        (us, world.inbound("zoe", "zoe:1")),
    ];
    let answers = world.store.accept_together(&messages).await.unwrap();
    let seqs: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Accept::New { seq, .. } => Some((*seq, true)),
            Accept::Duplicate { seq, .. } => Some((*seq, false)),
            _ => None,
        })
        .collect();
    let first = Some((1, true));
    assert_eq!(seqs, [first, first, first, None, Some((2, true)), Some((1, false))]);
    assert_eq!(answers[3], Accept::ChannelClosed);
    assert_eq!(world.number("SELECT count(*) FROM inbox"), 4);
    let of_rival = format!("SELECT count(*) FROM inbox WHERE tenant_id = '{}'", rival.id.as_uuid());
    assert_eq!(world.number(&of_rival), 1);
    // The last tenant of one statement is not that of the next one on the same connection.
    let mut tx = world.store.begin(us).await.unwrap();
    assert_eq!(tx.accept(&theirs("ann", "ann:1")).await.unwrap(), Accept::ChannelClosed);
    drop(tx);
    world.assert_sound().await;
}

#[tokio::test]
async fn of_messages_that_share_a_commit_none_is_stored_if_one_cannot_be() {
    let world = World::new().await;
    let mut bad = world.inbound("bob", "bob:1");
    bad.body.text = "a\0b".to_owned();
    let messages = [(world.tenant.id, world.inbound("ann", "ann:1")), (world.tenant.id, bad)];
    world.store.accept_together(&messages).await.unwrap_err();
    assert_eq!(world.number("SELECT count(*) FROM conversations"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_store_messages_of_the_same_people_at_the_same_moment_do_not_block_each_other() {
    let world = World::new().await;
    let patient = world.patient_store().await;
    let people: Vec<String> = (0..24).map(|number| format!("p{number}")).collect();
    let store_all = |round: usize| {
        let mut messages: Vec<_> = people
            .iter()
            .map(|person| (world.tenant.id, world.inbound(person, &format!("{person}:{round}"))))
            .collect();
        // Each in another order.
        messages.rotate_left(round % people.len());
        if round.is_multiple_of(2) {
            messages.reverse();
        }
        let store = patient.clone();
        async move { store.accept_together(&messages).await }
    };
    let outcomes = join_all((0..32).map(|round| tokio::spawn(store_all(round)))).await;
    for outcome in outcomes {
        outcome.unwrap().expect("no deadlock");
    }
    assert_eq!(world.number("SELECT count(*) FROM inbox"), 24 * 32);
    world.assert_sound().await;
}

/// Runs futures side by side, in one task.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}
