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
    let claims = "PERFORM count(*) FROM \
                  app.claim_turns(gen_random_uuid(), 16, 0, NULL, '{}', '{}', 56);"
        .repeat(8);
    let read = world.db.psql(&format!(
        "BEGIN; DO $$ BEGIN {claims} END $$; \
         SELECT seq_scan || ' ' || n_tup_upd FROM pg_stat_xact_user_tables \
         WHERE relname = 'conversations'; ROLLBACK"
    ));
    assert!(read.contains("0 8"), "scans of the table and rows claimed: {read}");
}

/// From one tenant to the next, and not through what the first of them left waiting.
#[tokio::test]
async fn a_claim_does_not_read_what_a_noisy_tenant_left_waiting() {
    let world = World::new().await;
    world.flood(10_000).await;
    let full = format!("ARRAY['{}'::uuid], '{{56}}'", world.tenant.id.as_uuid());
    for (busy, claimed) in [("'{}', '{}'", 16), (full.as_str(), 1)] {
        let quiet = world.other_tenant().await;
        world.say_to(&quiet, "ann", "m1").await;
        let entries = "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index \
                       WHERE indrelid = 'conversations'::regclass";
        let read = world.db.psql(&format!(
            "BEGIN; SELECT count(*) || ' claimed' FROM \
             app.claim_turns(gen_random_uuid(), 16, 30000, NULL, {busy}, 56); \
             SELECT coalesce(({entries}), 0) || ' read'; COMMIT"
        ));
        assert!(read.contains(&format!("{claimed} claimed")), "{read}");
        let entries = read.lines().find_map(|line| line.strip_suffix(" read")?.parse::<u64>().ok());
        assert!(entries.unwrap() < 200, "{read}");
    }
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
