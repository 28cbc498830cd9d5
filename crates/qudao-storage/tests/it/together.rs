//! Steps of several turns that share a statement: each ends as it would alone.

use qudao_domain::{Micros, TenantId};
use qudao_storage::{Accept, Claim, Commit, CommitTurn, Hold, HoldTurn, Inbound, StorageError};
use qudao_testkit::TestTenant;

use crate::{
    accept::join_all,
    world::{LEASE, MODEL, World, external, turn_of},
};

impl World {
    /// Conversations that wait for an answer, in the order of their names.
    async fn waiting(&self, conversations: usize) -> Vec<Claim> {
        for n in 0..conversations {
            self.say(&format!("peer {n:03}"), &format!("m{n}")).await;
        }
        let mut claims = self.claim().await;
        claims.sort_by_key(|claim| claim.conversation_id);
        assert_eq!(claims.len(), conversations);
        claims
    }

    fn holding(&self, claim: &Claim, amount: i64) -> (TenantId, HoldTurn) {
        let hold = HoldTurn {
            conversation_id: claim.conversation_id,
            epoch: claim.epoch,
            turn_id: turn_of(claim),
            amount: Micros::new(amount),
            currency: self.tenant.currency,
            model: MODEL.to_owned(),
        };
        (claim.tenant_id, hold)
    }

    fn replying(&self, claim: &Claim, charge: i64) -> (TenantId, CommitTurn) {
        (claim.tenant_id, self.reply(claim, charge))
    }

    fn to(&self, tenant: &TestTenant, peer: &str, id: &str) -> (TenantId, Inbound) {
        (tenant.id, Inbound { channel_id: tenant.channel_id, ..self.inbound(peer, id) })
    }
}

fn held(amount: i64) -> Hold {
    Hold::Held { amount: Micros::new(amount) }
}

fn stale(claim: &Claim) -> Claim {
    Claim { epoch: claim.epoch - 1, ..*claim }
}

#[tokio::test]
async fn turns_are_held_and_committed_together_and_each_for_itself() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let claims = world.waiting(5).await;
    // The second is another node's by now; the third was held by an earlier attempt.
    world.hold(&claims[2], 500).await;
    let mut holds: Vec<_> = claims.iter().map(|claim| world.holding(claim, 1000)).collect();
    holds[1] = world.holding(&stale(&claims[1]), 1000);
    let held_together = world.store.hold_turns(&holds).await.unwrap();
    let found = Hold::Found { amount: Micros::new(1000) };
    assert_eq!(held_together, [held(1000), Hold::Fenced, found, held(1000), held(1000)]);
    assert_eq!(world.wallet().await, (10_000, 4000));
    assert_eq!(world.number("SELECT count(*) FROM model_attempts"), 5);

    world.hold(&claims[1], 1000).await;
    let mut commits: Vec<_> = claims.iter().map(|claim| world.replying(claim, 700)).collect();
    commits[3] = world.replying(&stale(&claims[3]), 700);
    let committed = world.store.commit_turns(&commits).await.unwrap();
    for (at, outcome) in committed.iter().enumerate() {
        assert_eq!(matches!(outcome, Commit::Done { out_seq: 1, .. }), at != 3, "{outcome:?}");
    }
    // Again: all of them are over but one.
    commits[3] = world.replying(&claims[3], 700);
    let again = world.store.commit_turns(&commits).await.unwrap();
    for (at, outcome) in again.iter().enumerate() {
        assert_eq!(*outcome == Commit::Fenced, at != 3, "{outcome:?}");
    }
    assert_eq!(world.wallet().await, (10_000 - 5 * 700, 0));
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 5);
    assert_eq!(world.number("SELECT count(*) FROM inbox WHERE state = 'answered'"), 5);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_wallet_that_does_not_cover_all_of_them_covers_as_many_as_it_can() {
    let world = World::with_credits(Micros::new(3700)).await;
    let claims = world.waiting(8).await;
    let holds: Vec<_> = claims.iter().map(|claim| world.holding(claim, 1000)).collect();
    let outcomes = world.store.hold_turns(&holds).await.unwrap();
    assert_eq!(outcomes, [[held(1000); 3].as_slice(), &[Hold::NoFunds; 5]].concat());
    assert_eq!(world.wallet().await, (3700, 3000));
    assert_eq!(world.number("SELECT count(*) FROM model_attempts"), 3);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_charge_above_its_hold_refuses_all_who_share_the_statement() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let claims = world.waiting(3).await;
    let holds: Vec<_> = claims.iter().map(|claim| world.holding(claim, 1000)).collect();
    world.store.hold_turns(&holds).await.unwrap();
    let charges = [700, 1001, 700];
    let commits: Vec<_> =
        claims.iter().zip(charges).map(|(claim, charge)| world.replying(claim, charge)).collect();
    let refused = world.store.commit_turns(&commits).await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::Refused { constraint } if constraint == "holds_settled_within_amount"),
        "{refused:?}"
    );
    assert_eq!(world.wallet().await, (10_000, 3000));
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 0);
    assert!(matches!(world.commit(&claims[0], 700).await, Commit::Done { .. }));
    world.assert_sound().await;
}

