//! What waits, as the metrics see it.

use std::time::Duration;

use qudao_domain::{BlockId, Micros};

use crate::world::{LEASE, World};

impl World {
    fn depth(&self, what: &str) -> i64 {
        self.number(&format!(
            "SELECT coalesce(amount, 0)::bigint FROM app.queue_depths(1000) WHERE what = '{what}'"
        ))
    }

    fn depths<const N: usize>(&self, names: [&str; N]) -> [i64; N] {
        names.map(|name| self.depth(name))
    }

    /// So many seconds, and those that a busy machine took since.
    fn assert_age(&self, what: &str, seconds: i64) {
        let age = self.depth(what);
        assert!((seconds..=seconds + 5).contains(&age), "{what}: {age}");
    }

    async fn set_aside(&self, amount: i64, lease: Duration) {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let amount = Micros::new(amount);
        assert!(tx.reserve_block(BlockId::new(), self.node, amount, lease).await.unwrap());
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn each_state_of_a_conversation_is_counted_as_what_it_is() {
    let world = World::new().await;
    let states = [
        "conversations_ready",
        "conversations_postponed",
        "conversations_leased",
        "conversations_lapsed",
        "messages_unanswered",
    ];
    assert_eq!(world.depths(states), [0; 5]);
    world.say("ann", "m1").await;
    world.say("ann", "m2").await;
    world.say("bob", "m3").await;
    assert_eq!(world.depths(states), [2, 0, 0, 0, 3]);
    let claims = world.claim().await;
    assert_eq!(world.depths(states), [0, 0, 2, 0, 3]);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let first = &claims[0];
    assert!(tx.release_turn(first.conversation_id, first.epoch, LEASE).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(world.depths(states), [0, 1, 1, 0, 3]);
    world.db.psql("UPDATE conversations SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL");
    assert_eq!(world.depths(states), [0, 1, 0, 1, 3]);
    assert_eq!(world.depth("conversations_ready_age"), 0);
    world
        .db
        .psql("UPDATE conversations SET lease_until = NULL, ready_at = now() - interval '90 s'");
    world.assert_age("conversations_ready_age", 90);
}

#[tokio::test]
async fn holds_blocks_and_what_is_not_delivered_are_counted_with_their_amounts_and_ages() {
    let world = World::new().await;
    let money = ["holds_open", "holds_micros", "blocks_open", "blocks_micros", "blocks_lapsed"];
    let outbox = ["outbox_due", "outbox_postponed", "outbox_sending"];
    assert_eq!(world.depths(money), [0; 5]);
    world.say("ann", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    world.set_aside(500, LEASE).await;
    world.set_aside(70, Duration::ZERO).await;
    assert_eq!(world.depths(money), [1, 1000, 2, 570, 1]);
    world.db.psql("UPDATE holds SET created_at = now() - interval '60 s' WHERE kind = 'turn'");
    world.assert_age("holds_age", 60);

    world.commit(&claim, 700).await;
    assert_eq!(world.depths(["holds_open", "holds_age"]), [0, 0]);
    assert_eq!(world.depths(outbox), [1, 0, 0]);
    world.db.psql("UPDATE outbox SET created_at = now() - interval '30 s'");
    world.assert_age("outbox_age", 30);
    let sending = world.store.claim_outbox(world.node, 1, LEASE).await.unwrap().remove(0);
    assert_eq!(world.depths(outbox), [0, 0, 1]);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.retry_outbox(sending.outbox_id, sending.epoch, LEASE, "busy").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.depths(outbox), [0, 1, 0]);
}

#[tokio::test]
async fn a_node_may_read_the_depths_and_reads_no_table_for_them() {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    world.db.psql(
        "INSERT INTO conversations (tenant_id, conversation_id, channel_id, contact_id, peer) \
         SELECT tenant_id, gen_random_uuid(), channel_id, contact_id, 'idle ' || n \
         FROM conversations, generate_series(1, 5000) n; ANALYZE",
    );
    world.store.watch().await.unwrap();
    let scans = world.number(
        "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL ROLE qudao_claim; \
         SELECT count(*) FROM app.queue_depths(1000) HAVING count(*) < 0; RESET ROLE; \
         SELECT sum(seq_scan) FROM pg_stat_xact_user_tables \
         WHERE relname IN ('conversations', 'outbox', 'holds', 'inbox'); ROLLBACK",
    );
    assert_eq!(scans, 0);
    let bounded =
        "SELECT amount::bigint FROM app.queue_depths(1) WHERE what = 'conversations_ready'";
    world.say("bob", "m2").await;
    world.say("eve", "m3").await;
    assert_eq!(world.number(bounded), 1, "counting ends at the bound");
}
