//! The signatures held against the crate `standardwebhooks`, which somebody else wrote.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use http::HeaderMap;
use jiff::Timestamp;
use qudao_pcp::{EventId, Secret, Signed, Signer, Verifier};
use standardwebhooks::Webhook;

const BODIES: [&str; 3] =
    ["{}", "{\"text\":\"忙しい 👩‍👩‍👧‍👦 שלום\"}", "{\"a\": 1,\n \"b\": \"\\u0000\"}"];

#[expect(clippy::disallowed_methods, reason = "the other library reads the clock as well")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn headers(id: &EventId, at: Timestamp, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.as_str().parse().unwrap());
    headers.insert("webhook-timestamp", at.as_second().to_string().parse().unwrap());
    headers.insert("webhook-signature", signature.parse().unwrap());
    headers
}

#[test]
fn each_side_believes_what_the_other_signs() {
    for body in BODIES {
        let (old, new) = (Secret::generate(), Secret::generate());
        let (id, at) = (EventId::generate(), now());
        let signer = Signer { secrets: vec![new.clone(), old.clone()], ..Signer::default() };
        let made = signer.sign(&id, at, body.as_bytes()).unwrap();
        for secret in [&old, &new] {
            let theirs = Webhook::new(&secret.reveal()).unwrap();
            theirs.verify(body.as_bytes(), &headers(&id, at, &made)).unwrap();
            let signature = theirs.sign(id.as_str(), at.as_second(), body.as_bytes()).unwrap();
            let verifier = Verifier { secrets: vec![secret.clone()], ..Verifier::default() };
            let timestamp = at.as_second().to_string();
            let signed = Signed { id: id.as_str(), timestamp: &timestamp, signature: &signature };
            assert_eq!(verifier.verify(signed, body.as_bytes(), at), Ok(id.clone()));
        }
        let stranger = Webhook::new(&Secret::generate().reveal()).unwrap();
        stranger.verify(body.as_bytes(), &headers(&id, at, &made)).unwrap_err();
    }
}
