//! A primary that is gone, and the standby in its place.

use std::time::Duration;

use qudao_domain::{ConversationId, routing::Routing, text::Name};
use qudao_storage::{Bus, BusEvent, NewRoute, Store, StoreSettings, Topic};
use qudao_testkit::{TestRedisCluster, TestReplicas, TestTenant, connect};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

/// Tries again for as long as nobody accepts writes.
async fn tenant(store: &Store, name: &str) -> TestTenant {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < SOON, "{error:?}");
        sleep(Duration::from_millis(50)).await;
    }
    TestTenant::builder().name(name).create(store).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_follows_the_standby_that_was_promoted_and_nothing_committed_is_lost() {
    let replicas = TestReplicas::start().await;
    Store::migrate(replicas.url()).await.unwrap();
    let store = replicas.store().await;
    tenant(&store, "Before").await;
    replicas.kill_primary();
    store.ping().await.expect_err("a standby accepts no writes");
    replicas.promote();
    tenant(&store, "After").await;
    let names = replicas.psql("SELECT name FROM tenants ORDER BY created_at");
    assert_eq!(names, "Before\nAfter");

    // The old primary comes back and believes that it still is one: it is first in the URL, and
    // it has another history.
    replicas.revive_primary();
    sleep(Duration::from_secs(2)).await;
    tenant(&store, "Later").await;
    tenant(&replicas.store().await, "Of a new node").await;
    let names = "SELECT string_agg(name, ',' ORDER BY created_at) FROM tenants";
    assert_eq!(replicas.psql_on_the_promoted(names), "Before,After,Later,Of a new node");
    store.close().await;
}

/// A cancelled wait for a standby would end in a commit that is confirmed, with a warning that
/// nobody reads: neither a statement's time limit nor the end of the primary may do that.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_standby_has_not_got_is_never_confirmed() {
    let replicas = TestReplicas::start().await;
    Store::migrate(replicas.url()).await.unwrap();
    let known = TestTenant::builder().name("Known").create(&replicas.store().await).await;
    let impatient = StoreSettings {
        statement_timeout: Duration::from_secs(1),
        ..StoreSettings::new(replicas.url())
    };
    let store = connect(impatient).await;
    replicas.part();
    let mut tx = store.begin(known.id).await.unwrap();
    let route = NewRoute {
        name: Name::parse("unseen").unwrap(),
        models: vec!["fake".to_owned()],
        routing: Routing::default(),
    };
    tx.create_route(&route).await.unwrap();
    let mut commits = tokio::spawn(tx.commit());
    timeout(Duration::from_secs(2), &mut commits).await.expect_err("it waits for the standby");
    replicas.kill_primary();
    let outcome = timeout(SOON, commits).await.expect("the connection is lost").unwrap();
    assert!(outcome.unwrap_err().is_transient());
    replicas.promote();
    assert_eq!(replicas.psql("SELECT count(*) FROM routes WHERE name = 'unseen'"), "0");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_hands_on_what_is_published_at_another_of_its_servers() {
    let mut cluster = TestRedisCluster::start().await;
    let url = cluster.url();
    let backwards: Vec<&str> = url.strip_prefix("redis-cluster://").unwrap().rsplit(',').collect();
    let near = Bus::connect(&url).unwrap();
    let far = Bus::connect(&format!("redis-cluster://{}", backwards.join(","))).unwrap();
    let topic = Topic::Preview(ConversationId::new());
    let mut watcher = far.subscribe(&topic);
    assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
    near.publish(&topic, b"one".to_vec()).await;
    assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Message(b"one".to_vec()));

    // The server that one of them publishes at goes away: it publishes at the next.
    cluster.kill(0);
    near.publish(&topic, b"two".to_vec()).await;
    assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Message(b"two".to_vec()));
    assert_eq!(near.dropped(), 0);
    assert!(near.ping().await);

    // And the one that the other listens at: it listens at another, and says so.
    cluster.kill(2);
    assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
    near.publish(&topic, b"three".to_vec()).await;
    assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Message(b"three".to_vec()));
}
