//! A provider for the tests that does exactly what its script says, byte for byte.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// What to do after a request has come.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// Breaks the connection.
    Cut,
    /// Reports [`Seen::Closed`] when the client closes its side.
    AwaitClose,
}

/// What the provider saw.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Head and body of a request.
    Request(String, serde_json::Value),
    Connected,
    Closed,
}

pub(crate) struct Mini {
    pub(crate) base: String,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
}

impl Mini {
    /// Serves one script for each request, in order.
    pub(crate) async fn start(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        let scripts = Arc::new(Mutex::new(VecDeque::from(scripts)));
        spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                sender.send(Seen::Connected).ok();
                spawn(serve(socket, Arc::clone(&scripts), sender.clone()));
            }
        });
        Self { base, seen }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(5), self.seen.recv()).await.unwrap().unwrap()
    }

    pub(crate) async fn request(&mut self) -> (String, serde_json::Value) {
        loop {
            if let Seen::Request(head, body) = self.next().await {
                return (head, body);
            }
        }
    }

    /// Connections and requests so far.
    pub(crate) fn counts(&mut self) -> (usize, usize) {
        let (mut connections, mut requests) = (0, 0);
        while let Ok(seen) = self.seen.try_recv() {
            match seen {
                Seen::Connected => connections += 1,
                Seen::Request(..) => requests += 1,
                Seen::Closed => {}
            }
        }
        (connections, requests)
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime of a test ends with the test")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

type Scripts = Arc<Mutex<VecDeque<Vec<Step>>>>;

async fn serve(mut socket: TcpStream, scripts: Scripts, seen: mpsc::UnboundedSender<Seen>) {
    while let Some((head, body)) = receive(&mut socket).await {
        seen.send(Seen::Request(head, body)).ok();
        let Some(script) = scripts.lock().unwrap().pop_front() else { return };
        for step in script {
            match step {
                Step::Send(bytes) => {
                    if socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                    socket.flush().await.unwrap();
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Cut => return,
                Step::AwaitClose => {
                    let mut byte = [0_u8; 1];
                    let closed = matches!(socket.read(&mut byte).await, Ok(0) | Err(_));
                    assert!(closed, "bytes after the request");
                    seen.send(Seen::Closed).ok();
                    return;
                }
            }
        }
    }
}

async fn receive(socket: &mut TcpStream) -> Option<(String, serde_json::Value)> {
    let mut bytes = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = socket.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
            })
            .unwrap_or(0);
        if body.len() >= length {
            return Some((head.to_owned(), serde_json::from_str(body).unwrap_or_default()));
        }
    }
}

/// A whole reply with a status.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Step {
    Step::Send(
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// The head of a stream.
pub(crate) fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec(),
    )
}

/// Bytes of a stream's body, as one chunk.
pub(crate) fn chunk(bytes: &[u8]) -> Step {
    let mut all = format!("{:x}\r\n", bytes.len()).into_bytes();
    all.extend_from_slice(bytes);
    all.extend_from_slice(b"\r\n");
    Step::Send(all)
}

/// The end of a stream's body.
pub(crate) fn stream_end() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}

/// An event with a piece of text.
pub(crate) fn text(content: &str) -> Vec<u8> {
    event(&serde_json::json!({ "choices": [{ "index": 0, "delta": { "content": content } }] }))
}

/// An event with any JSON.
pub(crate) fn event(json: &serde_json::Value) -> Vec<u8> {
    format!("data: {json}\n\n").into_bytes()
}

/// The last events of a good stream.
pub(crate) fn finish(reason: &str) -> Vec<u8> {
    let end = serde_json::json!({ "choices": [{ "delta": {}, "finish_reason": reason }] });
    [event(&end), b"data: [DONE]\n\n".to_vec()].concat()
}
