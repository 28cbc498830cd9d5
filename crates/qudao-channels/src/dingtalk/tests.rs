use qudao_core::channel::{
    adapter::FailureReason,
    event::{Event, EventBody},
    session::{OpenError, SessionFrame, SessionStep},
};
use qudao_domain::message::{Button, ButtonAction, Message, Part, TextFormat};
use serde_json::{Value, json};

use super::*;
use crate::stand::{self, NOW_S, http, only, out, parse, request, response, unknown, with, words};

fn config() -> ChannelConfig {
    stand::config(json!({"app_key": "ding1"}), json!({"app_secret": ["secret", "its-predecessor"]}))
}

fn signed(secret: &str, body: &str, at: i64) -> RawRequest {
    let time = (at * 1000).to_string();
    with(with(request("POST", body), "timestamp", &time), "sign", &sign(secret, &time))
}

fn message(change: impl Fn(&mut Value)) -> Value {
    let mut message = json!({
        "conversationId": "cid1==", "conversationType": "1", "msgId": "msg1", "senderId": "$:LWCP_v1:$a",
        "senderStaffId": "staff1", "senderNick": "Ada", "chatbotUserId": "$:LWCP_v1:$bot", "createAt": 1_795_896_000_000_i64,
        "robotCode": "ding1", "sessionWebhook": "https://oapi.dingtalk.com/robot/sendBySession?session=s1",
        "sessionWebhookExpiredTime": (NOW_S + 3600) * 1000, "msgtype": "text", "text": {"content": " Hello 😀 مرحبا "},
    });
    change(&mut message);
    message
}

fn heard(change: impl Fn(&mut Value)) -> Event {
    only(parse(&Dingtalk, &config(), &signed("secret", &message(change).to_string(), NOW_S)))
}

#[test]
fn each_kind_of_message_becomes_its_part() {
    let said = heard(|_| {});
    assert_eq!((words(&said).as_str(), said.id.as_str()), ("Hello 😀 مرحبا", "msg1"));
    assert_eq!(
        (said.thread.external_id.as_str(), said.sender.external_id.as_str()),
        ("user:staff1", "staff1")
    );
    assert_eq!(said.at.unwrap().as_second(), NOW_S);
    let stranger = heard(|message| message["senderStaffId"] = json!(""));
    assert_eq!(stranger.thread.external_id, "conversation:cid1==");

    let part = |kind: &str, content: Value| match heard(|message| {
        message["msgtype"] = json!(kind);
        message["content"] = content.clone();
    })
    .body
    {
        EventBody::Message { message, .. } => message.parts,
        other => panic!("{kind}: {other:?}"),
    };
    for kind in ["picture", "audio", "video", "file"] {
        let parts = part(
            kind,
            json!({"downloadCode": "code", "fileName": "a.pdf", "recognition": "words"}),
        );
        let media = parts[0].media().unwrap();
        assert_eq!(media.external_id.as_deref(), Some("code"));
        let plan = Dingtalk.fetch(&config(), media).unwrap();
        assert_eq!(plan.url, "https://api.dingtalk.com/v1.0/robot/messageFiles/download");
    }
    let rich = part(
        "richText",
        json!({"richText": [{"text": "see"}, 4, {"downloadCode": "c", "type": "picture"}]}),
    );
    assert_eq!((rich[0].to_text().as_str(), rich.len()), ("see", 2));
    assert_eq!(
        unknown(&heard(|message| message["msgtype"] = json!("unknownMsgType"))),
        "message_unknownMsgType"
    );
    let mut bytes = response(200, &json!({"downloadUrl": "https://f.example/x"}));
    bytes.headers.insert("content-type", "application/json".parse().unwrap());
    assert!(
        matches!(Dingtalk.fetched(&config(), &bytes), Fetched::Then(plan) if plan.url == "https://f.example/x")
    );
}

#[test]
fn in_a_group_only_what_names_the_robot_is_answered() {
    let group = |named: bool| {
        heard(move |message| {
            message["conversationType"] = json!("2");
            message["isInAtList"] = json!(named);
        })
    };
    assert_eq!(group(true).thread.external_id, "group:cid1==");
    assert!(group(true).thread.group);
    words(&group(true));
    assert_eq!(group(false).body, EventBody::Overheard);
    let own = message(|message| message["senderId"] = message["chatbotUserId"].clone());
    assert!(
        parse(&Dingtalk, &config(), &signed("secret", &own.to_string(), NOW_S))
            .unwrap()
            .events
            .is_empty()
    );
}

