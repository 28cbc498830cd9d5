//! Messages that belong together and come one by one.

use std::time::Duration;

use qudao_domain::text::ExternalId;
use qudao_storage::{Accept, ChannelEvent, Commit};
use serde_json::json;

use crate::world::World;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Accepts a piece; the answer waits for an hour of quiet.
async fn piece(world: &World, id: &str) -> Accept {
    let mut inbound = world.inbound("ann", id);
    inbound.body.album = Some("g1".to_owned());
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let accept = tx.accept(&inbound).await.unwrap();
    if let Accept::New { conversation_id, .. } = accept {
        tx.wait_for_more(conversation_id, HOUR, DAY).await.unwrap();
    }
    tx.commit().await.unwrap();
    accept
}

/// The quiet is over.
fn pass(world: &World) {
    world.db.psql(
        "UPDATE conversations SET quiet_until = now() - interval '1 s', ready_at = now() \
         WHERE ready_at IS NOT NULL AND lease_until IS NULL",
    );
}

#[tokio::test]
async fn pieces_are_claimed_together_once_it_is_quiet() {
    let world = World::new().await;
    for id in ["p1", "p2"] {
        assert!(matches!(piece(&world, id).await, Accept::New { .. }));
    }
    // A message like any other waits with them, and so does nobody else.
    world.say("ann", "m3").await;
    world.say("bob", "m1").await;
    let others = world.claim_one().await;
    world.hold(&others, 1000).await;
    world.commit(&others, 700).await;
    assert_eq!(world.claim().await, []);
    pass(&world);
    let claim = world.claim_one().await;
    assert_eq!((claim.from_seq, claim.to_seq), (1, 3));
    world.hold(&claim, 1000).await;
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { .. }));
    world.assert_sound().await;
}

#[tokio::test]
async fn pieces_that_come_during_a_turn_wait_for_the_rest_when_it_ends() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    piece(&world, "p2").await;
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { .. }));
    assert_eq!(world.claim().await, []);
    assert!(matches!(piece(&world, "p2").await, Accept::Duplicate { .. }));
    piece(&world, "p3").await;
    pass(&world);
    let claim = world.claim_one().await;
    assert_eq!((claim.from_seq, claim.to_seq), (2, 3));
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_quiet_moment() {
    let world = World::new().await;
    piece(&world, "p1").await;
    world.db.psql("UPDATE inbox SET accepted_at = now() - interval '2 days'");
    piece(&world, "p2").await;
    world.db.psql("UPDATE conversations SET ready_at = now() WHERE ready_at IS NOT NULL");
    assert_eq!(world.claim_one().await.to_seq, 2);
}

#[tokio::test]
async fn overheard_pieces_are_taken_once_by_their_own_album() {
    let world = World::new().await;
    let peer = ExternalId::parse("ann").unwrap();
    let channel_id = world.tenant.channel_id;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    for (event_id, album) in [("e1", "g1"), ("e2", "g2"), ("e3", "g1")] {
        let message = world.inbound("ann", event_id).body;
        let body = json!({ "album": album, "external_id": event_id, "message": message });
        let event =
            ChannelEvent { channel_id, event_id, kind: "overheard", thread: "ann", body: &body };
        assert!(tx.note_channel_event(event).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(!tx.has_piece(channel_id, &peer, "g1").await.unwrap());
    let taken = tx.take_overheard(channel_id, &peer, "g1").await.unwrap();
    let ids: Vec<_> = taken.iter().map(|inbound| inbound.external_id.as_str()).collect();
    assert_eq!(ids, ["e1", "e3"]);
    assert!(tx.take_overheard(channel_id, &peer, "g1").await.unwrap().is_empty());
    tx.commit().await.unwrap();
    piece(&world, "p1").await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.has_piece(channel_id, &peer, "g1").await.unwrap());
    assert!(!tx.has_piece(channel_id, &ExternalId::parse("bob").unwrap(), "g1").await.unwrap());
}
