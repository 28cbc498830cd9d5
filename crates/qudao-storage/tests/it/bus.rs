use std::time::{Duration, Instant};

use qudao_domain::ConversationId;
use qudao_storage::{Bus, BusEvent, Topic};
use qudao_testkit::TestRedis;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_message_reaches_every_subscriber_of_its_topic_and_no_other() {
    let redis = TestRedis::new().await;
    let bus = Bus::connect(redis.url()).unwrap();
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
    let bus = Bus::connect(redis.url()).unwrap();
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
