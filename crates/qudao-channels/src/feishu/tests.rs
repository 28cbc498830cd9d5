use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_core::channel::{
    adapter::FailureReason,
    event::{Event, EventBody, ReceiptState},
};
use qudao_domain::message::{Button, ButtonAction, Message, Part, TextFormat};
use serde_json::{Value, json};

use super::*;
use crate::{
    ciphers, signature,
    stand::{self, NOW_S, http, only, out, parse, request, response, unknown, with, words},
};

const KEY: &str = "an-encrypt-key";

fn config() -> ChannelConfig {
    stand::config(
        json!({"app_id": "cli_a1"}),
        json!({"app_secret": "s", "encrypt_key": [KEY, "its-predecessor"], "verification_token": "vt"}),
    )
}

fn seal(key: &str, event: &str) -> String {
    let iv = [7; 16];
    let sealed =
        ciphers::seal(&signature::sha256(&[key.as_bytes()]), &iv, &ciphers::pad(event.into(), 16));
    STANDARD.encode([iv.as_slice(), &sealed].concat())
}

fn signed(key: &str, body: &str, at: i64) -> RawRequest {
    let time = at.to_string();
    let parts = [time.as_bytes(), b"nonce", key.as_bytes(), body.as_bytes()];
    let made = hex::encode(signature::sha256(&parts));
    let request = with(request("POST", body), "x-lark-request-timestamp", &time);
    with(with(request, "x-lark-request-nonce", "nonce"), "x-lark-signature", &made)
}

fn sealed(event: &Value) -> RawRequest {
    signed(KEY, &json!({"encrypt": seal(KEY, &event.to_string())}).to_string(), NOW_S)
}

fn event(kind: &str, body: Value) -> Value {
    json!({"schema": "2.0", "header": {"event_id": "ev1", "event_type": kind, "token": "vt",
        "app_id": "cli_a1", "create_time": "1795896000000"}, "event": body})
}

fn message(kind: &str, content: &Value, chat: &str, mentions: Value) -> Value {
    event(
        "im.message.receive_v1",
        json!({
            "sender": {"sender_id": {"open_id": "ou_ada"}, "sender_type": "user"},
            "message": {"message_id": "om_1", "chat_id": "oc_1", "chat_type": chat, "message_type": kind,
                "create_time": "1795895999000", "content": content.to_string(), "mentions": mentions},
        }),
    )
}

fn heard(event: &Value) -> Event {
    only(parse(&Feishu, &config(), &sealed(event)))
}

/// The platform's own example of its cipher.
#[test]
fn the_published_cipher_text_is_opened() {
    let sealed = STANDARD.decode("P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=").unwrap();
    let (iv, rest) = sealed.split_first_chunk::<16>().unwrap();
    let opened = ciphers::open(&signature::sha256(&[b"test key"]), iv, rest).unwrap();
    assert_eq!(ciphers::unpad(opened, 16).unwrap(), b"hello world");
}

#[test]
fn each_kind_of_message_becomes_its_part() {
    let said = heard(&message("text", &json!({"text": "Hello 😀 مرحبا"}), "p2p", json!([])));
    assert_eq!((words(&said).as_str(), said.id.as_str()), ("Hello 😀 مرحبا", "ev1"));
    assert_eq!((said.thread.external_id.as_str(), said.thread.group), ("oc_1", false));
    assert_eq!(said.sender.external_id, "ou_ada");
    assert_eq!(said.at.unwrap().as_second(), NOW_S - 1);

    let part =
        |kind: &str, content: Value| match heard(&message(kind, &content, "p2p", json!([]))).body {
            EventBody::Message { message, .. } => message.parts,
            other => panic!("{kind}: {other:?}"),
        };
    for (kind, content, id) in [
        ("image", json!({"image_key": "img_1"}), "om_1 img_1 image"),
        ("file", json!({"file_key": "file_1", "file_name": "a.pdf"}), "om_1 file_1 file"),
        ("audio", json!({"file_key": "file_1", "duration": 3}), "om_1 file_1 file"),
        ("media", json!({"file_key": "file_1", "image_key": "img_1"}), "om_1 file_1 file"),
    ] {
        let parts = part(kind, content);
        let media = parts[0].media().unwrap();
        assert_eq!(media.external_id.as_deref(), Some(id));
        let plan = Feishu.fetch(&config(), media).unwrap();
        assert!(
            plan.url.starts_with("https://open.feishu.cn/open-apis/im/v1/messages/om_1/resources/")
        );
    }
    let place =
        part("location", json!({"name": "Berlin", "longitude": "13.4", "latitude": "52.5"}));
    assert_eq!(place[0].to_text(), "Berlin (52.500000, 13.400000)");
    let post = json!({"title": "T", "content": [[{"tag": "text", "text": "a "}, {"tag": "a", "text": "b", "href": "https://b.example"}],
        [{"tag": "img", "image_key": "img_2"}, 7]]});
    let post = part("post", post);
    assert_eq!(post[0].to_text(), "T\na b (https://b.example)");
    assert_eq!(post.len(), 2);
    let odd = message("sticker", &json!({"file_key": "x"}), "p2p", json!([]));
    assert_eq!(unknown(&heard(&odd)), "message_sticker");
    assert_eq!(
        unknown(&heard(&event("drive.file.title_updated_v1", json!({})))),
        "drive_file_title_updated_v1"
    );
}

