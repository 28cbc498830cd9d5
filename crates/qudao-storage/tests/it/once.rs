//! A request with an idempotency key takes effect once, and its record stands or falls with the
//! effect.

use std::time::Duration;

use qudao_domain::{BlockId, Micros, TenantId, routing::Routing, text::IdempotencyKey, text::Name};
use qudao_storage::{Found, KeptCall, KeptReply, NewRoute, Once, Ticket};

use crate::world::{LEASE, World};

fn once(scope: TenantId, key: &str, body: u8) -> Once {
    Once {
        scope,
        endpoint: "POST /things".to_owned(),
        key: IdempotencyKey::parse(key).unwrap(),
        fingerprint: [body; 32],
    }
}

fn reply(body: &str) -> KeptReply {
    KeptReply { status: 201, location: Some("/things/1".to_owned()), body: body.into() }
}

/// Keeps an answer in a transaction of the tenant, and commits it.
async fn keep(world: &World, once: &Once, kept: &KeptReply) {
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert_eq!(tx.find_once(once).await.unwrap(), Found::Fresh(()));
    tx.keep_once(once, kept).await.unwrap();
    tx.commit().await.unwrap();
}

async fn find(world: &World, once: &Once) -> Found {
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.find_once(once).await.unwrap()
}

async fn claim(world: &World, once: &Once) -> Ticket {
    match world.store.claim_once(once, LEASE).await.unwrap() {
        Found::Fresh(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn age(world: &World) {
    world.db.psql("UPDATE idempotency_records SET created_at = now() - interval '24 hours'");
}

fn lapse(world: &World) {
    world.db.psql("UPDATE idempotency_records SET lease_until = now() - interval '1 second'");
}

#[tokio::test]
async fn an_answer_is_kept_for_its_key_and_body_and_for_nobody_else() {
    let world = World::new().await;
    let mine = once(world.tenant.id, "k", 1);
    keep(&world, &mine, &reply("made")).await;
    assert_eq!(find(&world, &mine).await, Found::Kept(reply("made")));
    assert_eq!(find(&world, &once(world.tenant.id, "k", 2)).await, Found::OtherBody);
    assert_eq!(find(&world, &once(world.tenant.id, "l", 1)).await, Found::Fresh(()));
    let elsewhere = Once { endpoint: "POST /others".to_owned(), ..mine.clone() };
    assert_eq!(find(&world, &elsewhere).await, Found::Fresh(()));
    let rival = world.other_tenant().await;
    let mut tx = world.store.begin(rival.id).await.unwrap();
    let theirs = Once { scope: rival.id, ..mine };
    assert_eq!(tx.find_once(&theirs).await.unwrap(), Found::Fresh(()));
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_leaves_neither_effect_nor_record() {
    let world = World::new().await;
    let once = once(world.tenant.id, "k", 1);
    let routes = world.number("SELECT count(*) FROM routes");
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert_eq!(tx.find_once(&once).await.unwrap(), Found::Fresh(()));
    let route = NewRoute {
        name: Name::parse("r").unwrap(),
        models: vec!["m".to_owned()],
        routing: Routing::default(),
    };
    tx.create_route(&route).await.unwrap();
    tx.keep_once(&once, &reply("made")).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM routes"), routes);
    assert_eq!(find(&world, &once).await, Found::Fresh(()));
}

#[tokio::test]
async fn the_second_of_two_requests_at_once_finds_the_first_under_way_and_then_its_answer() {
    let world = World::new().await;
    let once = once(world.tenant.id, "k", 1);
    let mut first = world.store.begin(world.tenant.id).await.unwrap();
    assert_eq!(first.find_once(&once).await.unwrap(), Found::Fresh(()));
    assert_eq!(find(&world, &once).await, Found::UnderWay);
    first.keep_once(&once, &reply("made")).await.unwrap();
    assert_eq!(find(&world, &once).await, Found::UnderWay);
    first.commit().await.unwrap();
    // Repetitions of what is done do not find each other under way.
    let (mut one, mut two) = (
        world.store.begin(world.tenant.id).await.unwrap(),
        world.store.begin(world.tenant.id).await.unwrap(),
    );
    assert_eq!(one.find_once(&once).await.unwrap(), Found::Kept(reply("made")));
    assert_eq!(two.find_once(&once).await.unwrap(), Found::Kept(reply("made")));
}

#[tokio::test]
async fn after_a_day_the_key_is_as_good_as_new_and_the_record_is_swept() {
    let world = World::new().await;
    let first = once(world.tenant.id, "k", 1);
    keep(&world, &first, &reply("first")).await;
    assert_eq!(world.store.forget_once().await.unwrap(), 0);
    age(&world);
    let second = once(world.tenant.id, "k", 2);
    keep(&world, &second, &reply("second")).await;
    assert_eq!(find(&world, &second).await, Found::Kept(reply("second")));
    age(&world);
    assert_eq!(world.store.forget_once().await.unwrap(), 1);
    assert_eq!(world.number("SELECT count(*) FROM idempotency_records"), 0);
}

#[tokio::test]
async fn the_operators_record_is_written_in_the_transaction_of_a_tenant_that_is_made() {
    let world = World::new().await;
    let once = once(Once::OPERATOR, "k", 1);
    keep(&world, &once, &reply("made")).await;
    assert_eq!(find(&world, &once).await, Found::Kept(reply("made")));
    // The transaction is the tenant's again.
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.find_once(&once).await.unwrap();
    assert!(tx.tenant().await.unwrap().is_some());
    drop(tx);
    let owners = world.db.psql("SELECT DISTINCT tenant_id FROM idempotency_records");
    assert_eq!(owners, "00000000-0000-0000-0000-000000000000");
}

#[tokio::test]
async fn a_claim_is_good_until_its_lease_runs_out_and_is_taken_over_under_the_same_turn() {
    let world = World::new().await;
    let once = once(world.tenant.id, "k", 1);
    let first = claim(&world, &once).await;
    assert_eq!(world.store.claim_once(&once, LEASE).await.unwrap(), Found::UnderWay);
    assert!(world.store.renew_claim(&first, LEASE).await.unwrap());
    lapse(&world);
    let second = claim(&world, &once).await;
    assert_eq!(second.turn_id(), first.turn_id(), "so that it is charged once");
    assert!(!world.store.renew_claim(&first, LEASE).await.unwrap());
    // What the slow one gives up is not its own any more, and what it finished counts.
    let give_up = KeptCall { ticket: first.clone(), reply: None };
    world.store.keep_claim(&give_up).await.unwrap();
    assert_eq!(world.store.claim_once(&once, LEASE).await.unwrap(), Found::UnderWay);
    let done = KeptCall { ticket: first, reply: Some(reply("first")) };
    world.store.keep_claim(&done).await.unwrap();
    let late = KeptCall { ticket: second, reply: Some(reply("second")) };
    world.store.keep_claim(&late).await.unwrap();
    assert_eq!(find(&world, &once).await, Found::Kept(reply("first")));
}

#[tokio::test]
async fn a_claim_that_is_let_go_leaves_the_key_free_for_another_turn() {
    let world = World::new().await;
    let once = once(world.tenant.id, "k", 1);
    let first = claim(&world, &once).await;
    let turn = first.turn_id();
    world.store.keep_claim(&KeptCall { ticket: first, reply: None }).await.unwrap();
    assert_ne!(claim(&world, &once).await.turn_id(), turn);
}

#[tokio::test]
async fn a_call_is_kept_in_the_transaction_that_settles_it_and_a_taken_over_one_is_charged_once() {
    let world = World::new().await;
    let once = once(world.tenant.id, "k", 1);
    let first = claim(&world, &once).await;
    lapse(&world);
    let second = claim(&world, &once).await;
    let block = BlockId::new();
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let (amount, lease) = (Micros::new(1_000), Duration::from_secs(30));
    assert!(tx.reserve_block(block, world.node, amount, lease).await.unwrap());
    tx.commit().await.unwrap();
    let line = |ticket: &Ticket, answer: &str| {
        let mut line = world.usage(ticket.turn_id(), world.tenant.channel_id, 300);
        line.kept = Some(KeptCall { ticket: ticket.clone(), reply: Some(reply(answer)) });
        line
    };
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.settle_calls(block, &[line(&first, "lost")]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(find(&world, &once).await, Found::UnderWay, "rolled back together");
    for (ticket, answer) in [(&second, "second"), (&first, "first")] {
        let mut tx = world.store.begin(world.tenant.id).await.unwrap();
        tx.settle_calls(block, &[line(ticket, answer)]).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(find(&world, &once).await, Found::Kept(reply("second")));
    assert_eq!(world.number("SELECT sum(charge) FROM usage_events"), 300);
    world.assert_sound().await;
}
