//! Bytes that no client of good faith sends, over sockets of our own. Each gets a clear refusal or
//! a closed connection, none a failure of the server, and the server goes on.

#![expect(clippy::print_stdout, reason = "the table of what each one got")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::platform::{Platform, Wanted};

/// Short times, so that a test of patience needs little.
const SETTINGS: &str = "[server]\nrequest_head_timeout_s = 2\nrequest_body_timeout_s = 2\n";
const PATIENCE: Duration = Duration::from_secs(15);

/// What came back before the connection was closed, or the patience was over.
#[derive(Debug)]
struct Reply {
    /// Of every answer, in order.
    statuses: Vec<u16>,
    text: String,
    closed: bool,
}

impl Reply {
    /// One clear refusal, or a closed connection without a word.
    fn is_refusal(&self) -> bool {
        match self.statuses.as_slice() {
            [] => self.closed,
            [status] => (400..500).contains(status),
            _ => false,
        }
    }
}

async fn start() -> Platform {
    let settings = SETTINGS.to_owned();
    Platform::start_with(Wanted { settings, ..Wanted::default() }).await
}

fn address(platform: &Platform) -> String {
    platform.text("base_url").trim_start_matches("http://").to_owned()
}

/// Sends bytes and listens until the server has closed the connection or says nothing more for a while.
async fn talk(platform: &Platform, bytes: &[u8]) -> Reply {
    let mut socket = TcpStream::connect(address(platform)).await.unwrap();
    // A server that has had enough closes while we still write.
    drop(timeout(PATIENCE, socket.write_all(bytes)).await.unwrap());
    listen(&mut socket, Duration::from_millis(1_500)).await
}