#[test]
fn in_a_group_only_what_names_the_bot_is_answered() {
    let text = |words: &str| json!({"text": words});
    let at = |ids: &[(&str, &str, &str)]| {
        ids.iter()
            .map(|(key, name, id)| json!({"key": key, "name": name, "id": {"open_id": id}}))
            .collect()
    };
    let alone =
        message("text", &text("@_user_1 hi"), "group", at(&[("@_user_1", "Bot", "ou_bot")]));
    let alone = heard(&alone);
    assert_eq!((words(&alone).as_str(), alone.thread.group), ("hi", true));
    assert_eq!(heard(&message("text", &text("hi"), "group", json!([]))).body, EventBody::Overheard);

    let mut knows = config();
    knows.account = Some("Shop (24h) (ou_bot)".to_owned());
    let others =
        message("text", &text("@_user_1 hi"), "group", at(&[("@_user_1", "Bob", "ou_bob")]));
    assert_eq!(only(parse(&Feishu, &knows, &sealed(&others))).body, EventBody::Overheard);
    let both = at(&[("@_user_1", "Bot", "ou_bot"), ("@_user_12", "Bob", "ou_bob")]);
    let both = message("text", &text("@_user_1 ask @_user_12"), "group", both);
    assert_eq!(words(&only(parse(&Feishu, &knows, &sealed(&both)))), "ask @Bob");

    let mut own = message("text", &text("echo"), "p2p", json!([]));
    own["event"]["sender"]["sender_type"] = json!("app");
    assert!(parse(&Feishu, &config(), &sealed(&own)).unwrap().events.is_empty());
}

#[test]
fn receipts_reactions_recalls_and_buttons_are_heard() {
    let read = event(
        "im.message.message_read_v1",
        json!({"reader": {"reader_id": {"open_id": "ou_ada"}}, "message_id_list": ["om_1", 4, "om_2"]}),
    );
    let events = parse(&Feishu, &config(), &sealed(&read)).unwrap().events;
    let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["ev1", "ev1:1"]);
    assert_eq!(
        events[1].body,
        EventBody::Receipt { external_id: "om_2".to_owned(), state: ReceiptState::Read }
    );

    let reaction = json!({"message_id": "om_1", "reaction_type": {"emoji_type": "SMILE"}, "user_id": {"open_id": "ou_ada"}});
    for (kind, added) in [("created", true), ("deleted", false)] {
        let event = heard(&event(&format!("im.message.reaction.{kind}_v1"), reaction.clone()));
        assert_eq!(
            event.body,
            EventBody::Reaction { external_id: "om_1".to_owned(), sign: "SMILE".to_owned(), added }
        );
    }
    let recalled =
        heard(&event("im.message.recalled_v1", json!({"message_id": "om_1", "chat_id": "oc_1"})));
    assert_eq!(recalled.body, EventBody::Deleted { external_id: "om_1".to_owned() });

    let press = event(
        "card.action.trigger",
        json!({"operator": {"open_id": "ou_ada"}, "action": {"value": {"id": "b", "value": "handoff"}},
        "context": {"open_message_id": "om_1", "open_chat_id": "oc_1"}}),
    );
    let parsed = parse(&Feishu, &config(), &sealed(&press)).unwrap();
    assert_eq!(parsed.answer.body, b"{}");
    assert_eq!(parsed.events[0].body, EventBody::Pressed { value: "handoff".to_owned() });
    assert_eq!(parsed.events[0].thread.external_id, "oc_1");
}

