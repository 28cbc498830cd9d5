//! Ten thousand hostile bodies for each of e-mail, Matrix, Feishu, WeCom, WeChat and DingTalk: with
//! the signature of somebody who has the secret they are read or refused and nothing falls over;
//! without it nothing at all is taken. The signers are written here anew, from the platforms' rules.

use std::sync::Arc;

use aes::Aes256;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cbc::cipher::{BlockModeEncrypt as _, KeyIvInit as _, block_padding::Pkcs7};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use qudao_core::channel::{
    adapter::{Answered, ChannelAdapter, Outgoing, RawRequest, Reject},
    config::ChannelConfig,
    event::{Event, EventBody},
};
use qudao_domain::{
    ChannelId, TenantId,
    message::{Message, TextFormat},
};
use serde_json::{Map, Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

const CASES: u32 = 10_000;
const NOW_S: i64 = 1_795_896_000;
const SECRET: &str = "a-secret-of-enough-letters";
const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// Names that the adapters look for, so that many of the bodies get past the first look.
const NAMES: &[&str] = &[
    "events",
    "ephemeral",
    "type",
    "content",
    "event_id",
    "room_id",
    "sender",
    "origin_server_ts",
    "msgtype",
    "body",
    "m.relates_to",
    "m.new_content",
    "rel_type",
    "m.in_reply_to",
    "m.mentions",
    "user_ids",
    "geo_uri",
    "url",
    "info",
    "size",
    "redacts",
    "state_key",
    "membership",
    "m.read",
    "header",
    "event",
    "event_type",
    "message",
    "message_id",
    "chat_id",
    "chat_type",
    "message_type",
    "mentions",
    "key",
    "id",
    "open_id",
    "action",
    "value",
    "operator",
    "context",
    "open_chat_id",
    "message_id_list",
    "reader",
    "reader_id",
    "schema",
    "challenge",
    "token",
    "encrypt",
    "text",
    "conversationId",
    "conversationType",
    "msgId",
    "senderId",
    "senderStaffId",
    "isInAtList",
    "richText",
    "downloadCode",
    "sessionWebhook",
    "sessionWebhookExpiredTime",
    "createAt",
    "ToUserName",
    "FromUserName",
    "CreateTime",
    "MsgType",
    "Content",
    "MsgId",
    "Event",
    "EventKey",
    "MediaId",
    "Location_X",
    "Location_Y",
    "bizmsgmenuid",
    "PicUrl",
];
const WORDS: &[&str] = &[
    "m.room.message",
    "m.text",
    "m.image",
    "m.location",
    "m.replace",
    "m.thread",
    "m.reaction",
    "m.room.member",
    "invite",
    "m.receipt",
    "m.typing",
    "im.message.receive_v1",
    "text",
    "post",
    "card.action.trigger",
    "im.message.message_read_v1",
    "url_verification",
    "p2p",
    "group",
    "1",
    "2",
    "event",
    "subscribe",
    "SCAN",
    "CLICK",
    "qrscene_",
    "location",
    "voice",
    "picture",
    "audio",
    "geo:1,2",
    "geo:999,nan",
    "mxc://a/b",
    "!r:x",
    "$e",
    "@a:x",
    "{\"text\":\"x\"}",
    "[[[[",
    "",
    "\0",
    "😀",
    "\u{202e}مرحبا",
    "]]>",
    "<at user_id=\"all\">",
    "1e999",
    "-1",
    "18446744073709551616",
];

/// How a platform signs; `None` stands for somebody without the secret.
type Sign = fn(Option<&str>, &[u8]) -> RawRequest;

fn post(body: &[u8]) -> RawRequest {
    RawRequest { method: "POST".to_owned(), body: body.to_vec(), ..RawRequest::default() }
}

fn with(mut request: RawRequest, name: &'static str, value: &str) -> RawRequest {
    request.headers.append(name, value.parse().unwrap());
    request
}

fn email(secret: Option<&str>, body: &[u8]) -> RawRequest {
    with(post(body), "x-inbound-secret", secret.unwrap_or("another"))
}

fn matrix(secret: Option<&str>, body: &[u8]) -> RawRequest {
    let tail = "_matrix/app/v1/transactions/1".to_owned();
    let request = RawRequest { method: "PUT".to_owned(), tail, ..post(body) };
    with(request, "authorization", &format!("Bearer {}", secret.unwrap_or("another")))
}

fn feishu(secret: Option<&str>, body: &[u8]) -> RawRequest {
    let key = secret.unwrap_or("another");
    let iv = [3; 16];
    let cipher = cbc::Encryptor::<Aes256>::new(&Sha256::digest(key), &iv.into());
    let sealed = [iv.as_slice(), &cipher.encrypt_padded_vec::<Pkcs7>(body)].concat();
    let body = json!({"encrypt": STANDARD.encode(sealed)}).to_string();
    let signature = hex::encode(Sha256::digest(format!("{NOW_S}nonce{key}{body}")));
    let request = with(post(body.as_bytes()), "x-lark-request-timestamp", &NOW_S.to_string());
    with(with(request, "x-lark-request-nonce", "nonce"), "x-lark-signature", &signature)
}

fn tencent(secret: Option<&str>, body: &[u8]) -> RawRequest {
    let key: [u8; 32] = base64_lenient(AES_KEY);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut plain = [b"0123456789abcdef".as_slice(), &length, body, b"receiver"].concat();
    let count = 32 - plain.len() % 32;
    plain.resize(plain.len() + count, u8::try_from(count).unwrap());
    let iv: [u8; 16] = key[..16].try_into().unwrap();
    let cipher = cbc::Encryptor::<Aes256>::new(&key.into(), &iv.into());
    let sealed = cipher.encrypt_padded_vec::<cbc::cipher::block_padding::NoPadding>(&plain);
    let sealed = STANDARD.encode(sealed);
    let time = NOW_S.to_string();
    let mut texts = [secret.unwrap_or("another"), &time, "nonce", &sealed];
    texts.sort_unstable();
    let signature = hex::encode(Sha1::digest(texts.concat()));
    let query = format!("msg_signature={signature}&timestamp={time}&nonce=nonce");
    let body = format!("<xml><Encrypt><![CDATA[{sealed}]]></Encrypt></xml>");
    RawRequest { query, ..post(body.as_bytes()) }
}

fn base64_lenient(key: &str) -> [u8; 32] {
    // The last of 43 characters holds two bits that belong to nothing.
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = key.chars().flat_map(|letter| {
        let value = letters.find(letter).unwrap();
        (0..6).rev().map(move |bit| value >> bit & 1)
    });
    let bits: Vec<usize> = bits.collect();
    core::array::from_fn(|at| {
        let byte = bits[at * 8..at * 8 + 8].iter().fold(0, |byte, bit| byte << 1 | bit);
        u8::try_from(byte).unwrap()
    })
}

fn dingtalk(secret: Option<&str>, body: &[u8]) -> RawRequest {
    let secret = secret.unwrap_or("another");
    let time = (NOW_S * 1000).to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{time}\n{secret}").as_bytes());
    let sign = STANDARD.encode(mac.finalize().into_bytes());
    with(with(post(body), "timestamp", &time), "sign", &sign)
}

fn config() -> ChannelConfig {
    let secrets = [
        "inbound_secret",
        "hs_token",
        "as_token",
        "encrypt_key",
        "token",
        "app_secret",
        "secret",
        "smtp_password",
    ];
    let mut secrets: std::collections::BTreeMap<_, _> =
        secrets.iter().map(|name| ((*name).to_owned(), vec![SECRET.to_owned()])).collect();
    secrets.insert("aes_key".to_owned(), vec![AES_KEY.to_owned()]);
    let settings = json!({
        "address": "support@shop.example", "user_id": "@ai:x", "homeserver_url": "https://x.example",
        "app_id": "receiver", "corp_id": "receiver", "agent_id": 1, "app_key": "receiver",
        "customer_service": true,
    });
    ChannelConfig {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        channel_id: ChannelId::from_uuid(uuid::Uuid::nil()),
        locale: "en".to_owned(),
        settings: settings.as_object().unwrap().clone(),
        secrets,
        account: None,
        inbound_url: String::new(),
    }
}

fn adapter(kind: &str) -> Arc<dyn ChannelAdapter> {
    let all = qudao_channels::adapters();
    all.into_iter().find(|adapter| adapter.manifest().kind.as_str() == kind).unwrap()
}

fn hostile_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(WORDS).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(Value::from("x".repeat(5000))),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((select(NAMES), inner), 0..8).prop_map(|pairs| {
                let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::Object(pairs.collect::<Map<_, _>>())
            }),
        ]
    })
}

