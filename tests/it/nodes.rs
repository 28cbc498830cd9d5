//! Two nodes over one Postgres and one Redis: the socket on one, the worker on the other.

use crate::{
    platform::{Platform, SLOW, Wanted},
    visitor::Visitor,
};

#[tokio::test]
async fn words_stream_to_a_socket_on_another_node_than_the_worker() {
    let slow = || Wanted {
        settings: SLOW.to_owned(),
        environment: vec![("QUDAO__DEMO__MODEL", "slow".to_owned())],
        ..Wanted::default()
    };
    let api = Platform::start_with(Wanted { words: vec!["--role", "api"], ..slow() }).await;
    let mut beside = Wanted { words: vec!["--role", "worker"], ..slow() };
    beside.environment.push(("DATABASE_URL", api.text("database_url").to_owned()));
    beside.environment.push(("REDIS_URL", api.redis_url()));
    let _worker = Platform::start_with(beside).await;
    let mut visitor = Visitor::arrive(&api).await;
    // It lasts two seconds: the first words may be shown late.
    let text = format!("one two three{}", " and more".repeat(9));
    visitor.say("m1", &text).await;
    let mut preview = String::new();
    loop {
        let frame = visitor.read().await;
        if frame["type"] == "delta" {
            // What was shown already may come once more: each piece says where it belongs.
            let offset = usize::try_from(frame["offset"].as_u64().unwrap()).unwrap();
            assert!(offset <= preview.len(), "a hole before {frame}");
            let fresh = frame["text"].as_str().unwrap().get(preview.len() - offset..);
            preview += fresh.unwrap_or_default();
        }
        if frame["type"] == "message" && frame["role"] == "assistant" {
            assert_eq!(frame["text"], text.as_str());
            break;
        }
    }
    assert!(preview.starts_with("one two"), "{preview:?}");
    assert!(preview.contains("three"), "{preview:?}");
    api.assert_books_balance();
}
