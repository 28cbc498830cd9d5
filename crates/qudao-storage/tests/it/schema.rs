use qudao_storage::{StorageError, Store};
use qudao_testkit::TestDb;
use sqlx::{Connection as _, Executor as _, PgConnection, error::DatabaseError};

use crate::{accept::join_all, world::World};

#[tokio::test]
async fn the_ledger_is_only_ever_added_to_and_every_addition_sums_to_zero() {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    let mut owner = PgConnection::connect(world.db.url()).await.unwrap();
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.record_audit(&crate::audit::act("channel.update", 1)).await.unwrap();
    tx.commit().await.unwrap();
    world.db.psql(
        "INSERT INTO credit_reversals (tenant_id, credit_txn, txn_id, taken) \
         SELECT tenant_id, txn_id, gen_random_uuid(), 0 FROM credits",
    );
    let tables = [
        "ledger_entries",
        "usage_events",
        "credits",
        "credit_reversals",
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
