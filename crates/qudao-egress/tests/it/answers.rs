//! Hosts that answer with redirects, without an end, or with bombs.

use std::{io::Write as _, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header};
use qudao_egress::{Egress, EgressError, Limits, Rules};

use crate::host::{Answer, Host};

const CAP: usize = 64 << 10;

/// Long enough on any machine for what has an end.
const PATIENT: Duration = Duration::from_secs(30);
const IMPATIENT: Duration = Duration::from_millis(800);

fn egress_within(total: Duration, hosts: &[&Host]) -> Egress {
    let ports = hosts.iter().map(|host| host.addr.port()).collect();
    let rules = Rules::new(vec!["127.0.0.2/32".parse().unwrap()], true, ports).unwrap();
    let limits = Limits { total, body_bytes: CAP, ..Limits::default() };
    Egress::new(rules, limits).unwrap()
}

fn egress(hosts: &[&Host]) -> Egress {
    egress_within(PATIENT, hosts)
}

async fn outside(answer: Answer) -> Host {
    Host::start("127.0.0.2", 0, vec![answer]).await
}

async fn get(egress: &Egress, host: &Host) -> Result<Vec<u8>, EgressError> {
    let url = egress.url(&format!("http://{}/", host.addr)).unwrap();
    let answer = egress.request(Method::GET, &url, HeaderMap::new(), None).await?;
    Ok(answer.into_body())
}

async fn refused_within(total: Duration, answer: Answer) -> String {
    let host = outside(answer).await;
    let got = get(&egress_within(total, &[&host]), &host).await;
    got.unwrap_err().code().to_owned()
}

async fn refused(answer: Answer) -> String {
    refused_within(PATIENT, answer).await
}

/// A piece of a chunked body.
fn piece() -> Vec<u8> {
    [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat()
}

#[tokio::test]
async fn no_redirect_is_followed_and_no_key_goes_with_it() {
    let inside = Host::start("127.0.0.1", 0, vec![]).await;
    let elsewhere = Host::start("127.0.0.2", 0, vec![]).await;
    for status in [301, 302, 303, 307, 308] {
        for to in [
            format!("http://{}/", inside.addr),
            format!("http://{}/", elsewhere.addr),
            format!("http://localhost:{}/", inside.addr.port()),
            format!("//{}/", inside.addr),
            "/again".to_owned(),
            "file:///etc/passwd".to_owned(),
            "gopher://127.0.0.1/".to_owned(),
        ] {
            let answer =
                format!("HTTP/1.1 {status} X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
            let host = outside(Answer::text(&answer)).await;
            let egress = egress(&[&host, &inside, &elsewhere]);
            let url = egress.url(&format!("http://{}/", host.addr)).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
            let got = egress.request(Method::POST, &url, headers, Some(b"{}".to_vec())).await;
            assert!(
                matches!(got, Err(EgressError::Redirected { status: s }) if s == status),
                "{to}"
            );
            assert_eq!(host.connections(), 1, "{status} {to}");
        }
    }
    assert_eq!(inside.connections(), 0);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_header_that_asks_the_client_to_go_elsewhere_is_not_obeyed() {
    let inside = Host::start("127.0.0.1", 0, vec![]).await;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nrefresh: 0; url=http://{0}/\r\nlocation: http://{0}/\r\n\
         alt-svc: http/1.1=\"{0}\"\r\nlink: <http://{0}/>; rel=preload\r\n\
         set-cookie: a=b\r\ncontent-length: 2\r\n\r\n{{}}",
        inside.addr
    );
    let host = outside(Answer::text(&answer)).await;
    let egress = egress(&[&host, &inside]);
    for _ in 0..2 {
        assert_eq!(get(&egress, &host).await.unwrap(), b"{}");
    }
    assert_eq!(inside.connections(), 0);
    let heads = host.heads();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|head| !head.contains("cookie") && !head.contains("referer")));
}

