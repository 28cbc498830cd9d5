//! Shapes that decide speed: which index serves a claim, and how many statements a step takes.

use crate::world::World;

/// A join in place of the array would read the whole table at every claim.
#[tokio::test]
async fn a_claim_reads_the_ready_rows_and_not_the_table() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    let grown = "INSERT INTO conversations (tenant_id, conversation_id, channel_id, contact_id, peer) \
                 SELECT tenant_id, gen_random_uuid(), channel_id, contact_id, 'idle ' || n \
                 FROM conversations, generate_series(1, 20000) n; ANALYZE conversations";
    world.db.psql(grown);
    let plan = world.db.psql(
        "EXPLAIN UPDATE conversations c SET epoch = c.epoch + 1 WHERE c.ctid = ANY (ARRAY( \
             SELECT r.ctid FROM conversations r WHERE r.ready_at <= now() \
             ORDER BY r.ready_at LIMIT 16 FOR UPDATE SKIP LOCKED))",
    );
    assert!(plan.contains("conversations_ready") && plan.contains("Tid Scan"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
    let scans = "SELECT seq_scan FROM pg_stat_get_activity(NULL) a, pg_stat_user_tables \
                 WHERE relname = 'conversations' LIMIT 1";
    let before = world.number(scans);
    assert_eq!(world.claim().await.len(), 1);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(world.number(scans), before);
}
