use std::collections::BTreeSet;

use qudao_domain::{ChannelId, Micros};
use qudao_storage::{Accept, Inbound};

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
    assert!(tx.set_channel_open(world.tenant.channel_id, false).await.unwrap());
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

/// Runs futures side by side, in one task.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}
