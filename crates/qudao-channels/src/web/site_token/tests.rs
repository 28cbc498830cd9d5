use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use qudao_domain::ChannelId;
use serde_json::{Value, json};
use sha2::{Sha256, Sha384};

use super::*;

const SECRET: &str = "a secret of the channel, long enough";
const KEY: &str = "wk_the_channels_public_key";
/// RFC 8032, section 7.1, test 1: the public half as SPKI.
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----";
const ED_SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn config(secrets: &[&str], keys: &[&str]) -> ChannelConfig {
    let secrets = secrets.iter().map(|text| (*text).to_owned()).collect();
    ChannelConfig {
        tenant_id: TenantId::new(),
        channel_id: ChannelId::new(),
        locale: "en".to_owned(),
        settings: [(SITE_KEYS.to_owned(), json!(keys))].into_iter().collect(),
        secrets: BTreeMap::from([(SITE_SECRET.to_owned(), secrets)]),
        inbound_url: String::new(),
        account: None,
    }
}

fn claims(change: &Value) -> Value {
    let mut claims = json!({ "sub": "c-1", "aud": KEY, "exp": 1_800_000_600 });
    let object = claims.as_object_mut().unwrap();
    for (name, value) in change.as_object().unwrap() {
        object.insert(name.clone(), value.clone());
    }
    object.retain(|_, value| !value.is_null());
    claims
}

fn signed(alg: &str, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": alg, "typ": "JWT" })), part(claims));
    let signature = sign(text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(secret: &str, claims: &Value) -> String {
    signed("HS256", claims, |text| {
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.chain_update(text).finalize().into_bytes().to_vec()
    })
}

fn read(config: &ChannelConfig, token: &str) -> Result<SiteToken, TokenFault> {
    SiteToken::read(config, KEY, token, now())
}

#[test]
fn a_token_says_who_somebody_is_and_what_the_site_verified() {
    let config = config(&[SECRET], &[]);
    let all = json!({
        "iss": "shop", "name": "Ann\u{0}\nLee", "locale": "zh-CN", "email": "Ann@Example.com",
        "email_verified": true, "phone": "+86 138 0013 8000", "iat": 1_800_000_030, "more": [1],
    });
    let read = read(&config, &hs256(SECRET, &claims(&all))).unwrap();
    assert_eq!(read.subject, (Some("shop".to_owned()), "c-1".to_owned()));
    assert_eq!(read.email.as_ref().map(Email::as_str), Some("ann@example.com"));
    // Nobody verified it.
    assert_eq!(read.phone, None);
    assert_eq!(read.name.as_deref(), Some("AnnLee"));
    let tenant = TenantId::new();
    let proven = read.claims(tenant);
    assert_eq!(proven.len(), 2);
    // Another tenant's customer of the same name is somebody else.
    assert_ne!(proven, read.claims(TenantId::new()));
    let other = SiteToken { subject: (None, "c-1".to_owned()), ..read.clone() };
    assert_ne!(proven[0], other.claims(tenant)[0]);
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    let config = config(&[SECRET], &[]);
    let cases = [
        (json!({ "exp": 1_800_000_000 }), TokenFault::Expired),
        (json!({ "exp": 1_799_999_000 }), TokenFault::Expired),
        (json!({ "exp": 1_800_043_201_i64 }), TokenFault::TooLong),
        (json!({ "exp": i64::MAX }), TokenFault::TooLong),
        (json!({ "exp": null }), TokenFault::Malformed),
        (json!({ "exp": "soon" }), TokenFault::Malformed),
        (json!({ "nbf": 1_800_000_061 }), TokenFault::NotYet),
        (json!({ "iat": 1_800_000_061 }), TokenFault::NotYet),
        (json!({ "aud": "wk_another" }), TokenFault::Audience),
        (json!({ "aud": null }), TokenFault::Audience),
        (json!({ "sub": null }), TokenFault::Malformed),
        (json!({ "sub": "" }), TokenFault::Malformed),
        (json!({ "sub": 7 }), TokenFault::Malformed),
        (json!({ "sub": "x".repeat(201) }), TokenFault::Malformed),
    ];
    for (change, fault) in cases {
        assert_eq!(read(&config, &hs256(SECRET, &claims(&change))), Err(fault), "{change}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\u{1f600}", &"x".repeat(5000)] {
        let read = read(&config, text);
        // A header that cannot be read names no algorithm.
        let fits = matches!(read, Err(TokenFault::Malformed | TokenFault::Algorithm));
        assert!(fits, "{text}: {read:?}");
    }
}

#[test]
fn nobody_else_signs() {
    let good = claims(&json!({}));
    let config = config(&[SECRET, "the one before it, still long enough"], &[]);
    assert!(read(&config, &hs256(SECRET, &good)).is_ok());
    assert!(read(&config, &hs256("the one before it, still long enough", &good)).is_ok());
    let forged = hs256("a secret of somebody else, as long.", &good);
    assert_eq!(read(&config, &forged), Err(TokenFault::Signature));
    let token = hs256(SECRET, &good);
    let (rest, _) = token.rsplit_once('.').unwrap();
    for signature in ["", "AAAA"] {
        let bare = format!("{rest}.{signature}");
        assert_eq!(read(&config, &bare), Err(TokenFault::Signature), "{signature}");
    }
    // Signed for another person, with the signature of the first.
    let other = hs256("x", &claims(&json!({ "sub": "c-2" })));
    let spliced =
        format!("{}.{}", other.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
    assert_eq!(read(&config, &spliced), Err(TokenFault::Signature));
}

#[test]
fn an_algorithm_without_a_key_of_its_own_is_refused() {
    let good = claims(&json!({}));
    let both = config(&[SECRET], &[ED_PUBLIC]);
    for alg in ["none", "None", "NONE", "", "HS257", "RS256", "HS384"] {
        let mac = |text: &[u8]| {
            let mac = Hmac::<Sha384>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.chain_update(text).finalize().into_bytes().to_vec()
        };
        let token = signed(alg, &good, mac);
        assert_eq!(read(&both, &token), Err(TokenFault::Algorithm), "{alg}");
    }
    // A public key is no secret to sign with.
    let keys = config(&[], &[ED_PUBLIC]);
    assert_eq!(read(&keys, &hs256(ED_PUBLIC, &good)), Err(TokenFault::Algorithm));
    assert_eq!(read(&both, &hs256(ED_PUBLIC, &good)), Err(TokenFault::Signature));
    let none = config(&[], &[]);
    assert_eq!(read(&none, &hs256("", &good)), Err(TokenFault::NotConfigured));
    let short = config(&["short"], &[]);
    assert_eq!(read(&short, &hs256("short", &good)), Err(TokenFault::Algorithm));
}

#[test]
fn a_site_may_keep_its_private_key_to_itself() {
    use ed25519_dalek::{Signer as _, SigningKey};
    let mut seed = [0; 32];
    hex::decode_to_slice(ED_SEED, &mut seed).unwrap();
    let key = SigningKey::from_bytes(&seed);
    let good = claims(&json!({}));
    let config = config(&[], &["no key at all", ED_PUBLIC]);
    let token = signed("EdDSA", &good, |text| key.sign(text).to_bytes().to_vec());
    assert!(read(&config, &token).is_ok());
    let stranger = SigningKey::from_bytes(&[7; 32]);
    let token = signed("EdDSA", &good, |text| stranger.sign(text).to_bytes().to_vec());
    assert_eq!(read(&config, &token), Err(TokenFault::Signature));
}