#[tokio::test]
async fn tenants_share_a_statement_and_nothing_else() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let rival = world.other_tenant().await;
    let before = world.number(&format!(
        "SELECT posted - held FROM wallets WHERE tenant_id = '{}'",
        rival.id.as_uuid()
    ));
    world.say("peer", "m1").await;
    world.say_to(&rival, "peer", "m1").await;
    let mut claims = world.claim().await;
    claims.sort_by_key(|claim| claim.tenant_id != world.tenant.id);
    let [ours, theirs] = claims[..] else { panic!("{claims:?}") };
    // A turn of the rival in our name is no turn at all.
    let mixed = Claim { tenant_id: world.tenant.id, ..theirs };
    let holds: Vec<_> =
        [ours, mixed, theirs].iter().map(|claim| world.holding(claim, 1000)).collect();
    let outcomes = world.store.hold_turns(&holds).await.unwrap();
    assert_eq!(outcomes, [held(1000), Hold::Fenced, held(1000)]);
    let contexts = world.store.turn_contexts(&[theirs, ours], 8).await.unwrap();
    assert_eq!(contexts[0].channel_id, rival.channel_id);
    assert_eq!(contexts[1].channel_id, world.tenant.channel_id);
    assert!(world.store.turn_contexts(&[ours, mixed], 8).await.is_err());

    let mut their_reply = world.replying(&theirs, 300);
    their_reply.1.usage.channel_id = rival.channel_id;
    their_reply.1.decision.route_id = rival.route_id;
    let mut mixed_reply = their_reply.clone();
    mixed_reply.0 = world.tenant.id;
    let commits = [mixed_reply, their_reply, world.replying(&ours, 700)];
    let outcomes = world.store.commit_turns(&commits).await.unwrap();
    assert_eq!(outcomes[0], Commit::Fenced);
    assert!(outcomes[1..].iter().all(|outcome| matches!(outcome, Commit::Done { .. })));
    assert_eq!(world.wallet().await, (9300, 0));
    // A decision is where its reply is.
    let decided = "SELECT count(*) FROM route_decisions d JOIN routes r USING (tenant_id, route_id) \
                   JOIN outbox o USING (tenant_id, turn_id)";
    assert_eq!(world.number(decided), 2);
    assert_eq!(world.number("SELECT count(*) FROM route_decisions"), 2);
    let after = world.number(&format!(
        "SELECT posted - held FROM wallets WHERE tenant_id = '{}'",
        rival.id.as_uuid()
    ));
    assert_eq!(before - after, 300);
    world.assert_sound().await;
}

#[tokio::test]
async fn known_new_repeated_and_refused_messages_share_a_statement() {
    let world = World::new().await;
    let rival = world.other_tenant().await;
    world.say("ann", "a1").await;
    world.db.psql(&format!(
        "UPDATE channels SET open = false WHERE tenant_id = '{}'",
        rival.id.as_uuid()
    ));
    let ours = |peer: &str, id: &str| world.to(&world.tenant, peer, id);
    let messages = [
        ours("ann", "a3"),
        ours("bob", "b1"),
        ours("ann", "a1"),
        ours("ann", "a2"),
        world.to(&rival, "ann", "a1"),
        ours("ann", "a3"),
        ours("bob", "b2"),
    ];
    let answers = world.store.accept_together(&messages).await.unwrap();
    let seq = |answer: &Accept| match answer {
        Accept::New { seq, .. } => *seq,
        Accept::Duplicate { seq, .. } => -*seq,
        Accept::NoFunds | Accept::ChannelClosed => 0,
    };
    assert_eq!(answers.iter().map(seq).collect::<Vec<_>>(), [2, 1, -1, 3, 0, -2, 2]);
    assert_eq!(answers[4], Accept::ChannelClosed);
    assert_eq!(world.number("SELECT last_seq FROM conversations WHERE peer = 'ann'"), 3);
    assert_eq!(world.number("SELECT last_seq FROM conversations WHERE peer = 'bob'"), 2);
    assert_eq!(world.number("SELECT count(*) FROM inbox"), 5);
    world.assert_sound().await;
}

/// Nodes that take steps of the same conversations at the same moment wait for each other in one
/// direction: no statement is broken off.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_meet_do_not_block_each_other() {
    let world = World::new().await;
    for round in 0..6 {
        let peers: Vec<_> = (0..24).map(|n| format!("peer {n:03}")).collect();
        for peer in &peers {
            world.say(peer, &format!("{peer} {round}")).await;
        }
        let claims = world.store.claim_conversations(world.node, 64, LEASE).await.unwrap();
        assert_eq!(claims.len(), 24);
        let halves = |step: usize| {
            // Two batches whose conversations lie between each other's, in opposite orders.
            let mut half: Vec<_> = claims.iter().skip(step).step_by(2).copied().collect();
            if step == 1 {
                half.reverse();
            }
            half
        };
        let messages = |word: &str| -> Vec<_> {
            let message = |peer: &String| {
                let id = external(&format!("{peer} {round} {word}"));
                (world.tenant.id, Inbound { external_id: id, ..world.inbound(peer, "m") })
            };
            peers.iter().rev().map(message).collect()
        };
        let work = (0..2).map(async |step| {
            let half = halves(step);
            let holds: Vec<_> = half.iter().map(|claim| world.holding(claim, 1000)).collect();
            let held_all = world.store.hold_turns(&holds).await.unwrap();
            assert_eq!(held_all, vec![held(1000); half.len()]);
            world.store.accept_together(&messages(&format!("w{step}"))).await.unwrap();
            let commits: Vec<_> = half.iter().map(|claim| world.replying(claim, 10)).collect();
            let done = world.store.commit_turns(&commits).await.unwrap();
            assert!(done.iter().all(|outcome| matches!(outcome, Commit::Done { .. })), "{done:?}");
        });
        join_all(work).await;
        // What came meanwhile is answered too, so that the next round begins anew.
        for claim in world.claim().await {
            world.hold(&claim, 1000).await;
            world.commit(&claim, 10).await;
        }
    }
    world.assert_sound().await;
}
