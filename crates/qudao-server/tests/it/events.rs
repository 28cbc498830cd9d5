//! The web chat as an event stream, for those whose network lets no socket through.

use serde_json::{Value, json};

use crate::{
    http::Stream,
    model::Script,
    world::{World, refusal, visitor},
};

/// The next event's id, if it has one, and its JSON. Comments are signs of life.
async fn next(stream: &mut Stream) -> Option<(Option<String>, Value)> {
    loop {
        let event = stream.event().await?;
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        if let Some(data) = field("data: ") {
            return Some((field("id: ").map(str::to_owned), serde_json::from_str(data).unwrap()));
        }
    }
}

/// Reads up to and with the next event of this type.
pub(crate) async fn until(stream: &mut Stream, kind: &str) -> (Option<String>, Value) {
    loop {
        let (id, event) = next(stream).await.expect("an open stream");
        if event["type"] == kind {
            return (id, event);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_over_the_event_stream_as_over_the_socket() {
    let (script, prompter) = Script::prompted();
    let world = World::with_model(&script).await;
    let tenant = world.tenant(100_000_000).await;
    let token = visitor();
    let base = format!("/v1/web/{}", tenant.public_key);
    let mut stream = world.stream("GET", &format!("{base}/events"), &token, "").await;
    assert_eq!(stream.status, 200);
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    assert_eq!(until(&mut stream, "ready").await.0.as_deref(), Some("0.0"));
    let message = json!({ "id": "m1", "text": "Hello" });
    assert_eq!(world.post(&format!("{base}/messages"), &token, &message).await.status, 202);
    prompter.say("Hi");
    let (id, said) = until(&mut stream, "message").await;
    assert_eq!((id.as_deref(), &said["key"]), (Some("1.0"), &json!("i:1")));
    let (id, delta) = until(&mut stream, "delta").await;
    assert_eq!((id, &delta["text"], &delta["offset"]), (None, &json!("Hi"), &json!(0)));
    drop(prompter);
    let (id, reply) = until(&mut stream, "message").await;
    assert_eq!((id.as_deref(), &reply["text"]), (Some("1.1"), &json!("Hi")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_resumes_behind_the_last_id() {
    let world = World::start().await;
    let tenant = world.tenant(100_000_000).await;
    let token = visitor();
    let base = format!("/v1/web/{}", tenant.public_key);
    for id in ["a", "b", "c"] {
        let message = json!({ "id": id, "text": id });
        assert_eq!(world.post(&format!("{base}/messages"), &token, &message).await.status, 202);
    }
    let mut stream = world.stream("GET", &format!("{base}/events?after=1.0"), &token, "").await;
    assert_eq!(next(&mut stream).await.unwrap().1["key"], "i:2");
    assert_eq!(next(&mut stream).await.unwrap().1["key"], "i:3");
    assert_eq!(next(&mut stream).await.unwrap().1["type"], "ready");
    let auth = format!("authorization: Bearer {token}\r\nlast-event-id: 2.0\r\n");
    let connection = tokio::net::TcpStream::connect(world.addr()).await.unwrap();
    let path = format!("{base}/events?after=1.0");
    let mut stream = Stream::open(connection, "GET", &path, &auth, "").await;
    assert_eq!(next(&mut stream).await.unwrap().1["key"], "i:3");

    let nobody = world.send("GET", &path, "", "").await;
    assert_eq!(refusal(&nobody), (401, "unauthenticated".to_owned()));
    let lost = world.get(&format!("{base}/events?after=x"), &token).await;
    assert_eq!(refusal(&lost), (400, "invalid_cursor".to_owned()));
}
