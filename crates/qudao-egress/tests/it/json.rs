//! What callers use: JSON, and whole requests of other libraries.

use http::{HeaderMap, Request};
use qudao_egress::{Egress, Limits, Rules};
use serde_json::{Value, json};

use crate::host::{Answer, Host};

async fn world(answer: Answer) -> (Host, Egress, qudao_egress::PublicUrl) {
    let host = Host::start("127.0.0.2", 0, vec![answer]).await;
    let networks = vec!["127.0.0.2/32".parse().unwrap()];
    let rules = Rules::new(networks, true, vec![host.addr.port()]).unwrap();
    let egress = Egress::new(rules, Limits::default()).unwrap();
    let url = egress.url(&format!("http://{}/hook?a=b", host.addr)).unwrap();
    (host, egress, url)
}

#[tokio::test]
async fn json_goes_out_and_comes_back() {
    let (host, egress, url) = world(Answer::ok(r#"{"keys":[1]}"#)).await;
    let got: Value = egress.get_json(&url, HeaderMap::new()).await.unwrap();
    assert_eq!(got, json!({ "keys": [1] }));
    let got: Value = egress.post_json(&url, HeaderMap::new(), &json!({ "b": 2 })).await.unwrap();
    assert_eq!(got, json!({ "keys": [1] }));
    let heads = host.heads();
    assert!(heads[0].starts_with("get /hook?a=b http/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("user-agent: qudao-egress/"), "{heads:?}");
    assert!(heads[1].starts_with("post /hook?a=b http/1.1\r\n"), "{heads:?}");
    assert!(heads[1].contains("content-type: application/json"), "{heads:?}");
}

#[tokio::test]
async fn what_is_not_the_wanted_answer_has_a_code() {
    let wrong = Answer::ok("<html>");
    let (_host, egress, url) = world(wrong).await;
    let got = egress.get_json::<Value>(&url, HeaderMap::new()).await.unwrap_err();
    assert_eq!((got.code(), got.is_passing()), ("not_json", false));
    let busy = Answer::text("HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\n{}");
    let (_host, egress, url) = world(busy).await;
    let got = egress.get_json::<Value>(&url, HeaderMap::new()).await.unwrap_err();
    assert_eq!((got.code(), got.is_passing()), ("status", true));
}

/// The bounds that `openidconnect` puts on its client.
fn as_openidconnect_wants<F, C>(client: C) -> C
where
    C: Fn(Request<Vec<u8>>) -> F,
    F: Future<Output = Result<http::Response<Vec<u8>>, qudao_egress::EgressError>> + Send,
{
    client
}

#[tokio::test]
async fn a_whole_request_of_another_library_is_sent_by_the_same_rules() {
    let (host, egress, url) = world(Answer::text(
        "HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ))
    .await;
    let client = as_openidconnect_wants(|request| egress.send(request));
    let request = Request::post(url.as_str()).body(b"grant_type=x".to_vec()).unwrap();
    let answer = client(request).await.unwrap();
    // A status that is no success is the library's to read.
    assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (400, b"{}".as_slice()));
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(host.heads()[0].starts_with("post /hook?a=b"), "{:?}", host.heads());
    for (text, code) in [
        ("http://127.0.0.1/token", "address_not_public"),
        ("http://me:secret@host.example/token", "has_user_info"),
        ("/token", "url_malformed"),
    ] {
        let request = Request::get(text).body(Vec::new()).unwrap();
        assert_eq!(client(request).await.unwrap_err().code(), code, "{text}");
    }
}
