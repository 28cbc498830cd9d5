//! HTTP/1.1 by hand, so that a test sees the bytes and may hang up in the middle of them.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In small letters.
    pub(crate) head: String,
    /// The cookie that it sets, as a browser would send it back.
    pub(crate) cookie: Option<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// An answer whose body comes piece by piece.
pub(crate) struct Stream {
    pub(crate) status: u16,
    pub(crate) head: String,
    connection: BufReader<TcpStream>,
    /// What came and was not taken.
    rest: String,
}

impl Stream {
    /// Sends a request and reads the head of its answer.
    pub(crate) async fn open(
        connection: TcpStream,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Self {
        let mut connection = BufReader::new(connection);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len(),
        );
        connection.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = timeout(PATIENCE, connection.read_line(&mut head)).await.unwrap();
            assert_ne!(read.unwrap(), 0, "an answer");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), connection, rest: String::new() }
    }

    /// The status of an answer to a request that was sent already.
    pub(crate) async fn answered(connection: TcpStream) -> u16 {
        let mut line = String::new();
        let mut connection = BufReader::new(connection);
        timeout(PATIENCE, connection.read_line(&mut line)).await.unwrap().unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next chunk of the body; `None` at its end or when the server hung up.
    async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.connection.read_line(&mut size).await.ok().filter(|read| *read != 0)?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.connection.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(size);
        (size != 0).then(|| String::from_utf8(bytes).unwrap())
    }

    /// Everything up to the end.
    pub(crate) async fn all(mut self) -> String {
        let mut text = String::new();
        while let Some(chunk) = self.chunk().await {
            text += &chunk;
        }
        text
    }

    /// The next server-sent event as it was written, without the empty line after it.
    pub(crate) async fn event(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                return Some(event);
            }
            let chunk = timeout(PATIENCE, self.chunk()).await.expect("an event in time")?;
            self.rest.push_str(&chunk);
        }
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len(),
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A server that refuses a body early may reset the connection after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
    let cookie = head.lines().find_map(|line| {
        let set =
            line.strip_prefix("set-cookie: ").or_else(|| line.strip_prefix("Set-Cookie: "))?;
        Some(set.split(';').next().unwrap_or_default().to_owned())
    });
    Answer { status, head: head.to_lowercase(), cookie, body }
}
