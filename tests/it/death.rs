//! What a person sees when a part of the platform dies.

use crate::{
    platform::{Platform, Wanted, descendants, signal},
    visitor::Visitor,
};

/// Echo that takes its time: a word each 150 ms.
const SLOW: &str = r#"
[[instances]]
name = "slow"
plugin = "echo"
config = { delay_ms = 150 }
[[instances.models]]
name = "slow"
prices = [{ currency = "CNY", input_per_mtok = "2.00", output_per_mtok = "8.00" }]
"#;

async fn slow_platform() -> Platform {
    let wanted = Wanted {
        settings: SLOW.to_owned(),
        environment: vec![("QUDAO__DEMO__MODEL", "slow".to_owned())],
        ..Wanted::default()
    };
    Platform::start_with(wanted).await
}

const QUESTION: &str = "one two three four five six seven eight nine ten";

#[tokio::test]
async fn a_plugin_host_killed_in_mid_stream_costs_the_person_nothing_but_time() {
    let platform = slow_platform().await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    visitor.read_until("delta").await;

    let hosts = descendants(platform.pid(), "qudao-plugin-host");
    assert!(!hosts.is_empty());
    for host in hosts {
        signal("-KILL", host);
    }

    assert_eq!(visitor.reply().await["text"], QUESTION);
    assert_eq!(platform.charged_turns().await.len(), 1);
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_platform_killed_in_mid_turn_answers_after_it_came_back() {
    let mut platform = slow_platform().await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    visitor.read_until("delta").await;
    platform.kill_with_children().await;

    platform.restart().await;
    let (token, cursor) = (visitor.token.clone(), visitor.cursor.clone());
    let key = platform.text("chat_url").rsplit('/').next().unwrap().to_owned();
    let mut visitor = Visitor::connect(platform.text("base_url"), &key, token, cursor).await;
    assert_eq!(visitor.reply().await["text"], QUESTION);
    assert_eq!(platform.charged_turns().await.len(), 1);
    platform.assert_books_balance();
}

#[tokio::test]
async fn without_redis_a_message_is_still_answered() {
    let platform = Platform::start().await;
    let mut visitor = Visitor::arrive(&platform).await;
    for redis in descendants(platform.pid(), "redis-server") {
        signal("-KILL", redis);
    }
    visitor.say("m1", "are you there").await;
    assert_eq!(visitor.reply().await["text"], "are you there");
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_postgres_that_dies_comes_back_and_nothing_acknowledged_is_lost() {
    let platform = slow_platform().await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    visitor.read_until("accepted").await;
    let postmaster = descendants(platform.pid(), "postgres").into_iter().min().unwrap();
    signal("-QUIT", postmaster);
    assert_eq!(visitor.reply().await["text"], QUESTION);
    assert_eq!(platform.charged_turns().await.len(), 1);
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_platform_told_to_stop_lets_the_reply_finish_and_leaves_no_child() {
    let mut platform = slow_platform().await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", QUESTION).await;
    visitor.read_until("delta").await;
    let pid = platform.pid();
    let children = descendants(pid, "postgres");
    let status = platform.terminate();
    assert!(status.success(), "{status}\n{}", platform.log());
    for child in children {
        assert!(!std::path::Path::new(&format!("/proc/{child}")).exists());
    }
    platform.restart().await;
    let rows = platform.charged_turns().await;
    assert_eq!(rows.len(), 1, "{}", platform.log());
    assert_eq!(rows[0]["end_reason"], "stop");
    platform.assert_books_balance();
}
