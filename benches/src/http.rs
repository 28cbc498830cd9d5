//! One request at a time, for what a measurement needs set up before it counts.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Sends JSON with a bearer key and reads the JSON of a success.
///
/// # Errors
/// What was answered, if it is no success.
pub fn call(
    base: &str,
    (method, path): (&str, &str),
    key: &str,
    body: Option<&Value>,
) -> Result<Value> {
    let address = base.strip_prefix("http://").context("plain http")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // HTTP/1.0, so that no answer comes in chunks.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a head")?;
    let good = head.get(9..10) == Some("2");
    ensure!(good, "{method} {path}: {}\n{body}", head.lines().next().unwrap_or_default());
    Ok(if body.is_empty() { Value::Null } else { serde_json::from_str(body)? })
}
