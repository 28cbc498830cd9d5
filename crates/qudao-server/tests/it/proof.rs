//! Who a visitor is: on the word of the tenant's site, and by codes that are sent to an address.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use qudao_core::{CoreSettings, letter::Letter};
use qudao_domain::{MailId, key::SecretHash};
use qudao_testkit::TestTenant;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    http::Answer,
    world::{JSON, OPERATOR, Plan, World, bearer, refusal},
};

const SHOP: &str = "https://shop.example";
const SECRET: &str = "a secret of the shop, long enough";
const NEWER: &str = "another secret of the shop, as long";

/// A tenant with a widget whose site signs tokens.
struct Site {
    world: World,
    tenant: TestTenant,
}

/// Somebody in front of the widget.
struct Visitor {
    secret: String,
    token: String,
}

impl Site {
    async fn new() -> Self {
        Self::with(CoreSettings { sends_mail: true, ..CoreSettings::default() }).await
    }

    async fn with(core: CoreSettings) -> Self {
        let world = World::with(Plan { worker: false, core, ..Plan::default() }).await;
        let tenant = world.tenant(100_000_000).await;
        let site = Self { world, tenant };
        let settings =
            json!({ "settings": { "origins": [SHOP] }, "secrets": { "site_secret": SECRET } });
        site.patch(&settings).await;
        site
    }