#[test]
fn only_what_is_signed_and_sealed_with_the_key_is_believed() {
    let event = message("text", &json!({"text": "x"}), "p2p", json!([]));
    let body = json!({"encrypt": seal(KEY, &event.to_string())}).to_string();
    let refused = |request: RawRequest| match parse(&Feishu, &config(), &request) {
        Err(Reject::Unauthorized(why)) => why,
        other => panic!("{other:?}"),
    };
    let old = json!({"encrypt": seal("its-predecessor", &event.to_string())}).to_string();
    words(&only(parse(&Feishu, &config(), &signed("its-predecessor", &old, NOW_S))));
    refused(signed("another", &body, NOW_S));
    refused(signed("", &body, NOW_S));
    refused(request("POST", body.clone()));
    refused(RawRequest { body: format!("{body} ").into_bytes(), ..signed(KEY, &body, NOW_S) });
    assert!(refused(signed(KEY, &body, NOW_S - 9 * 3600)).contains("old"));
    assert!(refused(signed(KEY, &body, NOW_S + 301)).contains("old"));
    words(&only(parse(&Feishu, &config(), &signed(KEY, &body, NOW_S - 7 * 3600))));
    let mut twice = signed(KEY, &body, NOW_S);
    twice.headers.append("x-lark-signature", "00".parse().unwrap());
    refused(twice);

    // Signed, but not encrypted, or with the key of somebody else.
    for plain in [
        event.to_string(),
        json!({"encrypt": seal("another", "{}")}).to_string(),
        "[]".to_owned(),
        "{".to_owned(),
    ] {
        let answer = parse(&Feishu, &config(), &signed(KEY, &plain, NOW_S));
        assert!(matches!(answer, Err(Reject::Malformed(_))), "{answer:?}");
    }
    let mut other = event.clone();
    other["header"]["token"] = json!("wrong");
    refused(sealed(&other));
    let mut other = event.clone();
    other["header"]["app_id"] = json!("cli_other");
    refused(sealed(&other));
    let unset = stand::config(
        json!({"app_id": "cli_a1"}),
        json!({"encrypt_key": "", "verification_token": ""}),
    );
    assert!(matches!(
        parse(&Feishu, &unset, &signed("", &body, NOW_S)),
        Err(Reject::NotConfigured("encrypt_key"))
    ));
}