#[test]
fn only_what_is_signed_lately_is_believed() {
    let body = message(|_| {}).to_string();
    let refused = |request: &RawRequest| {
        let answer = parse(&Dingtalk, &config(), request);
        assert!(matches!(answer, Err(Reject::Unauthorized(_))), "{answer:?}");
    };
    assert!(parse(&Dingtalk, &config(), &signed("its-predecessor", &body, NOW_S - 3600)).is_ok());
    refused(&signed("another", &body, NOW_S));
    refused(&signed("", &body, NOW_S));
    refused(&signed("secret", &body, NOW_S - 3601));
    refused(&signed("secret", &body, NOW_S + 3601));
    refused(&request("POST", body.clone()));
    let mut twice = signed("secret", &body, NOW_S);
    twice.headers.append("sign", "x".parse().unwrap());
    refused(&twice);
    let time = "not-a-time";
    refused(&with(
        with(request("POST", body.clone()), "timestamp", time),
        "sign",
        &sign("secret", time),
    ));
    let other = message(|message| message["robotCode"] = json!("ding2")).to_string();
    refused(&signed("secret", &other, NOW_S));
    for odd in ["", "[]", "{", "7"] {
        let answer = parse(&Dingtalk, &config(), &signed("secret", odd, NOW_S));
        assert!(matches!(answer, Err(Reject::Malformed(_))), "{answer:?}");
    }
    let unset = stand::config(json!({}), json!({"app_secret": ""}));
    assert!(matches!(
        parse(&Dingtalk, &unset, &signed("", &body, NOW_S)),
        Err(Reject::NotConfigured(_))
    ));
}

/// HMAC-SHA256 of `1577262236757\nthis is secret` with the key `this is secret`, the value that
/// Python's `hmac` gives.
#[test]
fn the_signature_is_the_platforms() {
    assert_eq!(
        sign("this is secret", "1577262236757"),
        "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM="
    );
}

#[test]
fn an_answer_goes_to_the_conversations_address_while_that_is_valid_and_the_platforms_own() {
    let message_of = Message::text(TextFormat::Markdown, "# Hi\n**you**");
    let raw = message(|_| {});
    let plans =
        Dingtalk.render(&config(), &out("user:staff1", &message_of, Some(("msg1", &raw)))).unwrap();
    let (plan, body) = http(&plans);
    assert_eq!(plan.url, "https://oapi.dingtalk.com/robot/sendBySession?session=s1");
    assert_eq!(
        body,
        json!({"msgtype": "markdown", "markdown": {"title": "Hi", "text": "# Hi\n**you**"}})
    );

    for address in [
        "https://evil.example/robot",
        "http://oapi.dingtalk.com/robot",
        "https://oapi.dingtalk.com.evil.example/",
        "https://evil@oapi.dingtalk.com/",
        "https://oapi.dingtalk.com:8443/",
        "https://evildingtalk.com/",
        "",
    ] {
        let raw = message(|message| message["sessionWebhook"] = json!(address));
        let plans = Dingtalk
            .render(&config(), &out("user:staff1", &message_of, Some(("msg1", &raw))))
            .unwrap();
        assert!(http(&plans).0.url.starts_with("https://api.dingtalk.com/"), "{address}");
    }
    let late = message(|message| message["sessionWebhookExpiredTime"] = json!(NOW_S * 1000));
    let plans = Dingtalk
        .render(&config(), &out("user:staff1", &message_of, Some(("msg1", &late))))
        .unwrap();
    let (plan, body) = http(&plans);
    assert_eq!(plan.url, "https://api.dingtalk.com/v1.0/robot/oToMessages/batchSend");
    assert!(
        plan.headers
            .contains(&("x-acs-dingtalk-access-token".to_owned(), "{access_token}".to_owned()))
    );
    assert_eq!(
        (&body["userIds"], &body["robotCode"], &body["msgKey"]),
        (&json!(["staff1"]), &json!("ding1"), &json!("sampleMarkdown"))
    );
    let group = Dingtalk.render(&config(), &out("group:cid1==", &message_of, None)).unwrap();
    assert_eq!(http(&group).1["openConversationId"], "cid1==");
    let closed = Dingtalk.render(&config(), &out("conversation:c", &message_of, None)).unwrap_err();
    assert_eq!(closed.reason, FailureReason::WindowClosed);
}

#[test]
fn a_button_opens_its_page_or_speaks_for_the_person() {
    let button =
        |label: &str, action| Button { id: "b".to_owned(), label: label.to_owned(), action };
    let mut rich = Message::text(TextFormat::Plain, "What now?");
    let items = vec![
        button("Talk", ButtonAction::Postback { value: "hand off".to_owned() }),
        button("Open", ButtonAction::Url { url: "https://x.example".to_owned() }),
    ];
    rich.parts.push(Part::Buttons { fallback_text: String::new(), items });
    let raw = message(|_| {});
    let plans = Dingtalk.render(&config(), &out("user:s", &rich, Some(("m", &raw)))).unwrap();
    let buttons = &http(&plans).1["actionCard"]["btns"];
    assert_eq!(buttons[0]["actionURL"], "dtmd://dingtalkclient/sendMessage?content=hand%20off");
    assert_eq!(buttons[1]["actionURL"], "https://x.example");
    let plans = Dingtalk.render(&config(), &out("user:s", &rich, None)).unwrap();
    assert_eq!(http(&plans).1["msgKey"], "sampleActionCard2");
}

