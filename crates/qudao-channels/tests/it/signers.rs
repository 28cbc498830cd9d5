//! How each platform signs what it sends, and what it sends on a good day. A new adapter brings its
//! own entry; [`crate::hostile`] then throws everything at it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use qudao_core::channel::adapter::RawRequest;
use qudao_domain::state::ChannelKind;
use serde_json::{Value, json};
use sha2::Sha256;

/// 2026-11-28 12:00 UTC.
pub(crate) const NOW_S: i64 = 1_795_867_200;
/// The value of every secret that a channel has here.
pub(crate) const SECRET: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0f";

/// A platform.
pub(crate) struct Platform {
    /// Which.
    pub(crate) kind: ChannelKind,
    /// What its settings must be beside those that its manifest asks for.
    pub(crate) settings: fn() -> Value,
    /// The signature is made of the body, so that no other body goes with it.
    pub(crate) covers_body: bool,
    /// A request with this body, signed at this second with this secret.
    pub(crate) sign: fn(&[u8], i64, &str) -> RawRequest,
    /// What it sends on a good day, to be spoiled.
    pub(crate) samples: &'static [&'static str],
    /// Whether it is right that nothing comes of a body.
    pub(crate) is_nothing: fn(&Value) -> bool,
}

/// Every platform whose requests are signed.
pub(crate) fn platforms() -> Vec<Platform> {
    vec![
        Platform {
            kind: ChannelKind::Telegram,
            settings: none,
            covers_body: false,
            sign: telegram,
            samples: TELEGRAM,
            is_nothing: |_| false,
        },
        Platform {
            kind: ChannelKind::Slack,
            settings: none,
            covers_body: true,
            sign: slack,
            samples: SLACK,
            is_nothing: |body| body["type"] == "url_verification",
        },
        meta(ChannelKind::Whatsapp, WHATSAPP),
        meta(ChannelKind::Messenger, MESSENGER),
        meta(ChannelKind::Instagram, INSTAGRAM),
        Platform {
            kind: ChannelKind::Line,
            settings: none,
            covers_body: true,
            sign: line,
            samples: LINE,
            is_nothing: |body| body["events"].as_array().is_some_and(Vec::is_empty),
        },
        Platform {
            kind: ChannelKind::Discord,
            settings: || json!({ "public_key": hex::encode(discord_key(SECRET).verifying_key()) }),
            covers_body: true,
            sign: discord,
            samples: DISCORD,
            is_nothing: |body| body["type"] == 1 || body["type"] == 0,
        },
    ]
}

fn none() -> Value {
    json!({})
}

fn meta(kind: ChannelKind, samples: &'static [&'static str]) -> Platform {
    let settings = || json!({ "phone_number_id": "1061", "page_id": "2001", "account_id": "3001" });
    Platform { kind, settings, covers_body: true, sign: hub, samples, is_nothing: |_| false }
}