    async fn patch(&self, body: &Value) {
        let path = format!("/v1/tenants/{}/channels/{}", self.tenant.id, self.tenant.channel_id);
        let headers = format!("{}{JSON}", bearer(OPERATOR));
        let answer = self.world.send("PATCH", &path, &headers, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.world.core.forget_channel(self.tenant.id, self.tenant.channel_id).await;
    }

    async fn visitor(&self) -> Visitor {
        let path = format!("/v1/widget/{}/token", self.tenant.public_key);
        let headers = format!("origin: {SHOP}\r\n{JSON}");
        let answer = self.world.send("POST", &path, &headers, "{}").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
        Visitor { secret: text("visitor"), token: text("token") }
    }

    async fn ask(&self, visitor: &Visitor, end: &str, body: &Value) -> Answer {
        let path = format!("/v1/widget/{}/{end}", self.tenant.public_key);
        let headers = format!("origin: {SHOP}\r\n{}{JSON}", bearer(&visitor.token));
        self.world.send("POST", &path, &headers, &body.to_string()).await
    }

    async fn say(&self, visitor: &Visitor, id: &str) {
        let answer = self.ask(visitor, "messages", &json!({ "id": id, "text": "hello" })).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    async fn identify(&self, visitor: &Visitor, token: &str) -> Answer {
        self.ask(visitor, "identify", &json!({ "token": token })).await
    }

    fn claims(&self, sub: &str) -> Value {
        let exp = self.world.core.clock.now().as_second() + 600;
        json!({ "sub": sub, "aud": self.tenant.public_key, "exp": exp, "name": "Ann Lee" })
    }

    /// The contact whom the channel knows by this visitor's secret.
    fn contact(&self, visitor: &Visitor) -> String {
        let peer = hex::encode(SecretHash::of(&visitor.secret).as_bytes());
        self.world
            .db
            .psql(&format!("SELECT contact_id FROM identities WHERE external_id = '{peer}'"))
    }

    /// Everything that a refused token must leave as it was.
    fn state(&self) -> String {
        self.world.db.psql(
            "SELECT (SELECT count(*) FROM contacts), (SELECT count(*) FROM contact_claims), \
                    (SELECT count(*) FROM contact_merges), (SELECT count(name) FROM identities)",
        )
    }
}

fn jwt(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(&text);
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn signed(claims: &Value, secret: &str) -> String {
    jwt(&json!({ "alg": "HS256", "typ": "JWT" }), claims, secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_the_site_names_is_one_person_on_every_device() {
    let site = Site::new().await;
    let (phone, desk) = (site.visitor().await, site.visitor().await);
    site.say(&phone, "m1").await;
    site.world.db.psql(
        "INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
         SELECT tenant_id, contact_id, channel_id, '{\"ref\": \"first\"}' FROM conversations",
    );
    let token = signed(&site.claims("c-1"), SECRET);
    assert_eq!(site.identify(&phone, &token).await.status, 204);
    let first = site.contact(&phone);
    // Again is no news.
    assert_eq!(site.identify(&phone, &token).await.status, 204);
    site.say(&desk, "m1").await;
    let second = site.contact(&desk);
    assert_ne!(first, second);
    site.world.db.psql(&format!(
        "INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
         SELECT tenant_id, contact_id, channel_id, '{{\"ref\": \"later\"}}' FROM conversations \
         WHERE contact_id = '{second}'"
    ));
    assert_eq!(site.identify(&desk, &token).await.status, 204);

    let db = &site.world.db;
    assert_eq!(site.contact(&desk), first);
    let said = db.psql(&format!("SELECT count(*) FROM conversations WHERE contact_id = '{first}'"));
    assert_eq!(said, "2");
    let came =
        db.psql(&format!("SELECT body ->> 'ref' FROM attributions WHERE contact_id = '{first}'"));
    assert_eq!(came, "first");
    assert_eq!(db.psql("SELECT count(*) FROM identities WHERE name = 'Ann Lee'"), "2");
    let merge = db.psql(
        "SELECT evidence, made_by LIKE 'chn_%', consent LIKE 'site_token:%' FROM contact_merges",
    );
    assert_eq!(merge, "token|t|t");
    assert_eq!(db.psql("SELECT count(*) FROM audit_events WHERE action = 'contact.link'"), "1");

    // A member who knows better takes it back, and the site's word does not undo that.
    let contact = format!("cnt_{}", first.replace('-', ""));
    let merges = format!("/v1/tenants/{}/contacts/{contact}/merges", site.tenant.id);
    let listed = site.world.get(&merges, OPERATOR).await;
    assert_eq!(listed.body["data"][0]["evidence"], "token", "{}", listed.body);
    let undo = format!("{merges}/{}/undo", listed.body["data"][0]["id"].as_str().unwrap());
    assert_eq!(site.world.post(&undo, OPERATOR, &json!({})).await.status, 200);
    assert_eq!(site.contact(&desk), second);
    assert_eq!(site.identify(&desk, &token).await.status, 204);
    assert_eq!(site.contact(&desk), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_somebody_else_uses_is_not_the_same_customer() {
    let site = Site::new().await;
    let shared = site.visitor().await;
    assert_eq!(site.identify(&shared, &signed(&site.claims("c-1"), SECRET)).await.status, 204);
    let before = site.state();
    let other = site.identify(&shared, &signed(&site.claims("c-2"), SECRET)).await;
    assert_eq!(refusal(&other), (409, "another_customer".to_owned()));
    assert_eq!(site.state(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_did_not_sign_changes_nothing() {
    let site = Site::new().await;
    let visitor = site.visitor().await;
    site.say(&visitor, "m1").await;
    let before = site.state();
    let good = site.claims("c-1");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let rival = site.world.tenant(100_000_000).await;
    let past = site.world.core.clock.now().as_second() - 1;
    let refused = [
        ("forged", signed(&good, NEWER), "not signed"),
        ("expired", signed(&with("exp", json!(past)), SECRET), "expired"),
        ("for too long", signed(&with("exp", json!(past + 86_400)), SECRET), "12 hours"),
        ("another channel's", signed(&with("aud", json!(rival.public_key)), SECRET), "`aud`"),
        ("alg none", jwt(&json!({ "alg": "none" }), &good, SECRET), "HS256"),
        (
            "alg none, bare",
            jwt(&json!({ "alg": "none" }), &good, "").rsplit_once('.').unwrap().0.to_owned() + ".",
            "HS256",
        ),
        ("no token", "x".to_owned(), "JWT"),
    ];
    for (name, token, words) in refused {
        let answer = site.identify(&visitor, &token).await;
        assert_eq!(refusal(&answer), (401, "invalid_credentials".to_owned()), "{name}");
        assert!(answer.body["detail"].as_str().unwrap().contains(words), "{name}: {}", answer.body);
        assert_eq!(site.state(), before, "{name}");
    }

    // The other tenant signs as itself, with a channel that has no secret, and then with one.
    let path = format!("/v1/widget/{}/identify", rival.public_key);
    let headers = format!("origin: {SHOP}\r\n{}{JSON}", bearer(&visitor.token));
    let body = json!({ "token": signed(&good, SECRET) }).to_string();
    let answer = site.world.send("POST", &path, &headers, &body).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(site.state(), before);

    // Rotated: both are good for the overlap, then the old one opens nothing.
    let token = signed(&good, SECRET);
    site.patch(&json!({ "secrets": { "site_secret": NEWER }, "secrets_overlap_s": 3600 })).await;
    assert_eq!(site.identify(&visitor, &token).await.status, 204);
    site.patch(&json!({ "secrets": { "site_secret": SECRET }, "secrets_overlap_s": 0 })).await;
    assert_eq!(site.identify(&visitor, &signed(&good, NEWER)).await.status, 401);
    site.patch(&json!({ "secrets": { "site_secret": "" } })).await;
    let off = site.identify(&visitor, &token).await;
    assert_eq!(refusal(&off), (409, "conflict".to_owned()));
}

/// The letters that wait, as they will be sent.
async fn letters(site: &Site) -> Vec<Letter> {
    let rows = site.world.db.psql(
        "SELECT mail_id, encode(sealed, 'hex') FROM mails WHERE sealed IS NOT NULL ORDER BY mail_id",
    );
    let mut letters = Vec::new();
    for row in rows.lines() {
        let (id, sealed) = row.split_once('|').unwrap();
        let id = MailId::from_uuid(id.parse().unwrap());
        let sealed = hex::decode(sealed).unwrap();
        let opened = site.world.core.open_letter(site.tenant.id, id, &sealed).await.unwrap();
        letters.push(opened.unwrap());
    }
    letters
}

fn digits(text: &str) -> String {
    let found = text.split(|char: char| !char.is_ascii_digit()).find(|part| part.len() == 6);
    found.unwrap().to_owned()
}

async fn code(site: &Site) -> String {
    match letters(site).await.pop().unwrap() {
        Letter::Mail(mail) => digits(&mail.subject),
        Letter::Channel { code, .. } => code,
    }
}

impl Site {
    async fn claim(&self, visitor: &Visitor, address: &Value) -> String {
        let answer = self.ask(visitor, "claims", address).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body["expires_in"], 600);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    async fn show(&self, visitor: &Visitor, claim: &str, code: &str) -> u16 {
        let end = format!("claims/{claim}/confirm");
        self.ask(visitor, &end, &json!({ "code": code })).await.status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_the_code_has_the_address() {
    let site = Site::new().await;
    let (phone, desk) = (site.visitor().await, site.visitor().await);
    site.say(&phone, "m1").await;
    let ann = json!({ "email": " Ann@Example.com " });
    let claim = site.claim(&phone, &ann).await;
    let right = code(&site).await;
    // Neither code nor address is anywhere in plain.
    let kept = site.world.db.psql("SELECT (SELECT json_agg(c) FROM claim_codes c)::text || (SELECT json_agg(m) FROM mails m)::text");
    assert!(!kept.contains(&right) && !kept.to_lowercase().contains("ann@"), "{kept}");
    // Another visitor's claim is none, and so is another channel's.
    assert_eq!(site.show(&desk, &claim, &right).await, 422);
    assert_eq!(site.show(&phone, &claim, &right).await, 204);
    assert_eq!(site.show(&phone, &claim, &right).await, 422, "it is good once");

    site.say(&desk, "m1").await;
    let claim = site.claim(&desk, &json!({ "email": "ann@example.com", "locale": "zh" })).await;
    let Some(Letter::Mail(mail)) = letters(&site).await.pop() else { panic!("a mail") };
    assert!(mail.to == "ann@example.com" && mail.subject.contains("验证码"), "{}", mail.subject);
    assert_eq!(site.show(&desk, &claim, &digits(&mail.subject)).await, 204);
    assert_eq!(site.contact(&desk), site.contact(&phone));
    let merge = site.world.db.psql("SELECT evidence, consent LIKE 'code:%' FROM contact_merges");
    assert_eq!(merge, "code|t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_good_for_five_tries_and_ten_minutes() {
    let site = Site::new().await;
    let visitor = site.visitor().await;
    let claim = site.claim(&visitor, &json!({ "email": "ann@example.com" })).await;
    let right = code(&site).await;
    let wrong = format!("{:06}", (right.parse::<u32>().unwrap() + 1) % 1_000_000);
    for _ in 0..5 {
        assert_eq!(site.show(&visitor, &claim, &wrong).await, 422);
    }
    assert_eq!(site.show(&visitor, &claim, &right).await, 422, "a sixth try");
    let claim = site.claim(&visitor, &json!({ "email": "ann@example.com" })).await;
    let right = code(&site).await;
    site.world.db.psql("UPDATE claim_codes SET good_until = now()");
    assert_eq!(site.show(&visitor, &claim, &right).await, 422, "too late");
    assert_eq!(site.world.db.psql("SELECT count(*) FROM contact_claims"), "0");
    // The address has had its three.
    assert_eq!(
        site.ask(&visitor, "claims", &json!({ "email": "ann@example.com" })).await.status,
        202
    );
    let more = site.ask(&visitor, "claims", &json!({ "email": "ann@example.com" })).await;
    assert_eq!(refusal(&more), (429, "rate_limited".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_who_has_an_address_and_two_customers_stay_two() {
    let site = Site::new().await;
    let (ann, bob) = (site.visitor().await, site.visitor().await);
    for (visitor, sub) in [(&ann, "c-1"), (&bob, "c-2")] {
        let token = signed(&site.claims(sub), SECRET);
        assert_eq!(site.identify(visitor, &token).await.status, 204);
    }
    let claim = site.claim(&ann, &json!({ "email": "home@example.com" })).await;
    assert_eq!(site.show(&ann, &claim, &code(&site).await).await, 204);
    let known = site.ask(&bob, "claims", &json!({ "email": "home@example.com" })).await;
    let unknown = site.ask(&bob, "claims", &json!({ "email": "nobody@example.com" })).await;
    for answer in [&known, &unknown] {
        let mut keys: Vec<_> = answer.body.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!((answer.status, keys.len()), (202, 2), "{}", answer.body);
    }
    assert_eq!(letters(&site).await.len(), 3);
    // They share a mailbox, and the site knows them as two.
    let claim = site.claim(&bob, &json!({ "email": "home@example.com" })).await;
    assert_eq!(site.show(&bob, &claim, &code(&site).await).await, 204);
    assert_ne!(site.contact(&ann), site.contact(&bob));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_reached_over_the_tenants_whatsapp() {
    let site = Site::new().await;
    let visitor = site.visitor().await;
    site.say(&visitor, "m1").await;
    let number = json!({ "phone": "+86 138-0013-8000" });
    let none = site.ask(&visitor, "claims", &number).await;
    assert_eq!(refusal(&none), (409, "conflict".to_owned()));
    assert!(none.body["detail"].as_str().unwrap().contains("WhatsApp"), "{}", none.body);
    let channel = json!({
        "kind": "whatsapp", "name": "W", "assistant_id": site.tenant.assistant_id,
        "settings": { "business_use": "a shop", "phone_number_id": "1055" },
        "secrets": { "access_token": "t", "app_secret": "s", "verify_token": "v" },
    });
    let path = format!("/v1/tenants/{}/channels", site.tenant.id);
    let made = site.world.post(&path, OPERATOR, &channel).await;
    assert_eq!(made.status, 201, "{}", made.body);
    // Somebody wrote from that number before.
    let whatsapp = made.body["id"].as_str().unwrap().trim_start_matches("chn_").to_owned();
    let known = site.world.db.psql(&format!(
        "WITH c AS (INSERT INTO contacts (tenant_id, contact_id) \
             VALUES ('{0}', gen_random_uuid()) RETURNING *) \
         INSERT INTO identities (tenant_id, channel_id, external_id, contact_id) \
         SELECT tenant_id, '{whatsapp}', '1055/8613800138000', contact_id FROM c \
         RETURNING contact_id",
        site.tenant.id.as_uuid()
    ));
    let known = known.lines().next().unwrap().to_owned();
    let claim = site.claim(&visitor, &number).await;
    let Some(Letter::Channel { peer, code, text, .. }) = letters(&site).await.pop() else {
        panic!("a code over a channel")
    };
    assert_eq!(peer, "1055/8613800138000");
    assert!(text.contains(&code), "{text}");
    assert_eq!(site.show(&visitor, &claim, &code).await, 204);
    assert_eq!(site.contact(&visitor), known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_conversation_goes_to_an_address_and_says_why() {
    let site = Site::new().await;
    let visitor = site.visitor().await;
    let to = json!({ "to": "ann@example.com" });
    assert_eq!(site.ask(&visitor, "transcript", &to).await.status, 404, "nothing was said");
    let said = json!({ "id": "m1", "text": "<img src=x onerror=alert(1)> & more" });
    assert_eq!(site.ask(&visitor, "messages", &said).await.status, 202);
    let wrong = site.ask(&visitor, "transcript", &json!({ "to": "ann" })).await;
    assert_eq!(refusal(&wrong), (422, "validation_failed".to_owned()));
    assert_eq!(site.ask(&visitor, "transcript", &to).await.status, 202);
    let Some(Letter::Mail(mail)) = letters(&site).await.pop() else { panic!("a mail") };
    assert!(
        mail.text.contains("<img src=x") && mail.text.contains("Somebody asked"),
        "{}",
        mail.text
    );
    assert!(!mail.html.contains("<img") && mail.html.contains("&lt;img"), "{}", mail.html);
    // An erasure finds it.
    let contact = site.contact(&visitor);
    let held = site.world.db.psql("SELECT contact_id FROM mails");
    assert_eq!(held, contact);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_it_is_said_in_words() {
    let site = Site::with(CoreSettings::default()).await;
    let visitor = site.visitor().await;
    site.say(&visitor, "m1").await;
    let email = json!({ "email": "ann@example.com" });
    for (end, body) in [("claims", &email), ("transcript", &json!({ "to": "ann@example.com" }))] {
        let answer = site.ask(&visitor, end, body).await;
        assert_eq!(refusal(&answer), (409, "conflict".to_owned()), "{end}");
        assert!(answer.body["detail"].as_str().unwrap().contains("[mail]"), "{}", answer.body);
    }
}