fn xml_of(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| {
                name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            })
            .map(|(name, value)| format!("<{name}>{}</{name}>", xml_of(value)))
            .collect(),
        Value::Array(all) => all.iter().map(xml_of).collect(),
        Value::String(text) => format!("<![CDATA[{text}]]>"),
        other => other.to_string(),
    }
}

/// Bytes at random, values of the platform's shape, and its true messages with a piece cut out or
/// a byte turned.
fn bodies(golden: &'static [&'static str], xml: bool) -> impl Strategy<Value = Vec<u8>> {
    let shaped = hostile_json().prop_map(move |value| {
        if xml {
            format!("<xml>{}</xml>", xml_of(&value)).into_bytes()
        } else {
            value.to_string().into_bytes()
        }
    });
    let bent =
        (select(golden), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    let bent = bent.prop_map(|(text, from, to, byte)| {
        let mut bytes = text.as_bytes().to_vec();
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        if from <= to {
            bytes.drain(from..to);
        } else {
            bytes[to] = byte;
        }
        bytes
    });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        4 => shaped,
        4 => bent,
    ]
}

fn is_sound(event: &Event) {
    let fits = |id: &str| !id.is_empty() && id.chars().count() <= 200;
    assert!(
        fits(&event.id) && fits(&event.thread.external_id) && fits(&event.sender.external_id),
        "{event:?}"
    );
    match &event.body {
        EventBody::Message { external_id, .. } | EventBody::Edited { external_id, .. } => {
            assert!(fits(external_id), "{event:?}");
        }
        EventBody::Unknown { kind } => {
            assert!(!kind.is_empty() && kind.len() <= 60, "{kind}");
            assert!(
                kind.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
                "{kind}"
            );
        }
        _ => {}
    }
}

