use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use qudao_domain::TenantId;
use qudao_storage::{Bucket, Bus, Counted, Limiter, LimiterSettings, Owner, Rate, Verdict};
use qudao_testkit::{TestRedis, TestRedisCluster};
use tokio::time::timeout;

/// So slow that nothing flows back while a test runs.
fn slow(burst: u32) -> Rate {
    Rate::per_minute(1, burst).unwrap()
}

fn node(redis: &TestRedis) -> Limiter {
    let settings = LimiterSettings { patience: Duration::from_secs(5), ..patient() };
    Limiter::new(&Bus::connect(redis.url()).unwrap(), settings).paying_ahead()
}

fn patient() -> LimiterSettings {
    LimiterSettings::default()
}

async fn allows(limiter: &Limiter, owner: Owner, buckets: &[Bucket]) -> bool {
    matches!(limiter.take(owner, buckets).await, Verdict::Allowed { .. })
}

async fn remaining(limiter: &Limiter, owner: Owner, bucket: &Bucket) -> u32 {
    match limiter.take(owner, &[Bucket { cost: 0, ..bucket.clone() }]).await {
        Verdict::Allowed { standings, counted: Counted::Together } => standings[0].remaining,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_together_let_pass_what_one_limit_allows() {
    let redis = TestRedis::new().await;
    let nodes = [Arc::new(node(&redis)), Arc::new(node(&redis))];
    let owner = Owner::Tenant(TenantId::new());
    let rate = Rate::per_second(50, 20).unwrap();
    let begun = Instant::now();
    let passed = Arc::new(AtomicU32::new(0));
    let tasks = (0..16).map(|n| {
        let (node, passed) = (Arc::clone(&nodes[n % 2]), Arc::clone(&passed));
        tokio::spawn(async move {
            while passed.load(Ordering::Relaxed) < 100 {
                assert!(begun.elapsed() < Duration::from_secs(30), "{passed:?}");
                match node.take(owner, &[Bucket::one("key", "a", rate)]).await {
                    Verdict::Allowed { counted: Counted::Together, .. } => {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                    // An answer without Redis leaves no time to those who wait for it.
                    _ => tokio::task::yield_now().await,
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // Two limits would have let them pass in less than half of the time.
    let passed = passed.load(Ordering::Relaxed);
    let bound = 20.0 + 50.0 * begun.elapsed().as_secs_f64();
    assert!(f64::from(passed) <= bound, "{passed} passed, at most {bound} may");
}

#[tokio::test]
async fn what_one_bucket_refuses_is_taken_from_none() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let owner = Owner::Tenant(TenantId::new());
    let (wide, narrow) = (Bucket::one("tenant", "t", slow(10)), Bucket::one("key", "k", slow(2)));
    let both = [wide.clone(), narrow.clone()];
    assert!(allows(&limiter, owner, &both).await);
    assert!(allows(&limiter, owner, &both).await);
    for _ in 0..5 {
        match limiter.take(owner, &both).await {
            Verdict::Refused { kind: "key", retry_after, standings } => {
                let wait = retry_after.as_secs_f64();
                assert!((50.0..=60.0).contains(&wait), "{wait}");
                assert_eq!((standings[0].remaining, standings[1].remaining), (8, 0));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(remaining(&limiter, owner, &wide).await, 8);
}

#[tokio::test]
async fn what_is_given_back_can_be_taken_again_and_no_more_than_that() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let owner = Owner::Tenant(TenantId::new());
    let bucket = |cost| Bucket { cost, ..Bucket::one("tokens", "k", slow(1000)) };
    assert!(allows(&limiter, owner, &[bucket(900)]).await);
    assert!(!allows(&limiter, owner, &[bucket(200)]).await);
    limiter.give_back(owner, &[bucket(850)], Counted::Together).await;
    assert_eq!(remaining(&limiter, owner, &bucket(0)).await, 950);
    limiter.give_back(owner, &[bucket(1000)], Counted::Together).await;
    limiter.give_back(owner, &[bucket(1000)], Counted::Together).await;
    assert_eq!(remaining(&limiter, owner, &bucket(0)).await, 1000);
    assert!(allows(&limiter, owner, &[bucket(1000)]).await);
    assert!(!allows(&limiter, owner, &[bucket(1)]).await);
}

#[tokio::test]
async fn a_charge_that_can_never_be_allowed_is_told_from_one_that_has_to_wait() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let owner = Owner::Platform;
    let bucket = |cost| Bucket { cost, ..Bucket::one("tokens", "k", slow(1000)) };
    let verdict = limiter.take(owner, &[Bucket::one("key", "k", slow(5)), bucket(1001)]).await;
    assert_eq!(verdict, Verdict::TooDear { kind: "tokens", burst: 1000 });
    assert_eq!(remaining(&limiter, owner, &Bucket::one("key", "k", slow(5))).await, 5);
    assert!(allows(&limiter, owner, &[bucket(1000)]).await);
}

#[tokio::test]
async fn a_limit_that_was_lowered_makes_nobody_wait_longer_than_it_takes_to_refill() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let owner = Owner::Platform;
    let all = Bucket { cost: 1000, ..Bucket::one("key", "k", slow(1000)) };
    assert!(allows(&limiter, owner, &[all]).await);
    match limiter.take(owner, &[Bucket::one("key", "k", slow(2))]).await {
        Verdict::Refused { retry_after, .. } => assert!(retry_after <= Duration::from_secs(60)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_redis_each_node_keeps_to_its_part_and_comes_back_to_the_others() {
    let redis = TestRedis::new().await;
    let url = redis.url().to_owned();
    let settings = LimiterSettings { nodes: 2, patience: Duration::from_secs(5), ..patient() };
    let limiter = Limiter::new(&Bus::connect(&url).unwrap(), settings);
    let owner = Owner::Tenant(TenantId::new());
    // The first connection may take longer than Redis is waited for.
    until_counted_together(&limiter, owner, &Bucket::one("key", "first", slow(1000))).await;
    let bucket = Bucket::one("key", "k", slow(20));
    assert!(allows(&limiter, owner, std::slice::from_ref(&bucket)).await);
    redis.stop().await;

    let begun = Instant::now();
    let mut passed = 0;
    for _ in 0..100 {
        passed += u32::from(allows(&limiter, owner, std::slice::from_ref(&bucket)).await);
    }
    assert_eq!(passed, 10, "half of the limit");
    // A hundred waits for a Redis that is gone would be minutes.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    match limiter.take(owner, std::slice::from_ref(&bucket)).await {
        Verdict::Refused { standings, .. } => assert_eq!(standings[0].limit, 10),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_counts_again() {
    let redis = TestRedis::new().await;
    let bus = Bus::connect(redis.url()).unwrap();
    let limiter = Limiter::new(&bus, patient());
    let owner = Owner::Tenant(TenantId::new());
    let bucket = Bucket::one("key", "k", slow(1000));
    let mut probe = Probe::connect(redis.url()).await;
    assert!(allows(&limiter, owner, std::slice::from_ref(&bucket)).await);
    // A Redis that is stuck for longer than it is waited for.
    probe.pause().await;
    for _ in 0..5 {
        match limiter.take(owner, std::slice::from_ref(&bucket)).await {
            Verdict::Allowed { counted: Counted::Alone, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    probe.go_on().await;
    until_counted_together(&limiter, owner, &bucket).await;
    // And one that lost all its connections.
    probe.cut().await;
    until_counted_together(&limiter, owner, &bucket).await;
}

async fn until_counted_together(limiter: &Limiter, owner: Owner, bucket: &Bucket) {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        match limiter.take(owner, std::slice::from_ref(bucket)).await {
            Verdict::Allowed { counted: Counted::Together, .. } => break,
            Verdict::Allowed { .. } if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn all_keys_of_one_decision_lie_in_one_slot_and_vanish_when_they_are_full_again() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let tenant = TenantId::new();
    let fast = Rate::per_second(1000, 10).unwrap();
    let buckets = [
        Bucket::one("tenant", "t", slow(10)),
        Bucket::one("key", "k", slow(10)),
        Bucket::one("address", "2001:db8::", fast),
    ];
    assert!(allows(&limiter, Owner::Tenant(tenant), &buckets).await);
    let mut probe = Probe::connect(redis.url()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let keys = probe.keys().await;
    let tag = format!("qd:{{{}}}:rate:", tenant.as_uuid());
    assert_eq!(keys, [format!("{tag}key:k"), format!("{tag}tenant:t")]);
    for key in &keys {
        let ttl = probe.ttl(key).await;
        assert!((30_000..=60_001).contains(&ttl), "{key} lives for {ttl} ms");
    }
    assert_eq!(probe.slots(&keys).await.len(), 1);
}

#[tokio::test]
async fn one_decision_is_one_command_and_no_bucket_is_none() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let buckets: Vec<_> =
        ["a", "b", "c"].map(|id| Bucket::one("key", id, slow(31))).into_iter().collect();
    assert!(allows(&limiter, Owner::Platform, &buckets).await);
    let mut probe = Probe::connect(redis.url()).await;
    let before = probe.commands("evalsha").await;
    for _ in 0..10 {
        assert!(allows(&limiter, Owner::Platform, &buckets).await);
        assert!(allows(&limiter, Owner::Platform, &[]).await);
    }
    assert_eq!(probe.commands("evalsha").await - before, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_come_often_cost_fewer_commands_and_get_no_more() {
    let redis = TestRedis::new().await;
    let nodes = [Arc::new(node(&redis)), Arc::new(node(&redis))];
    let owner = Owner::Tenant(TenantId::new());
    let buckets = [Bucket::one("key", "k", slow(2000)), Bucket::one("tenant", "", slow(1500))];
    let mut probe = Probe::connect(redis.url()).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (node, buckets) = (Arc::clone(&nodes[n % 2]), buckets.clone());
            tokio::spawn(async move {
                let mut passed = 0;
                for _ in 0..300 {
                    passed += u32::from(allows(&node, owner, &buckets).await);
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += task.await.unwrap();
    }
    // The last of what is there is given out one by one, so nobody is refused while another holds it.
    assert_eq!(passed, 1500, "of 2400 calls");
    // Each refusal is asked for, as is each of the last calls.
    let commands = probe.commands("evalsha").await;
    assert!(commands < 900 + 600, "{commands}");
    assert_eq!(remaining(&nodes[0], owner, &buckets[0]).await, 500);
}

/// Far more than they need would be charged for so many short bursts.
#[tokio::test]
async fn what_callers_leave_of_what_was_paid_ahead_is_there_again_for_others() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let owner = Owner::Tenant(TenantId::new());
    let tenant = Bucket::one("tenant", "", slow(1000));
    for _ in 0..5 {
        for caller in 0..20 {
            let key = Bucket::one("key", caller.to_string(), slow(900));
            for _ in 0..8 {
                assert!(allows(&limiter, owner, &[key.clone(), tenant.clone()]).await);
            }
        }
        tokio::time::sleep(Limiter::UNUSED).await;
        limiter.give_back_unused().await;
    }
    assert_eq!(remaining(&limiter, owner, &tenant).await, 1000 - 5 * 20 * 8);
    limiter.give_back_unused().await;
    assert_eq!(remaining(&limiter, owner, &tenant).await, 200, "it is given back once");
}

#[tokio::test]
async fn a_caller_is_told_what_remains_after_each_of_its_calls() {
    let redis = TestRedis::new().await;
    let limiter = node(&redis);
    let bucket = Bucket::one("key", "k", slow(1000));
    for made in 1..=200 {
        match limiter.take(Owner::Platform, std::slice::from_ref(&bucket)).await {
            Verdict::Allowed { standings, .. } => {
                // A second flows back in a minute at this rate, at the most.
                assert!((1000 - made..=1001 - made).contains(&standings[0].remaining), "{made}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whichever of its servers a node asks first.
#[tokio::test]
async fn in_a_cluster_each_tenant_is_limited_by_the_server_that_holds_its_buckets() {
    let mut cluster = TestRedisCluster::start().await;
    let url = cluster.url();
    let servers: Vec<_> = url.strip_prefix("redis-cluster://").unwrap().split(',').collect();
    let settings = || LimiterSettings { patience: Duration::from_secs(10), ..patient() };
    let node =
        |server| Limiter::new(&Bus::connect(&format!("redis://{server}")).unwrap(), settings());
    let nodes = [node(servers[0]), node(servers[1])];
    let mut counted = 0;
    for _ in 0..12 {
        let owner = Owner::Tenant(TenantId::new());
        let buckets = ["a", "b", "c"].map(|id| Bucket::one("key", id, slow(4)));
        for n in 0..6 {
            match nodes[n % 2].take(owner, &buckets).await {
                Verdict::Allowed { counted: Counted::Together, .. } => counted += 1,
                Verdict::Refused { .. } if 4 <= n => {}
                other => panic!("{n}: {other:?}"),
            }
        }
    }
    assert_eq!(counted, 12 * 4);
    // A server goes: its tenants are counted by each node alone, and the others as before.
    cluster.kill(2);
    let alone = async {
        loop {
            let bucket = [Bucket::one("key", "a", slow(4))];
            match nodes[0].take(Owner::Tenant(TenantId::new()), &bucket).await {
                Verdict::Allowed { counted: Counted::Alone, .. } => break,
                Verdict::Allowed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(30), alone).await.expect("a tenant of the server that is gone");
}

/// Asks Redis itself.
struct Probe(redis::aio::MultiplexedConnection);

impl Probe {
    async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> =
            redis::cmd("KEYS").arg("*").query_async(&mut self.0).await.unwrap();
        keys.sort();
        keys
    }

    async fn ttl(&mut self, key: &str) -> i64 {
        redis::cmd("PTTL").arg(key).query_async(&mut self.0).await.unwrap()
    }

    /// The slots by what a cluster hashes: what stands between the first braces.
    async fn slots(&mut self, keys: &[String]) -> std::collections::BTreeSet<String> {
        let tag = |key: &String| {
            let tag = key.split_once('{').unwrap().1.split_once('}').unwrap().0;
            assert!(!tag.is_empty());
            tag.to_owned()
        };
        keys.iter().map(tag).collect()
    }

    /// Scripts wait from now on. A pause of all commands could not be ended early.
    async fn pause(&mut self) {
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(60_000).arg("WRITE");
        pause.query_async::<()>(&mut self.0).await.unwrap();
    }

    async fn go_on(&mut self) {
        redis::cmd("CLIENT").arg("UNPAUSE").query_async::<()>(&mut self.0).await.unwrap();
    }

    /// Ends the connections of everybody else.
    async fn cut(&mut self) {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
        let cut: u64 = kill.query_async(&mut self.0).await.unwrap();
        assert_ne!(cut, 0);
    }

    async fn commands(&mut self, name: &str) -> u64 {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut self.0).await.unwrap();
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }
}
