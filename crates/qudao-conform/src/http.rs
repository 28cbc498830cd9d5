//! A small HTTP/1.1 server: what an endpoint and a tried platform need, and control over every
//! answer.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The largest request that is read.
const LARGEST: usize = 32 << 20;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// The path and what follows it.
    pub path: String,
    /// In small letters.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long it is held back.
    pub delay: Duration,
    /// What follows the body piece by piece.
    pub stream: Option<mpsc::Receiver<Vec<u8>>>,
}

/// What answers.
pub type Handler =
    Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

impl Request {
    /// A line of the header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Reply {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO, stream: None }
    }

    /// An answer in JSON.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self { body: body.to_string().into_bytes(), ..Self::status(status) }
            .header("content-type", "application/json")
    }

    /// With one more line in the header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Serves until the process ends.
pub fn serve(listener: TcpListener, handler: Handler) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = Arc::clone(&handler);
            tokio::spawn(async move {
                // Whoever hangs up or sends no HTTP is left alone.
                let _ = connection(stream, handler).await;
            });
        }
    });
}

async fn connection(mut stream: TcpStream, handler: Handler) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    stream.set_nodelay(true)?;
    while let Some(request) = read(&mut stream, &mut bytes).await? {
        let reply = handler(request).await;
        tokio::time::sleep(reply.delay).await;
        write(&mut stream, reply).await?;
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let headers: BTreeMap<_, _> = lines
                .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|text| text.parse().ok());
            let (start, length) = (end + 4, length.unwrap_or(0_usize));
            if LARGEST < length {
                return Ok(None);
            }
            if start + length <= bytes.len() {
                let mut first = head.split(' ');
                let method = first.next().unwrap_or_default().to_owned();
                let path = first.next().unwrap_or_default().to_owned();
                let body = bytes[start..start + length].to_vec();
                bytes.drain(..start + length);
                return Ok(Some(Request { method, path, headers, body }));
            }
        }
        let count = stream.read(&mut chunk).await?;
        if count == 0 || LARGEST < bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk[..count]);
    }
}

async fn write(stream: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} .\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let Some(mut pieces) = reply.stream else {
        head.push_str(&format!("content-length: {}\r\n\r\n", reply.body.len()));
        stream.write_all(&[head.as_bytes(), &reply.body].concat()).await?;
        return stream.flush().await;
    };
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    while let Some(piece) = pieces.recv().await {
        let size = format!("{:x}\r\n", piece.len());
        stream.write_all(&[size.as_bytes(), &piece, b"\r\n"].concat()).await?;
        stream.flush().await?;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    stream.flush().await
}