async fn listen(socket: &mut TcpStream, quiet: Duration) -> Reply {
    let (mut text, mut closed) = (Vec::new(), false);
    let mut piece = vec![0; 16_384];
    // A busy machine may be long about the first of it.
    let mut patience = PATIENCE;
    while let Ok(read) = timeout(patience, socket.read(&mut piece)).await {
        patience = quiet;
        match read {
            Ok(read) if 0 < read => text.extend_from_slice(&piece[..read]),
            _ => {
                closed = true;
                break;
            }
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    // Bodies hold no such line: they are JSON of one line.
    let heads = text.split("HTTP/1.1 ").skip(1);
    let statuses = heads.filter_map(|head| head.get(..3)?.parse().ok()).collect();
    Reply { statuses, text, closed }
}

/// The head of a call of the API, with these further lines.
fn head(platform: &Platform, more: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\n{more}",
        platform.text("api_key"),
    )
}

/// A whole call with this body, and the wish that nothing follows the answer.
fn call(platform: &Platform, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let lines = format!("connection: close\r\ncontent-length: {length}\r\n\r\n");
    let head = head(platform, &lines);
    [head.as_bytes(), body].concat()
}

fn chat(content: &str) -> String {
    format!(r#"{{"model":"echo","messages":[{{"role":"user","content":{content}}}]}}"#)
}

/// The server answers as before.
async fn goes_on(platform: &Platform, after: &str) {
    let reply = talk(platform, &call(platform, chat("\"still there?\"").as_bytes())).await;
    assert_eq!(reply.statuses, [200], "after {after}: {}", reply.text);
}

async fn refused(platform: &Platform, what: &str, bytes: &[u8]) -> Reply {
    let reply = talk(platform, bytes).await;
    let shown: String = reply.text.chars().take(300).collect();
    println!("{what:<60} {:?} closed: {}", reply.statuses, reply.closed);
    assert!(reply.is_refusal(), "{what}: {:?}: {shown}", reply.statuses);
    reply
}

#[tokio::test]
async fn requests_that_two_servers_would_read_differently_are_refused() {
    let platform = start().await;
    let inner = "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";
    let chunked = format!("0\r\n\r\n{inner}");
    let get = |lines: &str| format!("GET /livez HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
    for (what, request) in [
        (
            "a length and chunks",
            head(&platform, "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n") + &chunked,
        ),
        (
            "chunks and a length",
            head(&platform, "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n") + &chunked,
        ),
        (
            "two lengths that differ",
            head(&platform, "content-length: 0\r\ncontent-length: 40\r\n\r\n") + inner,
        ),
        ("a length with a sign", head(&platform, "content-length: +5\r\n\r\n") + inner),
        ("a negative length", head(&platform, "content-length: -5\r\n\r\n") + inner),
        ("a length that is a list", head(&platform, "content-length: 5, 6\r\n\r\n") + inner),
        (
            "a length beyond 64 bits",
            head(&platform, "content-length: 99999999999999999999999\r\n\r\n"),
        ),
        ("an empty length", head(&platform, "content-length: \r\n\r\n") + inner),
        (
            "chunks under another name",
            head(&platform, "transfer-encoding: xchunked\r\n\r\n") + &chunked,
        ),
        (
            "chunks that are not the last coding",
            head(&platform, "transfer-encoding: chunked, identity\r\n\r\n") + &chunked,
        ),
        (
            "chunks named twice",
            head(&platform, "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n")
                + &chunked,
        ),
        (
            "a chunk whose size is no number",
            head(&platform, "transfer-encoding: chunked\r\n\r\n") + "zz\r\nx\r\n0\r\n\r\n",
        ),
        (
            "a chunk whose size overflows",
            head(&platform, "transfer-encoding: chunked\r\n\r\n")
                + "ffffffffffffffffff\r\nx\r\n0\r\n\r\n",
        ),
        (
            "a chunk with a sign before its size",
            head(&platform, "transfer-encoding: chunked\r\n\r\n") + "+5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk whose line ends bare",
            head(&platform, "transfer-encoding: chunked\r\n\r\n") + "5\nhello\r\n0\r\n\r\n",
        ),
        (
            "an extension of a chunk that ends bare",
            head(&platform, "transfer-encoding: chunked\r\n\r\n") + "0;\n\r\n\r\n" + inner,
        ),
        (
            "a chunk that is longer than its size",
            head(&platform, "transfer-encoding: chunked\r\n\r\n") + "1\r\nab\r\n0\r\n\r\n",
        ),
        ("a header that is folded", get("x-a: one\r\n two\r\n")),
        ("a space before the colon of a header", get("x-a : one\r\n")),
        ("a header without a colon", get("nonsense\r\n")),
        ("a header without a name", get(": one\r\n")),
        ("NUL in a header", get("x-a: o\0ne\r\n")),
        ("a bare carriage return in a header", get("x-a: o\rne\r\n")),
        ("NUL in the path", "GET /li\0vez HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
        ("no path", "GET HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
        ("HTTP/2 without being asked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("a version of the future", "GET /livez HTTP/9.9\r\nhost: test\r\n\r\n".to_owned()),
        ("TLS on a port without", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".repeat(20)),
        ("an unknown method", "EVIL /livez HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
        ("a tunnel", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
    ] {
        refused(&platform, what, request.as_bytes()).await;
    }
    // Read as one header or two, a proxy and we would not differ about where the request ends.
    let bare = "GET /livez HTTP/1.1\nhost: test\nconnection: close\n\n";
    let reply = talk(&platform, bare.as_bytes()).await;
    println!("{:<60} {:?} closed: {}", "bare line ends", reply.statuses, reply.closed);
    assert!(reply.statuses.len() <= 1 && reply.statuses.iter().all(|s| *s < 500), "{reply:?}");
    goes_on(&platform, "all of these").await;
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused_with_a_reason() {
    let platform = start().await;
    let deep = |open: &str, close: &str| {
        chat(&format!("{}1{}", open.repeat(10_000), close.repeat(10_000))).into_bytes()
    };
    let plain = |text: &str| text.as_bytes().to_vec();
    for (what, body) in [
        ("lists ten thousand levels deep", deep("[", "]")),
        ("objects ten thousand levels deep", deep("{\"a\":", "}")),
        ("bytes that are not UTF-8", [chat("\"").as_bytes(), b"\xff\xfe\"".as_slice()].concat()),
        (
            "an overlong form of a slash",
            [
                br#"{"model":"echo","messages":[{"role":"user","content":""#.as_slice(),
                b"\xc0\xaf\"}]}",
            ]
            .concat(),
        ),
        ("half of a pair of surrogates", plain(&chat(r#""\ud800""#))),
        ("the other half alone", plain(&chat(r#""\udc00 x""#))),
        ("NUL in a text", plain(&chat(r#""a\u0000b""#))),
        ("NUL as it is", plain(&chat("\"a\0b\""))),
        ("a control character as it is", plain(&chat("\"a\u{1}b\""))),
        ("a number of a thousand digits", plain(&chat(&"9".repeat(1_000)))),
        ("an exponent of a million", plain(&chat("1e1000000"))),
        ("NaN", plain(&chat("NaN"))),
        ("a key twice", plain(&chat("\"x\"").replacen('{', r#"{"model":"a","#, 1))),
        ("a number where a text belongs", plain(r#"{"model":7,"messages":[]}"#)),
        ("a negative number of tokens", plain(&chat("\"x\"").replace('}', r#","max_tokens":-1}"#))),
        (
            "more tokens than 64 bits can count",
            plain(
                &chat("\"x\"").replace("{\"model", "{\"max_tokens\":18446744073709551616,\"model"),
            ),
        ),
        ("a list", plain("[1,2,3]")),
        ("half an object", plain(r#"{"model":"echo","mess"#)),
        ("nothing", Vec::new()),
        ("more after the end", plain(&(chat("\"x\"") + "{}"))),
        (
            "a picture that is none",
            plain(&chat(
                r#"[{"type":"image_url","image_url":{"url":"data:image/png;base64,PHN2Zz4="}}]"#,
            )),
        ),
    ] {
        assert_problem(&refused(&platform, what, &call(&platform, &body)).await, what);
    }
    goes_on(&platform, "all of these").await;
}

/// The refusal says what is wrong, in the form of the endpoint.
fn assert_problem(reply: &Reply, what: &str) {
    let (_, body) = reply.text.split_once("\r\n\r\n").unwrap_or_default();
    let body: Value = serde_json::from_str(body.trim()).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{what}: {}", reply.text);
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
    let platform = start().await;
    // That of the admin API, in bytes.
    let limit = 256 * 1024;
    let key = platform.text("operator_key");
    let fields = r#"{"name":"x","currency":"CNY","nobody":""#;
    for (more, expected) in [(0, 422), (1, 413)] {
        for length in [limit - 1 + more, limit + more] {
            let expected = if length <= limit { 422 } else { expected };
            let body = format!("{fields}{}\"}}", "a".repeat(length - fields.len() - 2));
            assert_eq!(body.len(), length);
            let request = format!(
                "POST /v1/tenants HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n\
                 content-type: application/json\r\nconnection: close\r\n\
                 content-length: {length}\r\n\r\n{body}"
            );
            let reply = talk(&platform, request.as_bytes()).await;
            println!("{:<60} {:?}", format!("a body of {length} bytes"), reply.statuses);
            assert_eq!(reply.statuses, [expected], "{length}: {}", reply.text);
        }
    }
    // Without its length told before, it is counted as it comes.
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(65_536));
    let request = format!(
        "POST /v1/tenants HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(8),
    );
    let reply = refused(&platform, "half a megabyte in chunks", request.as_bytes()).await;
    assert_eq!(reply.statuses, [413], "{}", reply.text);
    let tiny = "1\r\na\r\n".repeat(300_000);
    let request = head(&platform, "transfer-encoding: chunked\r\n\r\n") + &tiny + "0\r\n\r\n";
    refused(&platform, "three hundred thousand chunks of a byte", request.as_bytes()).await;
    goes_on(&platform, "long bodies").await;
}

#[tokio::test]
async fn a_head_that_is_too_long_or_has_too_many_headers_is_refused() {
    let platform = start().await;
    for (what, lines) in [
        ("a header of a hundred kilobytes", format!("x-a: {}\r\n", "a".repeat(100_000))),
        ("a header of ten megabytes", format!("x-a: {}\r\n", "a".repeat(10 << 20))),
        ("a hundred headers", (0..100).map(|n| format!("x-{n}: a\r\n")).collect()),
        ("a hundred thousand headers", (0..100_000).map(|n| format!("x-{n}: a\r\n")).collect()),
        ("a header's name of fifty kilobytes", format!("{}: a\r\n", "x".repeat(50_000))),
    ] {
        let request = format!("GET /livez HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
        refused(&platform, what, request.as_bytes()).await;
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "a".repeat(1 << 20));
    refused(&platform, "a path of a megabyte", path.as_bytes()).await;
    goes_on(&platform, "long heads").await;
}

#[tokio::test]
async fn who_sends_a_byte_at_a_time_is_not_waited_for_and_others_are_served_meanwhile() {
    let platform = start().await;
    let whole = head(&platform, "content-length: 1000\r\n\r\n");
    let mut slow = Vec::new();
    for at in 0..40 {
        let mut socket = TcpStream::connect(address(&platform)).await.unwrap();
        // Half of them stop within the head, the others within the body.
        let sent = if at % 2 == 0 { &whole[..30] } else { whole.as_str() };
        socket.write_all(sent.as_bytes()).await.unwrap();
        slow.push(socket);
    }
    goes_on(&platform, "forty who wait").await;
    let began = Instant::now();
    // They go on, a byte at a time, for longer than the server has patience.
    while began.elapsed() < Duration::from_secs(6) {
        for socket in &mut slow {
            drop(socket.write_all(b"a").await);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for socket in &mut slow {
        let reply = listen(socket, PATIENCE).await;
        assert!(reply.closed && reply.is_refusal(), "{reply:?}");
    }
    println!("{:<60} 40 of 40 refused or closed within 6 s", "a byte every 300 ms");
    goes_on(&platform, "the slow").await;
}

#[tokio::test]
async fn noise_is_answered_by_a_refusal_or_by_nothing() {
    let platform = start().await;
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let good = call(&platform, chat("\"x\"").as_bytes());
    for _ in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 4 {
            let at = usize::try_from(next()).unwrap() % bytes.len();
            bytes[at] = u8::try_from(next() % 256).unwrap();
        }
        let mut socket = TcpStream::connect(address(&platform)).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let reply = listen(&mut socket, PATIENCE).await;
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert!(reply.statuses.iter().all(|status| *status < 500), "{shown}\n{reply:?}");
    }
    goes_on(&platform, "noise").await;
}
