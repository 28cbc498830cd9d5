//! Hosts made of sockets.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A service at one address and port that answers each request with the next of its answers, and
/// with the last one for ever.
pub(crate) struct Host {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// What a host does after it has read the head of a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes once, then those again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, then nothing for ever.
    Silence(Vec<u8>),
}

impl Answer {
    pub(crate) fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    pub(crate) fn ok(body: &str) -> Self {
        Self::text(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }
}

impl Host {
    pub(crate) async fn start(address: &str, port: u16, answers: Vec<Answer>) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = TcpListener::bind(SocketAddr::new(address, port)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, heads) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&heads));
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let turn = counted.fetch_add(1, Ordering::SeqCst);
                let answer = answers.get(turn).or(answers.last()).cloned();
                let seen = Arc::clone(&seen);
                tokio::spawn(async move { serve(stream, answer, &seen).await });
            }
        });
        Self { addr, connections, heads }
    }

    /// How many connections it was sent.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads of the requests, in lower case, and what came of the body with them.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answer: Option<Answer>, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut piece = [0; 8192];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => head.extend_from_slice(&piece[..count]),
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
    match answer.unwrap_or_else(|| Answer::ok("{}")) {
        Answer::Bytes(bytes) => {
            stream.write_all(&bytes).await.ok();
            stream.shutdown().await.ok();
        }
        Answer::Endless(first, again) => {
            stream.write_all(&first).await.ok();
            while stream.write_all(&again).await.is_ok() {}
        }
        Answer::Silence(bytes) => {
            stream.write_all(&bytes).await.ok();
            std::future::pending::<()>().await;
        }
    }
}