/// A request without a signature.
pub(crate) fn post(headers: &[(&'static str, String)], body: &[u8]) -> RawRequest {
    let mut request =
        RawRequest { method: "POST".to_owned(), body: body.to_vec(), ..RawRequest::default() };
    for (name, value) in headers {
        request.headers.append(*name, value.parse().unwrap());
    }
    request
}

fn mac(secret: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn telegram(body: &[u8], _second: i64, secret: &str) -> RawRequest {
    let config = crate::hostile::channel(json!({}), Default::default());
    let made = qudao_channels::telegram::webhook_secret(&config, secret);
    post(&[("x-telegram-bot-api-secret-token", made)], body)
}

fn slack(body: &[u8], second: i64, secret: &str) -> RawRequest {
    let at = second.to_string();
    let made = hex::encode(mac(secret, &[b"v0:", at.as_bytes(), b":", body]));
    let form = body.starts_with(b"payload=") || body.starts_with(b"command=");
    let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
    let headers = [
        ("x-slack-request-timestamp", at),
        ("x-slack-signature", format!("v0={made}")),
        ("content-type", kind.to_owned()),
    ];
    post(&headers, body)
}

fn hub(body: &[u8], _second: i64, secret: &str) -> RawRequest {
    let made = hex::encode(mac(secret, &[body]));
    post(&[("x-hub-signature-256", format!("sha256={made}"))], body)
}

fn line(body: &[u8], _second: i64, secret: &str) -> RawRequest {
    post(&[("x-line-signature", STANDARD.encode(mac(secret, &[body])))], body)
}

fn discord_key(secret: &str) -> SigningKey {
    let mut seed = [0; 32];
    seed.copy_from_slice(&mac(secret, &[b"seed"]));
    SigningKey::from_bytes(&seed)
}

fn discord(body: &[u8], second: i64, secret: &str) -> RawRequest {
    let at = second.to_string();
    let made = discord_key(secret).sign(&[at.as_bytes(), body].concat());
    let headers =
        [("x-signature-timestamp", at), ("x-signature-ed25519", hex::encode(made.to_bytes()))];
    post(&headers, body)
}

const TELEGRAM: &[&str] = &[
    r#"{"update_id":1,"message":{"message_id":2,"date":1795867200,"chat":{"id":7,"type":"private"},"from":{"id":7,"first_name":"Ada","language_code":"en"},"text":"/start spring","entities":[{"type":"bot_command","offset":0,"length":6}],"reply_to_message":{"message_id":1}}}"#,
    r#"{"update_id":2,"message":{"message_id":3,"chat":{"id":-7,"type":"supergroup"},"from":{"id":7,"first_name":"A"},"photo":[{"file_id":"f","file_unique_id":"u","file_size":7}],"caption":"c","message_thread_id":4,"media_group_id":"g"}}"#,
    r#"{"update_id":3,"callback_query":{"id":"9","from":{"id":7,"first_name":"A"},"data":"x","message":{"message_id":2,"chat":{"id":7,"type":"private"},"date":0}}}"#,
    r#"{"update_id":4,"my_chat_member":{"chat":{"id":7,"type":"private"},"from":{"id":7},"new_chat_member":{"status":"kicked"}}}"#,
];

const SLACK: &[&str] = &[
    r#"{"type":"event_callback","team_id":"T1","event_id":"Ev1","event_time":1795867200,"authorizations":[{"user_id":"UB","is_bot":true}],"event":{"type":"message","channel":"D1","user":"U1","ts":"17.1","thread_ts":"17.0","text":"<@UB> hi &amp; <https://a.example|b>","files":[{"id":"F1","mimetype":"image/png","url_private_download":"https://files.slack.com/f"}],"attachments":[{"text":"q"}]}}"#,
    r#"{"type":"event_callback","event_id":"Ev2","event":{"type":"message","subtype":"message_changed","channel":"C1","message":{"ts":"1.1","text":"new","user":"U1"},"previous_message":{"text":"old"}}}"#,
    r#"{"type":"event_callback","event_id":"Ev3","event":{"type":"reaction_added","user":"U1","reaction":"tada","item":{"channel":"C1","ts":"1.1"}}}"#,
    r#"{"type":"block_actions","trigger_id":"t","user":{"id":"U1"},"channel":{"id":"C1"},"container":{"message_ts":"5.0","thread_ts":"4.0"},"actions":[{"action_id":"press:b","value":"q:b:v","text":{"text":"V"}}]}"#,
    r#"{"type":"url_verification","challenge":"abc"}"#,
    "command=%2Fask&text=hi&channel_id=C1&user_id=U1&trigger_id=t1&response_url=https%3A%2F%2Fhooks.slack.com%2Fx",
    "payload=%7B%22type%22%3A%22block_actions%22%2C%22actions%22%3A%5B%7B%7D%5D%7D",
];

const WHATSAPP: &[&str] = &[
    r#"{"object":"whatsapp_business_account","entry":[{"id":"9","changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"1061"},"contacts":[{"profile":{"name":"Ada"},"wa_id":"49"}],"messages":[{"from":"49","id":"wamid.1","timestamp":"1795867200","type":"text","text":{"body":"hi"},"context":{"id":"wamid.0"},"referral":{"source_id":"a","ctwa_clid":"c"}},{"from":"49","id":"wamid.2","type":"image","image":{"id":"1","mime_type":"image/png","sha256":"aGk=","caption":"c"}},{"from":"49","id":"wamid.3","type":"interactive","interactive":{"button_reply":{"id":"q:b:v","title":"V"}}},{"from":"49","id":"wamid.4","type":"location","location":{"latitude":1,"longitude":2}},{"from":"49","id":"wamid.5","type":"contacts","contacts":[{"name":{"formatted_name":"B"},"phones":[{"phone":"1"}]}]},{"from":"49","id":"wamid.6","type":"order","order":{"product_items":[{"quantity":1}]}},{"from":"49","id":"wamid.7","type":"edit","edit":{"original_message_id":"w","message":{"type":"text","text":{"body":"x"}}}},{"from":"49","id":"wamid.8","type":"reaction","reaction":{"message_id":"w","emoji":"x"}}],"statuses":[{"id":"w","status":"read","recipient_id":"49","timestamp":"1"}],"user_preferences":[{"wa_id":"49","value":"stop"}]}}]}]}"#,
];

const MESSENGER: &[&str] = &[
    r#"{"object":"page","entry":[{"id":"2001","messaging":[{"sender":{"id":"7"},"recipient":{"id":"2001"},"timestamp":1795867200000,"message":{"mid":"m","text":"hi","reply_to":{"mid":"n"},"attachments":[{"type":"image","payload":{"url":"https://x.fbcdn.net/a"}},{"type":"location","payload":{"coordinates":{"lat":1,"long":2}}}]}},{"sender":{"id":"7"},"postback":{"title":"T","payload":"q:b:v","referral":{"ref":"r"}}},{"sender":{"id":"7"},"delivery":{"mids":["a","b"]}},{"sender":{"id":"7"},"read":{"mid":"a"}},{"sender":{"id":"7"},"reaction":{"mid":"m","emoji":"x","action":"react"}},{"sender":{"id":"7"},"message_edit":{"mid":"m","text":"y"}}],"standby":[{}],"changes":[{"field":"feed"}]}]}"#,
];

const INSTAGRAM: &[&str] = &[
    r#"{"object":"instagram","entry":[{"id":"3001","messaging":[{"sender":{"id":"7"},"recipient":{"id":"3001"},"message":{"mid":"m","text":"hi"}},{"sender":{"id":"7"},"message":{"mid":"m","is_deleted":true}},{"sender":{"id":"7"},"message":{"mid":"n","quick_reply":{"payload":"q:b:v"},"text":"V"}}]}]}"#,
];

const LINE: &[&str] = &[
    r#"{"destination":"U0","events":[{"type":"message","mode":"active","timestamp":1795867200000,"source":{"type":"group","groupId":"C1","userId":"U1"},"webhookEventId":"01","replyToken":"r","message":{"id":"1","type":"text","text":"hi","mention":{"mentionees":[{"isSelf":true}]},"quotedMessageId":"0"}},{"type":"message","source":{"userId":"U1"},"webhookEventId":"02","message":{"id":"2","type":"image","contentProvider":{"type":"line"}}},{"type":"postback","source":{"userId":"U1"},"webhookEventId":"03","postback":{"data":"q:b:v"}},{"type":"unfollow","source":{"userId":"U1"},"webhookEventId":"04"},{"type":"unsend","source":{"userId":"U1"},"webhookEventId":"05","unsend":{"messageId":"1"}}]}"#,
    r#"{"destination":"U0","events":[]}"#,
];

const DISCORD: &[&str] = &[
    r#"{"id":"1","type":2,"application_id":"9","token":"tok","channel_id":"5","guild_id":"4","member":{"user":{"id":"7","username":"a"}},"data":{"name":"ask","target_id":"6","options":[{"name":"q","type":3,"value":"hi"},{"name":"f","type":11,"value":"66"}],"resolved":{"attachments":{"66":{"url":"https://cdn.discordapp.com/a","content_type":"image/png"}},"messages":{"6":{"content":"c"}}}}}"#,
    r#"{"id":"1","type":3,"application_id":"9","token":"tok","channel_id":"5","user":{"id":"7"},"data":{"custom_id":"q:b:","values":["q:r:v"]},"message":{"components":[{"components":[{"custom_id":"q:b:","label":"B","options":[{"value":"q:r:v","label":"R"}]}]}]}}"#,
    r#"{"id":"1","type":5,"application_id":"9","token":"tok","channel_id":"5","user":{"id":"7"},"data":{"components":[{"components":[{"value":"v"}]}]}}"#,
    r#"{"version":1,"application_id":"9","type":1,"event":{"type":"APPLICATION_AUTHORIZED","data":{}}}"#,
    r#"{"type":1}"#,
];

/// What comes over an open socket.
pub(crate) const FRAMES: &[&str] = &[
    r#"{"op":10,"d":{"heartbeat_interval":41250}}"#,
    r#"{"op":0,"t":"READY","s":1,"d":{"session_id":"s","resume_gateway_url":"wss://r.example","user":{"id":"900"}}}"#,
    r#"{"op":0,"t":"MESSAGE_CREATE","s":2,"d":{"id":"5","channel_id":"55","guild_id":"4","type":19,"content":"<@900> hi","timestamp":"2026-11-28T12:00:00+00:00","author":{"id":"7","username":"a"},"mentions":[{"id":"900"}],"attachments":[{"url":"https://cdn.discordapp.com/a","content_type":"image/png"}],"message_reference":{"message_id":"4"}}}"#,
    r#"{"op":0,"t":"MESSAGE_UPDATE","s":3,"d":{"id":"5","channel_id":"55","content":"x","edited_timestamp":"2026-11-28T12:00:00+00:00","author":{"id":"7"}}}"#,
    r#"{"op":0,"t":"MESSAGE_DELETE_BULK","s":4,"d":{"ids":["5","6"],"channel_id":"55"}}"#,
    r#"{"op":0,"t":"MESSAGE_REACTION_ADD","s":5,"d":{"user_id":"7","channel_id":"55","message_id":"5","emoji":{"name":"x"}}}"#,
    r#"{"op":0,"t":"INTERACTION_CREATE","s":6,"d":{"id":"1","type":2,"application_id":"9","token":"tok","channel_id":"5","user":{"id":"7"},"data":{"name":"ask"}}}"#,
    r#"{"op":9,"d":true}"#,
    r#"{"op":11}"#,
];
