use std::{future::Future, task::Poll, time::Duration};

use qudao_domain::TenantId;
use qudao_storage::{Accept, Page, StorageError, Store, StoreSettings};
use qudao_testkit::{TestDb, connect};
use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgPoolOptions};

use crate::world::World;

/// Polls a future so many times, as its wakers ask for it, and drops it: what a client does that
/// hangs up.
async fn poll_and_drop<F: Future>(future: F, polls: usize) {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        left -= 1;
        let finished = future.as_mut().poll(context).is_ready();
        if finished || left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn visible_rows(url: &str) -> i64 {
    let mut witness = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM probe").fetch_one(&mut witness).await.unwrap()
}

/// The defect that `Store::begin` is there for. When this test fails, sqlx has mended it.
#[tokio::test]
async fn a_begin_that_is_dropped_on_the_bare_pool_loses_acknowledged_writes() {
    let db = TestDb::empty().await;
    let mut lost = 0;
    // How many polls it takes to have sent BEGIN and not read the answer depends on the machine.
    for polls in (1..6).cycle().take(30) {
        db.psql("DROP TABLE IF EXISTS probe; CREATE TABLE probe (i int)");
        let pool = PgPoolOptions::new().max_connections(1).connect(db.url()).await.unwrap();
        poll_and_drop(pool.begin(), polls).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let acknowledged = pool.execute("INSERT INTO probe VALUES (1)").await.is_ok();
        if acknowledged && visible_rows(db.url()).await == 0 {
            lost += 1;
        }
        // The loser is an open transaction that would make the next DROP wait.
        pool.close().await;
        if 0 < lost {
            break;
        }
    }
    assert!(0 < lost, "sqlx no longer loses writes: Store::begin may become simpler");
}

#[tokio::test]
async fn a_begin_that_is_dropped_loses_nothing() {
    let world = World::new().await;
    let settings = StoreSettings { max_connections: 1, ..StoreSettings::new(world.db.url()) };
    let store = connect(settings).await;
    for polls in 1..8 {
        poll_and_drop(store.begin(world.tenant.id), polls).await;
        poll_and_drop(store.begin_platform(), polls).await;
        let mut tx = store.begin(world.tenant.id).await.unwrap();
        let inbound = world.inbound("peer", &format!("message {polls}"));
        tx.accept(&inbound).await.unwrap();
        tx.commit().await.unwrap();
        let kept = world.number("SELECT count(*) FROM inbox");
        assert_eq!(kept, i64::try_from(polls).unwrap(), "after {polls} polls");
    }
}

#[tokio::test]
async fn a_connection_forgets_its_tenant_and_its_role() {
    let world = World::new().await;
    let settings = StoreSettings { max_connections: 1, ..StoreSettings::new(world.db.url()) };
    let store = connect(settings).await;
    store.begin(world.tenant.id).await.unwrap().commit().await.unwrap();
    store.begin_platform().await.unwrap().commit().await.unwrap();
    let mut tx = store.begin(TenantId::new()).await.unwrap();
    assert_eq!(tx.tenant().await.unwrap(), None);
    assert_eq!(tx.list_channels(&Page::default()).await.unwrap().items, []);
}

#[tokio::test]
async fn a_transaction_that_is_not_committed_leaves_nothing() {
    let world = World::new().await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.accept(&world.inbound("peer", "m1")).await.unwrap();
    drop(tx);
    assert_eq!(world.number("SELECT count(*) FROM inbox"), 0);
}

#[tokio::test]
async fn a_connection_that_is_lost_half_way_is_unavailable_and_the_next_one_works() {
    let world = World::new().await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.tenant().await.unwrap();
    world.db.psql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let error = tx.accept(&world.inbound("peer", "m1")).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
    assert!(error.is_transient());
    drop(tx);
    world.store.ping().await.unwrap();
}

#[tokio::test]
async fn the_answer_to_a_statement_that_was_given_up_goes_to_nobody_else() {
    let world = World::new().await;
    let settings = StoreSettings { max_connections: 1, ..StoreSettings::new(world.db.url()) };
    let store = connect(settings).await;
    let two = ["a", "b"].map(|peer| (world.tenant.id, world.inbound(peer, peer)));
    store.accept_together(&two).await.unwrap();
    for polls in 1..8 {
        let given_up = [(world.tenant.id, world.inbound("peer", &format!("given up {polls}")))];
        poll_and_drop(store.accept_together(&given_up), polls).await;
        // Two rows and not one, and those of messages that are known.
        let answers = store.accept_together(&two).await.unwrap();
        assert_eq!(answers.len(), 2, "after {polls} polls");
        for answer in answers {
            assert!(matches!(answer, Accept::Duplicate { seq: 1, .. }), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn what_the_server_refuses_costs_no_connection_and_what_it_ends_is_replaced() {
    let world = World::new().await;
    let settings = StoreSettings { max_connections: 1, ..StoreSettings::new(world.db.url()) };
    let store = connect(settings).await;
    let one = [(world.tenant.id, world.inbound("peer", "m1"))];
    let servers = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query LIKE '%accept_together%' \
                   AND pid <> pg_backend_pid()";
    store.accept_together(&one).await.unwrap();
    let before = world.db.psql(servers);

    world.db.psql("ALTER TABLE inbox ADD CONSTRAINT refused CHECK (external_id NOT LIKE '%m2')");
    let refused = [(world.tenant.id, world.inbound("peer", "m2"))];
    assert!(store.accept_together(&refused).await.is_err());
    store.accept_together(&one).await.unwrap();
    assert_eq!(world.db.psql(servers), before);

    world.db.psql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    // Nobody hears of it.
    store.accept_together(&one).await.unwrap();
    assert_ne!(world.db.psql(servers), before);
}

#[tokio::test]
async fn a_connection_to_a_server_that_takes_no_writes_is_not_lent_again() {
    let world = World::new().await;
    let all = |change: &str| {
        world.db.psql(&format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {change}', current_database()); END $$"
        ));
    };
    all("SET default_transaction_read_only = on");
    let store = connect(StoreSettings::new(world.db.url())).await;
    let one = [(world.tenant.id, world.inbound("peer", "m1"))];
    let error = store.accept_together(&one).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
    world.db.psql(
        "SET TRANSACTION READ WRITE; \
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', \
         current_database()); END $$",
    );
    let answers = store.accept_together(&one).await.unwrap();
    assert!(matches!(answers[..], [Accept::New { seq: 1, .. }]), "{answers:?}");
}

#[tokio::test]
async fn a_closed_store_has_no_connection_and_refuses_statements() {
    let world = World::new().await;
    let store = connect(StoreSettings::new(world.db.url())).await;
    let one = [(world.tenant.id, world.inbound("peer", "m1"))];
    store.accept_together(&one).await.unwrap();
    store.close().await;
    let error = store.accept_together(&one).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_is_told() {
    let world = World::new().await;
    world.say("peer", "m1").await;
    let mut settings = StoreSettings::new(world.db.url());
    settings.lock_timeout = Duration::from_millis(50);
    let hasty = connect(settings).await;

    let mut first = world.store.begin(world.tenant.id).await.unwrap();
    first.accept(&world.inbound("peer", "m2")).await.unwrap();
    let mut second = hasty.begin(world.tenant.id).await.unwrap();
    let error = second.accept(&world.inbound("peer", "m3")).await.unwrap_err();
    assert!(matches!(error, StorageError::Locked(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let settings = StoreSettings::new("postgres:///none?host=/nonexistent&user=nobody");
    let error = Store::connect(settings).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
}
