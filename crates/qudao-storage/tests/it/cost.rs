//! Shapes that decide speed.

use std::time::{Duration, Instant};

use crate::world::World;

impl World {
    /// Until what they read is in the statistics: the server notes it before a connection is gone.
    async fn end_connections(&self) {
        self.store.close().await;
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let begun = Instant::now();
        while self.number(others) != 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "a connection does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

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

/// Plans are kept as long as a connection: what was right for one row must be right for 20,000.
#[tokio::test]
async fn a_claim_that_was_planned_on_a_small_table_reads_what_it_claims() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    let claim = "SELECT count(*) || ' claimed' FROM \
                 app.claim_turns(gen_random_uuid(), 16, 30000, NULL, '{}', '{}', 56);";
    let entries = "SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(indexrelid)), 0) || ' read' \
                   FROM pg_index WHERE indrelid = 'conversations'::regclass;";
    let read = world.db.psql(&format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
         {claim} \
         INSERT INTO conversations \
             (tenant_id, conversation_id, channel_id, contact_id, peer, last_seq, ready_at) \
         SELECT tenant_id, gen_random_uuid(), channel_id, contact_id, 'flood ' || n, 1, \
             CASE WHEN n % 2 = 0 THEN now() - interval '1 hour' END \
         FROM conversations, generate_series(1, 20000) n; \
         {entries} {claim} {entries} ROLLBACK"
    ));
    assert!(read.contains("16 claimed"), "{read}");
    let entries: Vec<u64> =
        read.lines().filter_map(|line| line.strip_suffix(" read")?.parse().ok()).collect();
    let [before, after] = entries[..] else { panic!("{read}") };
    assert!(after - before < 200, "{read}");
}

/// The same of a commit and of the end of a delivery, which change rows that they find by keys.
#[tokio::test]
async fn turns_that_were_planned_on_small_tables_read_what_they_change() {
    let world = World::new().await;
    world.chat("bob", "b1").await;
    for n in 0..4 {
        world.chat("ann", &format!("a{n}")).await;
        world.deliver().await;
    }
    world.db.psql(
        "INSERT INTO holds \
             (tenant_id, hold_id, kind, currency, amount, turn_id, conversation_id) \
         SELECT c.tenant_id, gen_random_uuid(), 'turn', t.currency, 0, gen_random_uuid(), \
             c.conversation_id \
         FROM conversations c JOIN tenants t USING (tenant_id), generate_series(1, 20000) n \
         WHERE c.peer = 'bob'; \
         INSERT INTO outbox (tenant_id, outbox_id, conversation_id, out_seq, to_seq, turn_id, kind, \
             body, state) \
         SELECT tenant_id, gen_random_uuid(), conversation_id, 100 + n, 1, gen_random_uuid(), \
             'reply', '{\"text\": \"x\"}', 'delivered' \
         FROM conversations, generate_series(1, 20000) n WHERE peer = 'bob'",
    );
    for n in 4..8 {
        world.chat("ann", &format!("a{n}")).await;
        world.deliver().await;
    }
    world.end_connections().await;
    let read = world.number(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname IN ('holds', 'outbox')",
    );
    assert!(0 < read && read < 10_000, "{read} entries");
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
    world.end_connections().await;
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

/// A plan that was made while the tenant had one channel, one assistant and one route finds them by
/// their keys, and not among all that it has by now. Without statistics all indexes look alike; they
/// come by themselves before there are many rows.
#[tokio::test]
async fn what_a_turn_needs_is_found_by_keys() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    world.db.psql("ANALYZE channels, assistants, routes");
    let claim = world.claim_one().await;
    let tenant = world.tenant.id.as_uuid();
    let conversation = claim.conversation_id.as_uuid();
    let reads = format!(
        "PERFORM count(*) FROM app.turn_contexts(ARRAY['{tenant}'::uuid], \
             ARRAY['{conversation}'::uuid], ARRAY['{conversation}'::uuid], '{{1}}', '{{1}}', 40);"
    )
    .repeat(8);
    let as_app = format!("SET LOCAL ROLE qudao_app; DO $$ BEGIN {reads} END $$; RESET ROLE;");
    let entries = "SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(indexrelid)), 0) || ' read' \
                   FROM pg_index \
                   WHERE indrelid IN ('channels'::regclass, 'assistants'::regclass);";
    let read = world.db.psql(&format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
         {as_app} \
         INSERT INTO channels (tenant_id, channel_id, name, kind, public_key, assistant_id, locale) \
         SELECT tenant_id, gen_random_uuid(), name, kind, gen_random_uuid()::text, assistant_id, \
             locale FROM channels, generate_series(1, 1000) WHERE assistant_id IS NOT NULL; \
         {entries} {as_app} {entries} ROLLBACK"
    ));
    let entries: Vec<u64> =
        read.lines().filter_map(|line| line.strip_suffix(" read")?.parse().ok()).collect();
    let [before, after] = entries[..] else { panic!("{read}") };
    assert!(after - before <= 16, "{read}");
}

/// The planner puts the function in its place: called, it would run a statement for each row.
#[tokio::test]
async fn times_leave_the_database_as_they_are_and_without_a_call() {
    let world = World::new().await;
    let plan =
        world.db.psql("EXPLAIN (VERBOSE, COSTS OFF) SELECT app.micros(created_at) FROM tenants");
    assert!(!plan.contains("app.micros"), "{plan}");
    let wrong = world.number(
        "SELECT count(*) FROM generate_series(0, 9999) n, LATERAL ( \
             SELECT timestamptz '1959-12-31 23:59:59.999999Z' \
                 + n * interval '2 days 07:06:05.432107' AS at OFFSET 0) t \
         WHERE app.micros(t.at) <> (extract(epoch FROM t.at) * 1000000)::bigint",
    );
    assert_eq!(wrong, 0);
}