#[test]
fn the_address_is_proved_by_its_challenge() {
    let test = json!({"type": "url_verification", "challenge": "ch-1", "token": "vt"}).to_string();
    let answer = |body: String| {
        parse(&Feishu, &config(), &request("POST", body)).map(|parsed| parsed.answer.body)
    };
    let sealed = json!({"encrypt": seal(KEY, &test)}).to_string();
    assert_eq!(answer(sealed).unwrap(), br#"{"challenge":"ch-1"}"#);
    assert_eq!(answer(test.clone()).unwrap(), br#"{"challenge":"ch-1"}"#);
    let wrong = test.replace("vt", "other");
    assert!(matches!(answer(wrong.clone()), Err(Reject::Unauthorized(_))));
    assert!(matches!(
        answer(json!({"encrypt": seal(KEY, &wrong)}).to_string()),
        Err(Reject::Unauthorized(_))
    ));
    // Without a token, the key alone proves it.
    let bare = stand::config(json!({"app_id": "cli_a1"}), json!({"encrypt_key": KEY}));
    assert!(matches!(
        parse(&Feishu, &bare, &request("POST", test.clone())),
        Err(Reject::Unauthorized(_))
    ));
    let sealed = json!({"encrypt": seal(KEY, &test)}).to_string();
    assert!(parse(&Feishu, &bare, &request("POST", sealed)).is_ok());
}

#[test]
fn a_message_goes_out_as_text_or_card_under_one_uuid() {
    let plain = Message::text(TextFormat::Plain, "Hi <at user_id=\"all\"></at>");
    let plans = Feishu.render(&config(), &out("oc_1", &plain, None)).unwrap();
    let (plan, body) = http(&plans);
    assert_eq!(plan.url, "https://open.feishu.cn/open-apis/im/v1/messages?receive_id_type=chat_id");
    assert!(
        plan.headers.contains(&("authorization".to_owned(), "Bearer {access_token}".to_owned()))
    );
    assert_eq!((&body["receive_id"], &body["msg_type"]), (&json!("oc_1"), &json!("text")));
    assert!(!body["content"].as_str().unwrap().contains("<at"));
    assert_eq!(body["uuid"].as_str().unwrap().len(), 32);

    let mut rich = Message::text(TextFormat::Markdown, "**Hi**");
    let action = ButtonAction::Postback { value: "handoff".to_owned() };
    let items = vec![Button { id: "b".to_owned(), label: "Talk".to_owned(), action }];
    rich.parts.push(Part::Buttons { fallback_text: String::new(), items });
    let raw = json!({});
    let plans = Feishu.render(&config(), &out("oc_1 omt_1", &rich, Some(("om_9", &raw)))).unwrap();
    let (plan, body) = http(&plans);
    assert!(plan.url.ends_with("/im/v1/messages/om_9/reply"));
    assert_eq!(
        (&body["reply_in_thread"], &body["msg_type"]),
        (&json!(true), &json!("interactive"))
    );
    let card: Value = serde_json::from_str(body["content"].as_str().unwrap()).unwrap();
    assert_eq!(card["body"]["elements"][1]["behaviors"][0]["value"]["value"], "handoff");

    let mut lark = config();
    lark.settings.insert("region".to_owned(), json!("lark"));
    let plans = Feishu.render(&lark, &out("oc_1", &plain, None)).unwrap();
    assert!(http(&plans).0.url.starts_with("https://open.larksuite.com/"));
    let shown = qudao_core::channel::adapter::Outgoing {
        preview_id: Some("om_7"),
        ..out("oc_1", &plain, None)
    };
    let plans = Feishu.render(&config(), &shown).unwrap();
    let (plan, _) = http(&plans);
    assert_eq!((plan.method, plan.url.rsplit('/').next()), ("PATCH", Some("om_7")));
    let done = response(200, &json!({"code": 0, "data": {}}));
    let sent = Outcome::Sent { external_id: Some("om_7".to_owned()) };
    assert_eq!(Feishu.classify(&config(), &plans[0], &done), sent);

    let first = Feishu
        .preview(&config(), "oc_1", &Preview { draft: 1, text: "a", message_id: None })
        .unwrap();
    let next = Feishu
        .preview(&config(), "oc_1", &Preview { draft: 1, text: "ab", message_id: Some("om_7") })
        .unwrap();
    assert_eq!((first.method, next.method), ("POST", "PATCH"));
    assert!(next.url.ends_with("/im/v1/messages/om_7"));
}

#[test]
fn what_the_platform_says_is_understood() {
    let plan = Plan::Http(HttpPlan::get("send", "https://open.feishu.cn"));
    let said = |status, body: Value| Feishu.classify(&config(), &plan, &response(status, &body));
    assert_eq!(
        said(200, json!({"code": 0, "data": {"message_id": "om_2"}})),
        Outcome::Sent { external_id: Some("om_2".to_owned()) }
    );
    assert_eq!(said(400, json!({"code": 99_991_663})), Outcome::TokenExpired);
    let mut limited = response(400, &json!({"code": 99_991_400}));
    limited.headers.insert("x-ogw-ratelimit-reset", "7".parse().unwrap());
    let after = Some(std::time::Duration::from_secs(7));
    assert!(
        matches!(Feishu.classify(&config(), &plan, &limited), Outcome::Retry { after: given, .. } if given == after)
    );
    assert!(matches!(said(502, json!("x")), Outcome::Retry { .. }));
    let failed = |code: i64| match said(400, json!({"code": code})) {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(230_002), FailureReason::Blocked);
    assert_eq!(failed(230_025), FailureReason::TooLong);
    assert_eq!(failed(1), FailureReason::ProviderError);

    let token = response(200, &json!({"code": 0, "tenant_access_token": "t-1", "expire": 7200}));
    assert_eq!(Feishu.read_token(&token).unwrap().ttl.as_secs(), 7200);
    assert!(Feishu.read_token(&response(200, &json!({"code": 10_003}))).is_err());
    assert!(Feishu.read_token(&response(200, &json!({"code": 0, "expire": 1}))).is_err());
}