#[tokio::test]
async fn bodies_without_an_end_are_cut_off() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let endless = Answer::Endless(head.clone(), vec![b'x'; 4096]);
    assert_eq!(refused(endless).await, "too_many_bytes");
    let endless = Answer::Endless(chunked, piece());
    assert_eq!(refused(endless).await, "too_many_bytes");
    // Told before it comes: not even begun.
    let told = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", i64::MAX);
    assert_eq!(refused(Answer::Silence(told.into_bytes())).await, "too_many_bytes");
    let told = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CAP + 1);
    assert_eq!(refused(Answer::Silence(told.into_bytes())).await, "too_many_bytes");
    let most = Answer::ok(&"x".repeat(CAP));
    let host = outside(most).await;
    assert_eq!(get(&egress(&[&host]), &host).await.unwrap().len(), CAP);
}

#[tokio::test]
async fn heads_without_an_end_are_cut_off() {
    let header = Answer::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 4096]);
    assert_eq!(refused(header).await, "unreachable");
    let headers = Answer::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(100));
    assert_eq!(refused(headers).await, "unreachable");
    // Interim answers may come for ever; time ends them.
    let interim = Answer::Endless(Vec::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec());
    let code = refused_within(IMPATIENT, interim).await;
    assert!(code == "timed_out" || code == "unreachable", "{code}");
}

#[tokio::test]
async fn hosts_that_keep_the_client_waiting_are_left() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec();
    for silence in [Vec::new(), b"HTTP/1.1 200".to_vec(), half] {
        assert_eq!(refused_within(IMPATIENT, Answer::Silence(silence)).await, "timed_out");
    }
}

#[tokio::test]
async fn a_packed_body_is_not_unpacked() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..32 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 300 << 10, "32 MiB in {} bytes", bomb.len());
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, gzip", "GZIP", "x-gzip"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
            bomb.len()
        );
        let answer = [head.as_bytes(), &bomb].concat();
        assert_eq!(refused(Answer::Bytes(answer)).await, "encoded", "{encoding}");
    }
    let host = outside(Answer::ok("{}")).await;
    get(&egress(&[&host]), &host).await.unwrap();
    assert!(host.heads()[0].contains("accept-encoding: identity"));
    // As a transfer coding it cannot be unpacked either.
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n".to_vec();
    let code = refused(Answer::Endless(head, piece())).await;
    assert!(["unreachable", "too_many_bytes"].contains(&code.as_str()), "{code}");
}

#[tokio::test]
async fn what_a_caller_took_from_a_tenant_cannot_change_where_the_request_goes() {
    let host = outside(Answer::ok("{}")).await;
    let egress = egress(&[&host]);
    let url = egress.url(&format!("http://{}/", host.addr)).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::HOST, "admin.internal"),
        (header::TRANSFER_ENCODING, "chunked"),
        (header::CONTENT_LENGTH, "0"),
        (header::COOKIE, "session=1"),
        (header::USER_AGENT, "curl"),
        (header::ACCEPT_ENCODING, "gzip"),
        (header::PROXY_AUTHORIZATION, "Basic eDp4"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-own", HeaderValue::from_static("kept"));
    egress.request(Method::POST, &url, headers, Some(b"12345".to_vec())).await.unwrap();
    let head = host.heads().pop().unwrap();
    assert!(head.contains(&format!("host: {}\r\n", host.addr)), "{head}");
    assert!(head.contains("content-length: 5\r\n") && head.contains("x-own: kept"), "{head}");
    for gone in ["admin.internal", "chunked", "cookie", "curl", "gzip", "proxy-"] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used() {
    // The variable is set for a child: this very test again, which then does the asking.
    let test = "answers::a_proxy_of_the_environment_is_not_used";
    let host = outside(Answer::ok("{}")).await;
    #[expect(clippy::disallowed_methods, reason = "tells the child from the parent")]
    if let Ok(target) = std::env::var("EGRESS_TEST_TARGET") {
        let target: std::net::SocketAddr = target.parse().unwrap();
        let rules = Rules::new(vec!["127.0.0.2/32".parse().unwrap()], true, vec![target.port()]);
        let egress = Egress::new(rules.unwrap(), Limits::default()).unwrap();
        let url = egress.url(&format!("http://{target}/")).unwrap();
        egress.request(Method::GET, &url, HeaderMap::new(), None).await.unwrap();
        return;
    }
    let proxy = Host::start("127.0.0.1", 0, vec![]).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test]).env("EGRESS_TEST_TARGET", host.addr.to_string());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        child.env(name, format!("http://{}", proxy.addr));
    }
    assert!(child.status().await.unwrap().success());
    assert_eq!((host.connections(), proxy.connections()), (1, 0));
}
