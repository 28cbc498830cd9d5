use qudao_storage::{StorageError, Store};
use qudao_testkit::TestDb;
use sqlx::{Connection as _, Executor as _, PgConnection, error::DatabaseError};

use crate::{accept::join_all, world::World};

async fn names(connection: &mut PgConnection, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// What has no tenant, and why that is right.
const PLATFORM_TABLES: [&str; 3] = ["_sqlx_migrations", "master_keys", "price_books"];

#[tokio::test]
async fn every_table_of_a_tenant_keeps_to_the_rules() {
    let db = TestDb::new().await;
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    let without_tenant = names(
        &mut connection,
        "SELECT c.relname::text FROM pg_class c \
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
           AND NOT EXISTS (SELECT 1 FROM pg_attribute a \
                           WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') \
         ORDER BY 1",
    )
    .await;
    assert_eq!(without_tenant, PLATFORM_TABLES);

    let unprotected = names(
        &mut connection,
        "SELECT c.relname::text FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
           AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND a.attnotnull)",
    )
    .await;
    assert_eq!(unprotected, Vec::<String>::new(), "without forced row-level security");

    let loose_policies = names(
        &mut connection,
        "SELECT c.relname || ': ' || count(p.polname) FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
         LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polcmd = '*' AND p.polpermissive \
             AND pg_get_expr(p.polqual, c.oid) = pg_get_expr(p.polwithcheck, c.oid) \
             AND pg_get_expr(p.polqual, c.oid) LIKE '(tenant_id = ( SELECT app.tenant() AS tenant))' \
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
         GROUP BY c.oid, c.relname \
         HAVING count(p.polname) <> 1 \
             OR (SELECT count(*) FROM pg_policy q WHERE q.polrelid = c.oid) <> 1",
    )
    .await;
    assert_eq!(loose_policies, Vec::<String>::new(), "with another policy than the one");

    let keyless = names(
        &mut connection,
        "SELECT c.relname::text FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
           AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
    )
    .await;
    assert_eq!(keyless, Vec::<String>::new(), "without a primary key");

    let loose_keys = names(
        &mut connection,
        "SELECT i.indexrelid::regclass::text FROM pg_index i \
         JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
         WHERE (i.indisunique OR i.indisprimary) AND i.indkey[0] <> a.attnum",
    )
    .await;
    assert_eq!(loose_keys, Vec::<String>::new(), "unique without the tenant in front");

    let loose_foreign_keys = names(
        &mut connection,
        "SELECT f.conname::text FROM pg_constraint f \
         JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attname = 'tenant_id' \
         JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attname = 'tenant_id' \
         WHERE f.contype = 'f' AND (f.conkey[1] <> a.attnum OR f.confkey[1] <> b.attnum)",
    )
    .await;
    assert_eq!(loose_foreign_keys, Vec::<String>::new(), "without the tenant");

    // A table without a tenant is whole on every shard, so what refers to it works there too. One
    // that has a tenant and is referred to from one that has none would not.
    let inward = names(
        &mut connection,
        "SELECT f.conname::text FROM pg_constraint f \
         JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attname = 'tenant_id' \
         WHERE f.contype = 'f' AND NOT EXISTS ( \
             SELECT 1 FROM pg_attribute a \
             WHERE a.attrelid = f.conrelid AND a.attname = 'tenant_id')",
    )
    .await;
    assert_eq!(inward, Vec::<String>::new(), "from the platform's tables to a tenant's");
}

#[tokio::test]
async fn functions_with_the_owners_rights_pin_their_search_path() {
    let db = TestDb::new().await;
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    let definers = "SELECT p.proname::text FROM pg_proc p \
                    WHERE p.pronamespace = 'app'::regnamespace AND p.prosecdef ORDER BY 1";
    assert_eq!(
        names(&mut connection, definers).await,
        [
            "add_signed_head",
            "add_tenant_key",
            "backlog",
            "claim_conversations",
            "claim_outbox",
            "claim_turns",
            "count_tenant_keys",
            "find_api_key",
            "find_channel_by_public_key",
            "find_door",
            "forget_once",
            "list_signed_heads",
            "list_tenant_keys_of_others",
            "list_tenants",
            "page_of_tenants",
            "queue_depths",
            "record_audit",
            "sweep",
            "tenants_with_retention",
            "unfinished_erasures",
            "unsigned_audit_heads"
        ]
    );
    let unpinned = names(
        &mut connection,
        "SELECT p.proname::text FROM pg_proc p \
         WHERE p.pronamespace = 'app'::regnamespace AND p.prosecdef \
           AND NOT 'search_path=pg_catalog, public, pg_temp' = ANY (COALESCE(p.proconfig, '{}'))",
    )
    .await;
    assert_eq!(unpinned, Vec::<String>::new());
    let open_to_all = names(
        &mut connection,
        "SELECT p.proname::text FROM pg_proc p \
         WHERE p.pronamespace = 'app'::regnamespace \
           AND (p.proacl IS NULL OR EXISTS ( \
               SELECT 1 FROM aclexplode(p.proacl) x WHERE x.grantee = 0))",
    )
    .await;
    assert_eq!(open_to_all, Vec::<String>::new());
    let strong = names(
        &mut connection,
        "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'qudao\\_%' \
           AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb)",
    )
    .await;
    assert_eq!(strong, Vec::<String>::new());
}

#[tokio::test]
async fn the_ledger_is_only_ever_added_to_and_every_addition_sums_to_zero() {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    let mut owner = PgConnection::connect(world.db.url()).await.unwrap();
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.record_audit(&crate::audit::act("channel.update", 1)).await.unwrap();
    tx.commit().await.unwrap();
    let tables = [
        "ledger_entries",
        "usage_events",
        "credits",
        "model_attempts",
        "price_books",
        "audit_events",
    ];
    for table in tables {
        for sql in [
            format!("UPDATE {table} SET tenant_id = tenant_id"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table} CASCADE"),
        ] {
            let sql = match table {
                "price_books" => sql.replace("tenant_id = tenant_id", "model = model"),
                _ => sql,
            };
            let error = owner.execute(sqlx::AssertSqlSafe(sql.clone())).await.unwrap_err();
            let code = error.as_database_error().and_then(DatabaseError::code);
            assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
        }
    }
    let lopsided = "INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency) \
                    SELECT tenant_id, gen_random_uuid(), 0, 'wallet', 5, currency FROM wallets";
    let error = owner.execute(lopsided).await.unwrap_err();
    assert!(error.to_string().contains("does not sum to zero"), "{error}");
}

#[tokio::test]
async fn many_databases_of_one_server_are_migrated_at_the_same_time() {
    let databases = join_all((0..6).map(|_| TestDb::empty())).await;
    let outcomes = join_all(databases.iter().map(|db| Store::migrate(db.url()))).await;
    for outcome in outcomes {
        assert!(8 <= outcome.unwrap().len());
    }
}

#[tokio::test]
async fn nodes_that_start_together_migrate_once() {
    let db = TestDb::empty().await;
    let outcomes = join_all((0..4).map(|_| Store::migrate(db.url()))).await;
    let applied: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().len()).collect();
    assert!(applied.contains(&migration_count(&db)), "{applied:?}");
    assert_eq!(Store::migrate(db.url()).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_index_that_was_never_finished_is_cleared_away_by_the_next_start() {
    let db = TestDb::new().await;
    db.psql(
        "CREATE INDEX half ON tenants (name); \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass",
    );
    Store::migrate(db.url()).await.unwrap();
    assert_eq!(db.psql("SELECT to_regclass('half') IS NULL").trim(), "t");
}

fn migration_count(db: &TestDb) -> usize {
    db.psql("SELECT count(*) FROM _sqlx_migrations").trim().parse().unwrap()
}

#[tokio::test]
async fn a_role_that_is_bound_by_row_level_security_may_not_migrate() {
    let db = TestDb::empty().await;
    let name = db.psql("SELECT current_database()");
    let role = format!("weak_{}", name.trim());
    db.psql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'weak'"));
    let separator = if db.url().contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}user={role}&password=weak", db.url());
    let error = Store::migrate(&url).await.unwrap_err();
    db.psql(&format!("DROP ROLE {role}"));
    assert!(matches!(error, StorageError::Forbidden { .. }), "{error:?}");
}
