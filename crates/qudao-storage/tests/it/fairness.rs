//! No tenant stands before another because it has more work.

use qudao_storage::Shares;

use crate::world::{LEASE, World};

#[tokio::test]
async fn one_conversation_does_not_wait_behind_ten_thousand_of_another_tenant() {
    let world = World::new().await;
    world.flood(10_000).await;
    let quiet = world.other_tenant().await;
    world.say_to(&quiet, "ann", "m1").await;
    let claims = world.store.claim_conversations(world.node, 2, LEASE).await.unwrap();
    let mine = claims.iter().filter(|claim| claim.tenant_id == quiet.id).count();
    assert_eq!((claims.len(), mine), (2, 1));
}

#[tokio::test]
async fn one_place_at_a_time_goes_to_the_tenants_in_turns() {
    let world = World::new().await;
    world.flood(100).await;
    let (second, third) = (world.other_tenant().await, world.other_tenant().await);
    for id in ["a", "b", "c"] {
        world.say_to(&second, id, id).await;
        world.say_to(&third, id, id).await;
    }
    let mut shares = Shares::default();
    let mut order = Vec::new();
    for _ in 0..9 {
        let claims = world.store.claim_turns(world.node, 1, LEASE, &shares).await.unwrap();
        shares.after = Some(claims[0].tenant_id);
        order.push(claims[0].tenant_id);
    }
    for round in order.chunks(3) {
        for tenant in [world.tenant.id, second.id, third.id] {
            assert!(round.contains(&tenant), "{order:?}");
        }
    }
}

#[tokio::test]
async fn who_has_fewer_turns_under_way_comes_first_and_nobody_gets_more_than_its_share() {
    let world = World::new().await;
    world.flood(100).await;
    let quiet = world.other_tenant().await;
    for id in ["a", "b", "c", "d"] {
        world.say_to(&quiet, id, id).await;
    }
    let of = |claims: &[qudao_storage::Claim], tenant| {
        claims.iter().filter(|claim| claim.tenant_id == tenant).count()
    };
    let running = vec![(world.tenant.id, 10), (quiet.id, 7)];
    let shares = Shares { running, most: Some(12), ..Shares::default() };
    let claims = world.store.claim_turns(world.node, 3, LEASE, &shares).await.unwrap();
    assert_eq!((of(&claims, quiet.id), of(&claims, world.tenant.id)), (3, 0));
    let claims = world.store.claim_turns(world.node, 10, LEASE, &shares).await.unwrap();
    assert_eq!((of(&claims, quiet.id), of(&claims, world.tenant.id)), (1, 2));
    let running = vec![(world.tenant.id, 12)];
    let shares = Shares { running, most: Some(12), ..Shares::default() };
    assert_eq!(world.store.claim_turns(world.node, 10, LEASE, &shares).await.unwrap(), []);
}

#[tokio::test]
async fn within_a_tenant_the_longest_waiting_comes_first() {
    let world = World::new().await;
    world.flood(50).await;
    world.say("late", "late").await;
    world.db.psql(
        "UPDATE conversations SET ready_at = now() - interval '2 hours' WHERE peer = 'flood 33'",
    );
    let claims = world.store.claim_conversations(world.node, 1, LEASE).await.unwrap();
    let id = claims[0].conversation_id.as_uuid();
    let peer =
        world.db.psql(&format!("SELECT peer FROM conversations WHERE conversation_id = '{id}'"));
    assert!(peer.contains("flood 33"), "{peer}");
    let rest = world.store.claim_conversations(world.node, 50, LEASE).await.unwrap();
    let late = world.db.psql("SELECT count(*) FROM conversations WHERE ready_at <= now()");
    assert_eq!((rest.len(), late.trim()), (50, "0"));
}

#[tokio::test]
async fn eight_nodes_that_claim_at_once_take_each_conversation_once_and_leave_none() {
    let world = World::new().await;
    world.flood(200).await;
    let quiet = world.other_tenant().await;
    for n in 0..20 {
        world.say_to(&quiet, &format!("{n}"), &format!("{n}")).await;
    }
    let mut taken = std::collections::BTreeSet::new();
    let mut idle = 0;
    while idle < 3 {
        let workers = (0..8).map(|_| world.store.claim_conversations(world.node, 10, LEASE));
        let claims: Vec<_> =
            crate::accept::join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
        idle = if claims.is_empty() { idle + 1 } else { 0 };
        for claim in claims {
            assert!(taken.insert(claim.conversation_id), "{claim:?} was taken twice");
        }
    }
    assert_eq!(taken.len(), 220);
}

#[tokio::test]
async fn the_backlog_is_counted_in_messages_by_tenant() {
    let world = World::new().await;
    for id in ["a", "b", "c"] {
        world.say("ann", id).await;
    }
    world.say("bob", "d").await;
    let quiet = world.other_tenant().await;
    world.say_to(&quiet, "ann", "m1").await;
    let mut backlog = world.store.backlog(100).await.unwrap();
    backlog.sort_by_key(|(_, messages)| *messages);
    assert_eq!(backlog, [(quiet.id, 1), (world.tenant.id, 4)]);
    let few = world.store.backlog(1).await.unwrap();
    assert_eq!(few.len(), 1);
}