fn attack(kind: &str, sign: Sign, golden: &'static [&'static str], xml: bool) {
    let (adapter, config) = (adapter(kind), config());
    let now = Timestamp::from_second(NOW_S).unwrap();
    for text in golden {
        let parsed = adapter.verify_and_parse(&config, &sign(Some(SECRET), text.as_bytes()), now);
        assert!(matches!(parsed.unwrap().events[0].body, EventBody::Message { .. }), "{text}");
    }
    let mut runner =
        TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let run = runner.run(&bodies(golden, xml), |body| {
        let unsigned = adapter.verify_and_parse(&config, &sign(None, &body), now);
        prop_assert!(matches!(unsigned, Err(Reject::Unauthorized(_))), "{unsigned:?}");
        let bare = adapter.verify_and_parse(&config, &post(&body), now);
        prop_assert!(bare.is_err(), "{bare:?}");

        let request = sign(Some(SECRET), &body);
        let parsed = match adapter.verify_and_parse(&config, &request, now) {
            Ok(parsed) => parsed,
            // Another receiver and another robot are another's.
            Err(Reject::Malformed(_) | Reject::Unauthorized(_)) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert!(parsed.answer.status == 200);
        for event in &parsed.events {
            is_sound(event);
            let _ = adapter.acknowledge(&config, event);
            let reply = Message::text(TextFormat::Markdown, "**Hi** 😀");
            let answered = Answered { external_id: &event.id, raw: &event.raw, at: now };
            let out = Outgoing {
                id: "out",
                piece: 0,
                thread: &event.thread.external_id,
                message: &reply,
                answered: Some(answered),
                preview_id: None,
                now,
            };
            let _ = adapter.render(&config, &out);
            let _ = adapter.passive_answer(&config, &request, &out, now);
            if let EventBody::Message { message, .. } = &event.body {
                for media in message.parts.iter().filter_map(|part| part.media()) {
                    let _ = adapter.fetch(&config, media);
                }
            }
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn mails() {
    attack(
        "email",
        email,
        &[
            "From: Ada <ada@x.example>\r\nTo: support@shop.example\r\nMessage-ID: <m@x>\r\nReferences: <a@x> <b@x>\r\nSubject: =?utf-8?q?a?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nHi\r\n> q\r\n--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--b--\r\n",
            "From: ada@x.example\r\nMessage-ID: <m@x>\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\nContent-Type: message/rfc822\r\n\r\nFrom: b@x\r\n\r\nx\r\n--c\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>\r\n--c--\r\n",
        ],
        false,
    );
}

#[test]
fn transactions_of_matrix() {
    attack(
        "matrix",
        matrix,
        &[
            r#"{"events":[{"type":"m.room.message","event_id":"$e","room_id":"!r:x","sender":"@a:x","content":{"msgtype":"m.text","body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$t","m.in_reply_to":{"event_id":"$q"}}}}],"ephemeral":[{"type":"m.receipt","room_id":"!r:x","content":{"$e":{"m.read":{"@a:x":{}}}}}]}"#,
            r#"{"events":[{"type":"m.room.message","event_id":"$e","room_id":"!r:x","sender":"@a:x","content":{"msgtype":"m.image","body":"b","url":"mxc://a/b"}},{"type":"m.room.member","event_id":"$i","room_id":"!r:x","sender":"@a:x","state_key":"@ai:x","content":{"membership":"invite"}}]}"#,
        ],
        false,
    );
}

#[test]
fn events_of_feishu() {
    attack(
        "feishu",
        feishu,
        &[
            r#"{"schema":"2.0","header":{"event_id":"e","event_type":"im.message.receive_v1","app_id":"receiver"},"event":{"sender":{"sender_id":{"open_id":"ou"},"sender_type":"user"},"message":{"message_id":"om_1","chat_id":"oc_1","chat_type":"p2p","message_type":"text","content":"{\"text\":\"@_user_1 hi\"}","mentions":[{"key":"@_user_1","name":"b","id":{"open_id":"o"}}]}}}"#,
        ],
        false,
    );
}

#[test]
fn messages_of_wecom() {
    attack(
        "wecom",
        tencent,
        &[
            "<xml><ToUserName><![CDATA[receiver]]></ToUserName><FromUserName><![CDATA[ada]]></FromUserName><CreateTime>1795896000</CreateTime><MsgType><![CDATA[text]]></MsgType><Content><![CDATA[hi]]></Content><MsgId>1</MsgId><AgentID>1</AgentID></xml>",
        ],
        true,
    );
}

#[test]
fn messages_of_wechat() {
    attack(
        "wechat",
        tencent,
        &[
            "<xml><ToUserName><![CDATA[gh]]></ToUserName><FromUserName><![CDATA[ada]]></FromUserName><CreateTime>1795896000</CreateTime><MsgType><![CDATA[voice]]></MsgType><MediaId>m</MediaId><Recognition>hi &amp; ho</Recognition><MsgId>1</MsgId></xml>",
            "<xml><ToUserName>gh</ToUserName><FromUserName>ada</FromUserName><CreateTime>1</CreateTime><MsgType>location</MsgType><Location_X>1</Location_X><Location_Y>2</Location_Y><MsgId>2</MsgId></xml>",
        ],
        true,
    );
}

#[test]
fn messages_of_dingtalk() {
    attack(
        "dingtalk",
        dingtalk,
        &[
            r#"{"conversationId":"c","conversationType":"1","msgId":"m","senderId":"s","senderStaffId":"u","createAt":1,"robotCode":"receiver","sessionWebhook":"https://oapi.dingtalk.com/x","sessionWebhookExpiredTime":1795899600000,"msgtype":"richText","content":{"richText":[{"text":"a"},{"downloadCode":"d"}]}}"#,
        ],
        false,
    );
}
