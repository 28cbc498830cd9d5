//! The platform on several machines' worth of engines, as an operator would run it: two nodes for
//! clients, two for work, a primary with a synchronous standby, and a Redis Cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qudao_testkit::{TestRedisCluster, TestReplicas};
use tokio::task::JoinSet;

use crate::{
    person::{Doors, Person},
    platform::{Platform, SLOW, Wanted},
};

async fn node(role: &'static str, replicas: &TestReplicas, redis: &str) -> Platform {
    let environment = vec![
        ("DATABASE_URL", replicas.url().to_owned()),
        ("REDIS_URL", redis.to_owned()),
        ("QUDAO__DEMO__MODEL", "slow".to_owned()),
        ("QUDAO__DATABASE__MAX_CONNECTIONS", "8".to_owned()),
    ];
    let (settings, words) = (SLOW.to_owned(), vec!["--role", role]);
    Platform::start_with(Wanted { settings, environment, words, ..Wanted::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_go_on_talking_while_the_standby_becomes_the_primary_and_a_redis_master_dies() {
    let (replicas, mut redis) = tokio::join!(TestReplicas::start(), TestRedisCluster::start());
    let mut nodes = Vec::new();
    for role in ["api", "api", "worker", "worker"] {
        nodes.push(node(role, &replicas, &redis.url()).await);
    }
    let doors: Doors = Arc::default();
    doors.lock().unwrap().extend(nodes[..2].iter().map(|node| node.told("base_url")));
    let enough = Arc::new(AtomicBool::new(false));
    let mut people = JoinSet::new();
    for number in 0..4 {
        let mut person = Person::arrive(&nodes[number % 2], &doors).await;
        let enough = Arc::clone(&enough);
        people.spawn(async move {
            let (mut asked, mut heard) = (Vec::new(), Vec::new());
            while !enough.load(Ordering::Relaxed) {
                let text = format!("{number} says {} one two three four", asked.len());
                heard.extend(person.talk(&format!("m{}", asked.len()), &text).await);
                asked.push(text);
            }
            assert_eq!(heard, asked);
            person.previews
        });
    }
    let pause = || tokio::time::sleep(Duration::from_secs(2));
    pause().await;
    replicas.kill_primary();
    tokio::time::sleep(Duration::from_millis(500)).await;
    replicas.promote();
    pause().await;
    redis.kill(0);
    pause().await;
    enough.store(true, Ordering::Relaxed);
    let previews = people.join_all().await;
    assert!(previews.iter().all(|previews| 0 < *previews), "{previews:?}");
    assert_eq!(replicas.psql("SELECT count(*) FROM inbox WHERE state <> 'answered'"), "0");
    nodes[0].assert_books_balance();
}
