//! Slow readers and the end of a node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    events::until,
    http::{PATIENCE, Stream},
    socket::Tab,
    world::{Plan, World, bearer, visitor},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_sends_open_chats_elsewhere_and_ends_in_time() {
    let world = World::start().await;
    let tenant = world.tenant(100_000_000).await;
    let path = format!("/v1/web/{}/events", tenant.public_key);
    let mut stream = world.stream("GET", &path, &visitor(), "").await;
    let mut tab = Tab::open(&world, &tenant.public_key, &visitor(), "").await;
    until(&mut stream, "ready").await;
    tab.until("ready").await;
    assert_eq!(world.send("GET", "/livez", "", "").await.status, 200);
    let (drained, (), ()) = tokio::join!(
        world.server.drain(Duration::from_secs(10)),
        async {
            tab.until("reconnect").await;
            assert_eq!(tab.next().await, Err(Some(CloseCode::Restart)));
        },
        async {
            until(&mut stream, "reconnect").await;
            assert_eq!(stream.event().await, None);
        },
    );
    assert!(drained);
}

/// Reads messages to the end of the stream or to `ready`, whichever comes first. Moves the cursor on
/// with them.
async fn keys(stream: &mut Stream, cursor: &mut String) -> (Vec<String>, bool) {
    let mut keys = Vec::new();
    while let Some(event) = stream.event().await {
        let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
            continue;
        };
        let frame: Value = serde_json::from_str(data).unwrap();
        match frame["type"].as_str() {
            Some("message") => {
                keys.push(frame["key"].as_str().unwrap().to_owned());
                frame["cursor"].as_str().unwrap().clone_into(cursor);
            }
            Some("ready") => return (keys, true),
            _ => {}
        }
    }
    (keys, false)
}

/// A chat of a visitor who may have one, once the one before is over.
async fn next_chat(world: &World, path: &str, token: &str) -> Stream {
    let begun = Instant::now();
    loop {
        let stream = world.stream("GET", path, token, "").await;
        if stream.status == 200 {
            return stream;
        }
        assert!(begun.elapsed() < PATIENCE, "the chat before is not let go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_does_not_read_is_let_go_and_resumes_where_it_was() {
    const MESSAGES: usize = 240;
    let mut plan = Plan { worker: false, ..Plan::default() };
    plan.server.limits.slow_client_timeout = Duration::from_millis(300);
    plan.server.limits.outgoing_frames = 4;
    // So that its place tells when it is let go.
    plan.server.limits.chats_per_visitor = 1;
    let world = World::with(plan).await;
    let tenant = world.tenant(100_000_000).await;
    let (token, base) = (visitor(), format!("/v1/web/{}", tenant.public_key));
    // More than what the system's buffers take in place of the reader.
    let text = "字".repeat(16_000);
    for id in 0..MESSAGES {
        let message = json!({ "id": id.to_string(), "text": text });
        let stored = world.post(&format!("{base}/messages"), &token, &message).await;
        assert_eq!(stored.status, 202, "{}", stored.body);
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let connection = socket.connect(world.addr()).await.unwrap();
    let path = format!("{base}/events");
    let mut slow = Stream::open(connection, "GET", &path, &bearer(&token), "").await;
    drop(next_chat(&world, &path, &token).await);
    let mut cursor = String::new();
    let (mut seen, mut whole) = keys(&mut slow, &mut cursor).await;
    assert!(!whole && seen.len() < MESSAGES, "let go after {} messages", seen.len());
    // On a busy machine this reader may be slow as well.
    for _ in 0..3 {
        if whole {
            break;
        }
        let path = format!("{base}/events?after={cursor}");
        let mut again = next_chat(&world, &path, &token).await;
        let (rest, is_all) = keys(&mut again, &mut cursor).await;
        seen.extend(rest);
        whole = is_all;
    }
    assert!(whole, "{} messages were seen", seen.len());
    let all: Vec<_> = (1..=MESSAGES).map(|seq| format!("i:{seq}")).collect();
    assert_eq!(seen, all);
}
