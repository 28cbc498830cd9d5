//! What people prove of themselves, and the letters by which they do.

use std::time::Duration;

use qudao_domain::{ChannelId, ContactId, MailId};
use qudao_storage::{
    ClaimKind, ContactClaim, Evidence, Merged, NewMail, NewMerge, Proof, Proven, Store,
};

use crate::world::World;

const LEASE: Duration = Duration::from_secs(60);

fn proof<'a>(claims: &'a [ContactClaim], evidence: Evidence) -> Proof<'a> {
    Proof { claims, also: &[], evidence, made_by: "chn", consent: "a code" }
}

async fn contact(world: &World, peer: &str) -> ContactId {
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let contact = tx.meet_contact(world.tenant.channel_id, peer).await.unwrap();
    tx.commit().await.unwrap();
    contact
}

fn owner(world: &World, kind: &str) -> String {
    world.db.psql(&format!("SELECT contact_id FROM contact_claims WHERE kind = '{kind}'"))
}

#[tokio::test]
async fn what_was_proven_goes_home_with_an_undone_merge() {
    let world = World::new().await;
    let (ann, bob) = (contact(&world, "ann").await, contact(&world, "bob").await);
    let claims = [ContactClaim::of(world.tenant.id, ClaimKind::Email, "bob@example.com")];
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let proven = tx.prove(bob, proof(&claims, Evidence::Code)).await.unwrap();
    assert_eq!(proven, Proven::Done(Vec::new()));
    let new = NewMerge {
        into: ann,
        from: bob,
        evidence: Evidence::Member,
        made_by: "m",
        consent: "on the telephone",
    };
    let Merged::Done(merge) = tx.merge_contacts(new).await.unwrap() else { panic!("they merge") };
    tx.commit().await.unwrap();
    assert_eq!(owner(&world, "email"), ann.as_uuid().to_string());
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.undo_merge(merge.id).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(owner(&world, "email"), bob.as_uuid().to_string());

    // Ann shows a code for the same address. A member took the two apart, and that stands.
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let proven = tx.prove(ann, proof(&claims, Evidence::Code)).await.unwrap();
    assert_eq!(proven, Proven::Done(Vec::new()));
    tx.commit().await.unwrap();
}

async fn prove(store: Store, world: (qudao_domain::TenantId, ChannelId), peer: String) {
    let (tenant, channel) = world;
    // In another order each time.
    let mut claims = vec![
        ContactClaim::of(tenant, ClaimKind::Customer, "c-1"),
        ContactClaim::of(tenant, ClaimKind::Email, "ann@example.com"),
        ContactClaim::of(tenant, ClaimKind::Phone, "+8613800138000"),
    ];
    claims.rotate_left(peer.len() % 3);
    let mut tx = store.begin(tenant).await.unwrap();
    let contact = tx.meet_contact(channel, &peer).await.unwrap();
    let proven = tx.prove(contact, proof(&claims, Evidence::Token)).await.unwrap();
    assert!(matches!(proven, Proven::Done(_)), "{proven:?}");
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_proves_the_same_at_once_becomes_one() {
    let world = World::new().await;
    let place = (world.tenant.id, world.tenant.channel_id);
    let peers = (0..8).map(|n| "v".repeat(n + 1));
    let proofs = peers.map(|peer| tokio::spawn(prove(world.store.clone(), place, peer)));
    for proven in proofs.collect::<Vec<_>>() {
        proven.await.unwrap();
    }
    assert_eq!(world.number("SELECT count(DISTINCT contact_id) FROM identities"), 1);
    assert_eq!(world.number("SELECT count(*) FROM contact_merges"), 7);
    assert_eq!(world.number("SELECT count(DISTINCT contact_id) FROM contact_claims"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn two_customers_are_never_made_one() {
    let world = World::new().await;
    let (ann, bob) = (contact(&world, "ann").await, contact(&world, "bob").await);
    let of = |kind, value| [ContactClaim::of(world.tenant.id, kind, value)];
    let (first, second) = (of(ClaimKind::Customer, "c-1"), of(ClaimKind::Customer, "c-2"));
    let home = of(ClaimKind::Email, "home@example.com");
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    for (who, claims) in [(ann, &first), (bob, &second), (ann, &home), (bob, &home)] {
        let proven = tx.prove(who, proof(claims, Evidence::Code)).await.unwrap();
        assert_eq!(proven, Proven::Done(Vec::new()));
    }
    let other = tx.prove(ann, proof(&second, Evidence::Token)).await.unwrap();
    assert_eq!(other, Proven::SomebodyElse);
}

#[tokio::test]
async fn a_letter_is_one_nodes_at_a_time_and_says_nothing_when_it_is_over() {
    let world = World::new().await;
    let ids = [MailId::new(), MailId::new(), MailId::new()];
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    for id in ids {
        let new = NewMail { id, kind: "code", contact_id: None, sealed: b"s", good_for: LEASE };
        tx.add_mail(new).await.unwrap();
    }
    tx.commit().await.unwrap();
    let claims = world.store.claim_mails(10, LEASE).await.unwrap();
    assert_eq!(claims.len(), 3);
    assert!(claims.iter().all(|claim| claim.attempts == 1 && !claim.expired));
    assert!(world.store.claim_mails(10, LEASE).await.unwrap().is_empty());

    // One is sent, one is to be tried again, and the node of the third is dead.
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.end_mail(ids[0], 1, None).await.unwrap());
    assert!(!tx.end_mail(ids[0], 1, None).await.unwrap());
    assert!(tx.retry_mail(ids[1], 1, Duration::ZERO, "later").await.unwrap());
    tx.commit().await.unwrap();
    world.db.psql("UPDATE mails SET ready_at = now(), good_until = now() WHERE attempts = 1");
    let again = world.store.claim_mails(10, LEASE).await.unwrap();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|claim| claim.attempts == 2 && claim.expired));
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    // The one who had it before has it no more.
    assert!(!tx.end_mail(ids[2], 1, None).await.unwrap());
    assert!(tx.end_mail(ids[2], 2, Some("550 no\0pe")).await.unwrap());
    tx.commit().await.unwrap();
    let said = "SELECT state, sealed IS NULL, error FROM mails ORDER BY mail_id";
    let over = world.db.psql(said);
    let lines: Vec<_> = over.lines().collect();
    assert_eq!([lines[0], lines[2]], ["sent|t|", "dead|t|550 nope"]);

    assert_eq!(world.store.forget_mails(10).await.unwrap(), 0);
    world
        .db
        .psql("UPDATE mails SET ended_at = now() - interval '8 days' WHERE ended_at IS NOT NULL");
    assert_eq!(world.store.forget_mails(10).await.unwrap(), 2);
}
