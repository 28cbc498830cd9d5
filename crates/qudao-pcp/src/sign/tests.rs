use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn headers<'a>(id: &'a EventId, timestamp: &'a str, signature: &'a str) -> Signed<'a> {
    Signed { id: id.as_str(), timestamp, signature }
}

/// The value that the Standard Webhooks libraries publish in their tests.
#[test]
fn the_published_signature_is_made() {
    let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signer = Signer { secrets: vec![secret], ..Signer::default() };
    let id = EventId::parse("msg_p5jXN8AQM9LWM0D4loKWxJek").unwrap();
    let made = signer.sign(&id, at(1_614_265_330), br#"{"test": 2432232314}"#).unwrap();
    assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn any_one_of_overlapping_keys_is_enough() {
    let (old, new, pair) = (Secret::generate(), Secret::generate(), PrivateKey::generate());
    let signer =
        Signer { secrets: vec![new.clone(), old.clone()], private_keys: vec![pair.clone()] };
    let id = EventId::generate();
    let made = signer.sign(&id, at(1000), "忙しい".as_bytes()).unwrap();
    assert_eq!(made.split(' ').count(), 3);
    let verifiers = [
        Verifier { secrets: vec![old], public_keys: vec![] },
        Verifier { secrets: vec![new], public_keys: vec![] },
        Verifier { secrets: vec![], public_keys: vec![pair.public()] },
    ];
    for verifier in &verifiers {
        let verified = verifier.verify(headers(&id, "1000", &made), "忙しい".as_bytes(), at(1000));
        assert_eq!(verified, Ok(id.clone()));
    }
    let stranger = Verifier { secrets: vec![Secret::generate()], public_keys: vec![] };
    let verified = stranger.verify(headers(&id, "1000", &made), "忙しい".as_bytes(), at(1000));
    assert_eq!(verified, Err(VerifyError::NoMatch));
}

#[test]
fn what_is_old_or_early_or_unsigned_is_refused() {
    let secret = Secret::generate();
    let signer = Signer { secrets: vec![secret.clone()], ..Signer::default() };
    let verifier = Verifier { secrets: vec![secret], ..Verifier::default() };
    let id = EventId::generate();
    let made = signer.sign(&id, at(1000), b"{}").unwrap();
    let verify = |timestamp: &str, signature: &str, now| {
        verifier.verify(headers(&id, timestamp, signature), b"{}", at(now)).map(|_| ())
    };
    assert_eq!(verify("1000", &made, 1300), Ok(()));
    assert_eq!(verify("1000", &made, 1301), Err(VerifyError::TooOld));
    assert_eq!(verify("1000", &made, 700), Ok(()));
    assert_eq!(verify("1000", &made, 699), Err(VerifyError::TooNew));
    assert_eq!(verify("+1000", &made, 1000), Err(VerifyError::Timestamp));
    assert_eq!(verify("", &made, 1000), Err(VerifyError::Missing("webhook-timestamp")));
    assert_eq!(verify("1000", "", 1000), Err(VerifyError::Missing("webhook-signature")));
    assert_eq!(verify("1000", &format!("nocomma v9,x {made}"), 1000), Ok(()));
    assert_eq!(verify("1000", "nocomma ,, v1, v1a,", 1000), Err(VerifyError::NoMatch));
    let nobody = Verifier::default().verify(headers(&id, "1000", &made), b"{}", at(1000));
    assert_eq!(nobody, Err(VerifyError::NoKey));
    assert_eq!(Signer::default().sign(&id, at(1000), b"{}"), Err(VerifyError::NoKey));
}

proptest! {
    #[test]
    fn a_changed_bit_never_verifies(
        body in prop::collection::vec(any::<u8>(), 1..200), at_bit in any::<prop::sample::Index>(),
        pairs in any::<bool>(),
    ) {
        let (secret, private) = (Secret::generate(), PrivateKey::generate());
        let (mut signer, mut verifier) = (Signer::default(), Verifier::default());
        if pairs {
            verifier.public_keys.push(private.public());
            signer.private_keys.push(private);
        } else {
            verifier.secrets.push(secret.clone());
            signer.secrets.push(secret);
        }
        let id = EventId::generate();
        let made = signer.sign(&id, at(5000), &body).unwrap();
        let bit = at_bit.index(body.len() * 8);
        let mut changed = body.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verify = |body: &[u8], timestamp: &str, id: &EventId| {
            verifier.verify(headers(id, timestamp, &made), body, at(5000)).is_ok()
        };
        prop_assert!(verify(&body, "5000", &id));
        prop_assert!(!verify(&changed, "5000", &id));
        prop_assert!(!verify(&body, "5001", &id));
        prop_assert!(!verify(&body, "5000", &EventId::generate()));
    }

    #[test]
    fn no_header_makes_it_panic_and_none_is_believed(
        id in ".{0,70}", timestamp in ".{0,14}", signature in ".{0,300}", body in ".{0,50}",
    ) {
        let verifier = Verifier {
            secrets: vec![Secret::generate()],
            public_keys: vec![PrivateKey::generate().public()],
        };
        let headers = Signed { id: &id, timestamp: &timestamp, signature: &signature };
        prop_assert!(verifier.verify(headers, body.as_bytes(), at(1000)).is_err());
    }
}