#[test]
fn what_the_platform_says_is_understood() {
    let plan = |purpose| Plan::Http(HttpPlan::get(purpose, "https://x.example"));
    let session =
        |body: Value| Dingtalk.classify(&config(), &plan("session"), &response(200, &body));
    assert_eq!(session(json!({"errcode": 0})), Outcome::Sent { external_id: None });
    let ten_minutes = Some(Duration::from_secs(600));
    assert!(
        matches!(session(json!({"errcode": 130_101})), Outcome::Retry { after, .. } if after == ten_minutes)
    );
    let api =
        |status, body: Value| Dingtalk.classify(&config(), &plan("send"), &response(status, &body));
    assert_eq!(
        api(200, json!({"processQueryKey": "k"})),
        Outcome::Sent { external_id: Some("k".to_owned()) }
    );
    assert!(matches!(api(200, json!({"invalidStaffIdList": ["s"]})), Outcome::Failed(_)));
    assert_eq!(api(400, json!({"code": "InvalidAuthentication"})), Outcome::TokenExpired);
    assert!(matches!(
        api(403, json!({"code": "Forbidden.AccessDenied.QpsLimitForApi"})),
        Outcome::Retry { .. }
    ));
    assert!(matches!(api(503, json!("x")), Outcome::Retry { .. }));
    let token = response(200, &json!({"accessToken": "t", "expireIn": 7200}));
    assert_eq!(Dingtalk.read_token(&token).unwrap().text, "t");
    assert!(
        Dingtalk.read_token(&response(400, &json!({"code": "invalidClientIdOrSecret"}))).is_err()
    );
}

#[test]
fn a_stream_hands_messages_on_before_it_acknowledges_them() {
    let plan = Dingtalk.locate(&config()).unwrap();
    assert_eq!(plan.url, "https://api.dingtalk.com/v1.0/gateway/connections/open");
    let asked: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!((&asked["clientId"], &asked["clientSecret"]), (&json!("ding1"), &json!("secret")));
    assert!(!Dingtalk.is_held(&config()));
    let located =
        response(200, &json!({ "endpoint": "wss://a.example:443/connect", "ticket": "a+b/c=" }));
    assert!(matches!(Dingtalk.open(&config(), None, None), Err(OpenError::Unlocated)));
    let mut session = Dingtalk.open(&config(), Some(&located), None).unwrap();
    assert_eq!(session.address(), "wss://a.example:443/connect?ticket=a%2Bb%2Fc%3D");
    let now = Timestamp::from_second(NOW_S).unwrap();
    let mut feed = |kind: &str, topic: &str, data: &str| {
        let frame = json!({ "specVersion": "1.0", "type": kind, "data": data,
            "headers": { "topic": topic, "messageId": "m1" } });
        session.on_frame(&SessionFrame::Text(frame.to_string()), now)
    };
    let answered = |step: &SessionStep| match step {
        SessionStep::Send(SessionFrame::Text(text)) => serde_json::from_str::<Value>(text).unwrap(),
        other => panic!("{other:?}"),
    };
    let first = feed("SYSTEM", "ping", r#"{"opaque":"x"}"#);
    let [SessionStep::Established, SessionStep::Wake(_), pong] = &first[..] else { panic!() };
    let pong = answered(pong);
    assert_eq!((&pong["code"], &pong["headers"]["messageId"]), (&json!(200), &json!("m1")));
    assert_eq!(pong["data"], r#"{"opaque":"x"}"#);
    const TOPIC: &str = "/v1.0/im/bot/messages/get";
    let steps = feed("CALLBACK", TOPIC, &message(|_| {}).to_string());
    let [SessionStep::Accept(events), acknowledged] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(words(&events[0]), "Hello 😀 مرحبا");
    assert_eq!(answered(acknowledged)["headers"]["messageId"], "m1");
    let steps =
        feed("CALLBACK", TOPIC, &message(|it| it["robotCode"] = json!("other")).to_string());
    let [SessionStep::Accept(events), _] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(unknown(&events[0]), "message_of_another_robot");
    assert!(matches!(feed("EVENT", "x", "")[..], [SessionStep::Send(_)]));
    assert!(matches!(feed("SYSTEM", "disconnect", "")[..], [SessionStep::Reconnect(_)]));
    // Nothing more is heard.
    assert!(matches!(session.on_timer(now)[..], [SessionStep::Wake(_)]));
    assert!(matches!(session.on_timer(now)[..], [SessionStep::Reconnect(_)]));
    let refused = response(401, &json!({ "code": "invalidClientIdOrSecret" }));
    let refused = Dingtalk.open(&config(), Some(&refused), None);
    assert!(matches!(refused, Err(OpenError::Refused(words)) if words.contains("Client ID")));
    let busy = response(503, &json!({}));
    assert!(matches!(Dingtalk.open(&config(), Some(&busy), None), Err(OpenError::Later(_))));
}
