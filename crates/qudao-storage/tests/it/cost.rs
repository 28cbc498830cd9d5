//! Shapes that decide speed.

use crate::world::World;

/// A join in place of the array would read the whole table at every claim.
#[tokio::test]
async fn a_claim_reads_the_ready_rows_and_not_the_table() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    world.db.psql(
        "INSERT INTO conversations (tenant_id, conversation_id, channel_id, contact_id, peer) \
         SELECT tenant_id, gen_random_uuid(), channel_id, contact_id, 'idle ' || n \
         FROM conversations, generate_series(1, 20000) n; ANALYZE conversations",
    );
    // Often enough for the plan that is kept.
    let claims =
        "PERFORM count(*) FROM app.claim_conversations(gen_random_uuid(), 16, 0);".repeat(8);
    let read = world.db.psql(&format!(
        "BEGIN; DO $$ BEGIN {claims} END $$; \
         SELECT seq_scan || ' ' || n_tup_upd FROM pg_stat_xact_user_tables \
         WHERE relname = 'conversations'; ROLLBACK"
    ));
    assert!(read.contains("0 8"), "scans of the table and rows claimed: {read}");
}

/// An anti-join that is planned while the table is new reads all usage of the tenant each time.
#[tokio::test]
async fn a_settlement_does_not_read_the_usage_of_before() {
    let world = World::new().await;
    let block = qudao_domain::BlockId::new();
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let amount = qudao_domain::Micros::new(1_000_000);
    tx.reserve_block(block, world.node, amount, crate::world::LEASE).await.unwrap();
    tx.commit().await.unwrap();
    for _ in 0..40 {
        let lines = world.calls(&[1; 32]).await;
        world.store.settle_calls(world.tenant.id, block, &lines).await.unwrap();
    }
    world.store.close().await;
    let read = world.number(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'usage_events_no'",
    );
    let scans =
        world.number("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'usage_events'");
    let looked_up = world
        .number("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'usage_events_pk'");
    assert_eq!((read, scans), (0, 0));
    assert!(0 < looked_up, "the statistics have not come in");
}
