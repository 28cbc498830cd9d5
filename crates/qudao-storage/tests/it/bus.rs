use std::time::{Duration, Instant};

use qudao_domain::ConversationId;
use qudao_storage::{Bus, BusEvent, Topic};
use qudao_testkit::TestRedis;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// A bus whose Redis has answered: the first connection may take longer than a publication waits.
async fn connected(redis: &TestRedis) -> Bus {
    let bus = Bus::connect(redis.url()).unwrap();
    let answers = async {
        while !bus.ping().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, answers).await.expect("Redis answers");
    bus
}

#[tokio::test]
async fn a_message_reaches_every_subscriber_of_its_topic_and_no_other() {
    let redis = TestRedis::new().await;
    let bus = connected(&redis).await;
    let (mine, other) = (ConversationId::new(), ConversationId::new());
    let mut watchers = [
        bus.subscribe(&Topic::Preview(mine)),
        bus.subscribe(&Topic::Preview(mine)),
        bus.subscribe(&Topic::Preview(other)),
    ];
    for watcher in &mut watchers {
        assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
    }
    bus.publish(&Topic::Preview(mine), b"one".to_vec()).await;
    bus.publish(&Topic::Preview(other), b"two".to_vec()).await;
    for (watcher, expected) in watchers.iter_mut().zip([b"one", b"one", b"two"]) {
        let event = timeout(SOON, watcher.next()).await.unwrap();
        assert_eq!(event, BusEvent::Message(expected.to_vec()));
    }
    assert_eq!(bus.dropped(), 0);
    assert!(bus.ping().await);
}

#[tokio::test]
async fn without_redis_publications_are_dropped_and_counted_and_nobody_waits_long() {
    let redis = TestRedis::new().await;
    let bus = connected(&redis).await;
    bus.publish(&Topic::WakeTurns, Vec::new()).await;
    assert_eq!(bus.dropped(), 0);
    redis.stop().await;
    let begun = Instant::now();
    for _ in 0..100 {
        bus.publish(&Topic::WakeTurns, Vec::new()).await;
    }
    assert_eq!(bus.dropped(), 100);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!bus.ping().await);
}

#[tokio::test]
async fn a_node_starts_without_redis() {
    let bus = Bus::connect("redis+unix:///nonexistent/redis.sock").unwrap();
    bus.publish(&Topic::WakeOutbox, Vec::new()).await;
    assert_eq!(bus.dropped(), 1);
    let mut watcher = bus.subscribe(&Topic::WakeOutbox);
    assert!(timeout(Duration::from_millis(300), watcher.next()).await.is_err());
}

#[tokio::test]
async fn two_hundred_subscriptions_share_one_connection() {
    let redis = TestRedis::new().await;
    let bus = connected(&redis).await;
    let topics: Vec<_> = (0..100).map(|_| Topic::Preview(ConversationId::new())).collect();
    let mut watchers: Vec<_> = (0..200).map(|at| bus.subscribe(&topics[at % 100])).collect();
    for watcher in &mut watchers {
        assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
    }
    for (at, topic) in topics.iter().enumerate() {
        bus.publish(topic, at.to_string().into_bytes()).await;
    }
    for (at, watcher) in watchers.iter_mut().enumerate() {
        let event = timeout(SOON, watcher.next()).await.unwrap();
        assert_eq!(event, BusEvent::Message((at % 100).to_string().into_bytes()));
    }
    let mut probe = Probe::connect(redis.url()).await;
    assert_eq!(probe.listeners().await, 1);
    assert_eq!(probe.topics().await, 100);

    // The first half of the watchers goes: every topic has one left. Then the rest.
    watchers.drain(..100);
    bus.publish(&topics[7], b"still".to_vec()).await;
    let event = timeout(SOON, watchers[7].next()).await.unwrap();
    assert_eq!(event, BusEvent::Message(b"still".to_vec()));
    assert_eq!(probe.topics().await, 100);
    drop(watchers);
    let mut later = bus.subscribe(&topics[7]);
    assert_eq!(timeout(SOON, later.next()).await.unwrap(), BusEvent::Ready);
    assert_eq!(probe.topics().await, 1);
}

#[tokio::test]
async fn after_a_lost_connection_every_subscription_is_told_and_hears_again() {
    let redis = TestRedis::new().await;
    let bus = connected(&redis).await;
    let topics = [Topic::WakeTurns, Topic::Preview(ConversationId::new())];
    let mut watchers = topics.map(|topic| bus.subscribe(&topic));
    for watcher in &mut watchers {
        assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
    }
    Probe::connect(redis.url()).await.cut_listeners().await;
    for (topic, watcher) in topics.iter().zip(&mut watchers) {
        assert_eq!(timeout(SOON, watcher.next()).await.unwrap(), BusEvent::Ready);
        bus.publish(topic, b"again".to_vec()).await;
        let event = timeout(SOON, watcher.next()).await.unwrap();
        assert_eq!(event, BusEvent::Message(b"again".to_vec()));
    }
}

/// Asks Redis itself.
struct Probe(redis::aio::MultiplexedConnection);

impl Probe {
    async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    /// Connections that listen.
    async fn listeners(&mut self) -> usize {
        let mut list = redis::cmd("CLIENT");
        let list: String =
            list.arg(&["LIST", "TYPE", "pubsub"]).query_async(&mut self.0).await.unwrap();
        list.lines().count()
    }

    async fn topics(&mut self) -> usize {
        let mut names = redis::cmd("PUBSUB");
        let names: Vec<String> = names.arg("CHANNELS").query_async(&mut self.0).await.unwrap();
        names.len()
    }

    async fn cut_listeners(&mut self) {
        let mut kill = redis::cmd("CLIENT");
        let killed: i64 =
            kill.arg(&["KILL", "TYPE", "pubsub"]).query_async(&mut self.0).await.unwrap();
        assert_eq!(killed, 1);
    }
}

#[test]
fn what_is_not_a_redis_url_is_refused() {
    assert!(Bus::connect("http://localhost").is_err());
}

#[test]
fn topics_of_a_conversation_share_a_hash_tag() {
    let id = ConversationId::new();
    let tag = format!("{{{}}}", id.as_uuid());
    for topic in [Topic::Preview(id), Topic::Control(id)] {
        assert!(topic.name().contains(&tag), "{}", topic.name());
    }
}
