use std::time::Duration;

use qudao_core::channel::{
    adapter::{ChannelAdapter as _, Failure, FailureReason, Fetched, Outcome, RawRequest, Reject},
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::{HttpPlan, Plan},
};
use qudao_domain::message::{Button, ButtonAction, Message, Part, TextFormat};
use serde_json::{Value, json};

use super::{crypto::Cipher, *};
use crate::stand::{self, NOW_S, http, now, only, out, parse, request, response, unknown, words};

const TOKEN: &str = "a-token";
const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
const OLD_KEY: &str = "GFEDCBA9876543210zyxwvutsrqponmlkjihgfedcba";

fn wecom() -> ChannelConfig {
    stand::config(
        json!({"corp_id": "ww1", "agent_id": 1_000_002}),
        json!({"secret": "s", "token": [TOKEN, "old-token"], "aes_key": [KEY, OLD_KEY]}),
    )
}

fn wechat() -> ChannelConfig {
    stand::config(
        json!({"app_id": "wx1"}),
        json!({"app_secret": "s", "token": [TOKEN, "old-token"], "aes_key": [KEY, OLD_KEY]}),
    )
}

fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A message sealed and signed as the platforms do it.
fn sealed(key: &str, token: &str, receiver: &str, message: &str, at: i64) -> RawRequest {
    let sealed = Cipher::new(key).unwrap().seal(b"seed", message.as_bytes(), receiver);
    let time = at.to_string();
    let signature = crypto::sign(token, &[&time, "nonce", &sealed]);
    let pairs = [
        ("msg_signature", signature.as_str()),
        ("timestamp", &time),
        ("nonce", "nonce"),
        ("encrypt_type", "aes"),
    ];
    let body = format!(
        "<xml><ToUserName><![CDATA[x]]></ToUserName><Encrypt><![CDATA[{sealed}]]></Encrypt></xml>"
    );
    RawRequest { query: query(&pairs), ..request("POST", body) }
}

fn xml_of(fields: &str) -> String {
    format!(
        "<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName><![CDATA[openid-1]]></FromUserName><CreateTime>{NOW_S}</CreateTime>{fields}</xml>"
    )
}

fn text(words: &str) -> String {
    xml_of(&format!(
        "<MsgType><![CDATA[text]]></MsgType><Content>{}</Content><MsgId>6054768590064713728</MsgId>",
        xml::cdata(words)
    ))
}

fn heard(fields: &str) -> Event {
    only(parse(&Wechat, &wechat(), &sealed(KEY, TOKEN, "wx1", &xml_of(fields), NOW_S)))
}

/// The values of the platform's own sample of its cipher.
#[test]
fn the_published_sample_is_opened() {
    let config = stand::config(
        json!({"corp_id": "wx5823bf96d3bd56c7"}),
        json!({"token": "QDG6eK", "aes_key": "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"}),
    );
    let pairs = [
        ("msg_signature", "5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3"),
        ("timestamp", "1409659589"),
        ("nonce", "263014780"),
        (
            "echostr",
            "P9nAzCzyDtyTWESHep1vC5X9xho/qYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp+4RPcs8TgAE7OaBO+FZXvnaqQ==",
        ),
    ];
    let request = RawRequest { query: query(&pairs), ..request("GET", "") };
    let then = jiff::Timestamp::from_second(1_409_659_589).unwrap();
    let parsed = Wecom.verify_and_parse(&config, &request, then).unwrap();
    assert_eq!(parsed.answer.body, b"1616140317555161061");
    let late = Wecom.verify_and_parse(&config, &request, now());
    assert!(matches!(late, Err(Reject::Unauthorized(why)) if why.contains("old")));
}

#[test]
fn a_message_is_heard_and_its_second_and_third_try_have_its_id() {
    let first =
        parse(&Wechat, &wechat(), &sealed(KEY, TOKEN, "wx1", &text("Hello 😀 مرحبا"), NOW_S))
            .unwrap();
    assert_eq!(first.patience, Some(Duration::from_millis(4500)));
    assert_eq!(first.answer.body, b"success");
    let event = &first.events[0];
    assert_eq!(
        (words(event).as_str(), event.id.as_str()),
        ("Hello 😀 مرحبا", "6054768590064713728")
    );
    assert_eq!(
        (event.thread.external_id.as_str(), event.sender.external_id.as_str()),
        ("openid-1", "openid-1")
    );
    assert_eq!(event.at.unwrap().as_second(), NOW_S);
    let again = sealed(OLD_KEY, "old-token", "wx1", &text("Hello 😀 مرحبا"), NOW_S + 5);
    assert_eq!(only(parse(&Wechat, &wechat(), &again)).id, event.id);

    let click = "<MsgType>event</MsgType><Event>CLICK</Event><EventKey>K</EventKey>";
    assert_eq!(heard(click).id, heard(click).id);
    assert_ne!(heard(click).id, heard(&click.replace("K<", "L<")).id);
}

#[test]
fn each_kind_of_message_becomes_its_part() {
    let message = |fields: &str| match heard(fields).body {
        EventBody::Message { message, .. } => message.parts[0].clone(),
        other => panic!("{fields}: {other:?}"),
    };
    for kind in ["image", "voice", "video", "shortvideo"] {
        let part = message(&format!(
            "<MsgType>{kind}</MsgType><MediaId>m-1</MediaId><Format>amr</Format><MsgId>1</MsgId>"
        ));
        assert_eq!(part.media().unwrap().external_id.as_deref(), Some("m-1"));
        let plan = Wechat.fetch(&wechat(), part.media().unwrap()).unwrap();
        assert_eq!(
            plan.url,
            "https://api.weixin.qq.com/cgi-bin/media/get?access_token={access_token}&media_id=m-1"
        );
    }
    let voice = message(
        "<MsgType>voice</MsgType><MediaId>m</MediaId><Recognition>where is it</Recognition><MsgId>1</MsgId>",
    );
    assert!(voice.to_text().contains("where is it"));
    let place = message(
        "<MsgType>location</MsgType><Location_X>52.5</Location_X><Location_Y>13.4</Location_Y><Label>Berlin</Label><MsgId>1</MsgId>",
    );
    assert_eq!(place.to_text(), "Berlin (52.500000, 13.400000)");
    let link = message(
        "<MsgType>link</MsgType><Title>T</Title><Url>https://x.example</Url><MsgId>1</MsgId>",
    );
    assert_eq!(link.to_text(), "T\nhttps://x.example");
    for (fields, kind) in [
        ("<MsgType>hologram</MsgType>", "message_hologram"),
        (
            "<MsgType>location</MsgType><Location_X>99</Location_X><Location_Y>1</Location_Y>",
            "message_location",
        ),
        ("<MsgType>event</MsgType><Event>VIEW</Event><EventKey>u</EventKey>", "event_view"),
        ("", "message_"),
    ] {
        assert_eq!(unknown(&heard(fields)), kind);
    }
    let video = response(200, &json!({"video_url": "https://v.example/x"}));
    let json_answer = |mut answer: qudao_core::channel::plan::RawResponse| {
        answer.headers.insert("content-type", "text/plain".parse().unwrap());
        Wechat.fetched(&wechat(), &answer)
    };
    assert!(matches!(json_answer(video), Fetched::Then(plan) if plan.url == "https://v.example/x"));
    assert!(matches!(json_answer(response(200, &json!({"errcode": 40_007}))), Fetched::Failed(_)));
}

#[test]
fn following_tells_where_from_and_unfollowing_ends_it() {
    let subscribed = heard(
        "<MsgType>event</MsgType><Event>subscribe</Event><EventKey>qrscene_spring24</EventKey><Ticket>t</Ticket>",
    );
    assert_eq!(subscribed.body, EventBody::Reachable);
    assert_eq!(subscribed.attribution.unwrap().reference.as_deref(), Some("spring24"));
    let plain = heard("<MsgType>event</MsgType><Event>subscribe</Event><EventKey></EventKey>");
    assert_eq!((plain.body, plain.attribution), (EventBody::Reachable, None));
    let scanned = heard("<MsgType>event</MsgType><Event>SCAN</Event><EventKey>spring24</EventKey>");
    assert_eq!(scanned.attribution.unwrap().reference.as_deref(), Some("spring24"));
    assert_eq!(
        heard("<MsgType>event</MsgType><Event>unsubscribe</Event>").body,
        EventBody::Unreachable
    );
    let pressed = EventBody::Pressed { value: "handoff".to_owned() };
    assert_eq!(
        heard("<MsgType>event</MsgType><Event>CLICK</Event><EventKey>handoff</EventKey>").body,
        pressed
    );
    assert_eq!(heard("<MsgType>text</MsgType><Content>Talk</Content><bizmsgmenuid>handoff</bizmsgmenuid><MsgId>1</MsgId>").body, pressed);
    // Nobody waits for an answer to an event.
    let request = sealed(
        KEY,
        TOKEN,
        "wx1",
        &xml_of("<MsgType>event</MsgType><Event>subscribe</Event>"),
        NOW_S,
    );
    assert_eq!(parse(&Wechat, &wechat(), &request).unwrap().patience, None);
}

fn unauthorized(config: &ChannelConfig, request: &RawRequest) {
    let answer = parse(&Wechat, config, request);
    assert!(matches!(answer, Err(Reject::Unauthorized(_))), "{answer:?}");
}

#[test]
fn only_what_is_signed_and_sealed_for_this_account_is_believed() {
    let good = || sealed(KEY, TOKEN, "wx1", &text("x"), NOW_S);
    unauthorized(&wechat(), &sealed(KEY, "another", "wx1", &text("x"), NOW_S));
    unauthorized(&wechat(), &sealed(KEY, "", "wx1", &text("x"), NOW_S));
    unauthorized(&wechat(), &sealed(KEY, TOKEN, "wx2", &text("x"), NOW_S));
    unauthorized(&wechat(), &sealed(KEY, TOKEN, "", &text("x"), NOW_S));
    unauthorized(&wechat(), &sealed(&KEY.replace('a', "b"), TOKEN, "wx1", &text("x"), NOW_S));
    unauthorized(&wechat(), &sealed(KEY, TOKEN, "wx1", &text("x"), NOW_S - 601));
    unauthorized(&wechat(), &sealed(KEY, TOKEN, "wx1", &text("x"), NOW_S + 601));
    assert!(parse(&Wechat, &wechat(), &sealed(KEY, TOKEN, "wx1", &text("x"), NOW_S - 600)).is_ok());
    unauthorized(&wechat(), &RawRequest { query: String::new(), ..good() });
    unauthorized(
        &wechat(),
        &RawRequest { query: good().query.replace("nonce=nonce", "nonce=other"), ..good() },
    );
    unauthorized(&wechat(), &RawRequest { body: text("not sealed").into_bytes(), ..good() });
    let cut = good().body[..good().body.len() - 20].to_vec();
    unauthorized(&wechat(), &RawRequest { body: cut, ..good() });
    let garbage = sealed(KEY, TOKEN, "wx1", "<xml><a>", NOW_S);
    assert!(matches!(parse(&Wechat, &wechat(), &garbage), Err(Reject::Malformed(_))));
    // The signature of the plain mode opens nothing in safe mode.
    let time = NOW_S.to_string();
    let signature = crypto::sign(TOKEN, &[&time, "n"]);
    let pairs = [("signature", signature.as_str()), ("timestamp", &time), ("nonce", "n")];
    let plain = RawRequest { query: query(&pairs), ..request("POST", text("x")) };
    unauthorized(&wechat(), &plain);
    let open = stand::config(json!({"app_id": "wx1", "mode": "plain"}), json!({"token": TOKEN}));
    assert_eq!(words(&only(parse(&Wechat, &open, &plain))), "x");

    for (name, secrets) in [
        ("token", json!({"aes_key": KEY})),
        ("aes_key", json!({"token": TOKEN, "aes_key": ""})),
        ("token", json!({"token": "", "aes_key": KEY})),
    ] {
        let config = stand::config(json!({"app_id": "wx1", "corp_id": "wx1"}), secrets);
        for answer in [parse(&Wechat, &config, &good()), parse(&Wecom, &config, &good())] {
            assert!(
                matches!(answer, Err(Reject::NotConfigured(missing)) if missing == name),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn the_address_is_proved_by_its_echo() {
    let time = NOW_S.to_string();
    let ask = |token: &str, echo: &str| {
        let signature = crypto::sign(token, &[&time, "n"]);
        let pairs = [
            ("signature", signature.as_str()),
            ("timestamp", &time),
            ("nonce", "n"),
            ("echostr", echo),
        ];
        let request = RawRequest { query: query(&pairs), ..request("GET", "") };
        parse(&Wechat, &wechat(), &request).map(|parsed| parsed.answer.body)
    };
    assert_eq!(ask(TOKEN, "5904").unwrap(), b"5904");
    assert_eq!(ask("old-token", "5904").unwrap(), b"5904");
    assert!(matches!(ask("another", "5904"), Err(Reject::Unauthorized(_))));
    assert!(matches!(ask(TOKEN, "<script>"), Err(Reject::Malformed(_))));
    assert!(matches!(
        parse(&Wechat, &wechat(), &request("PUT", "")),
        Err(Reject::MethodNotAllowed)
    ));
}

#[test]
fn a_quick_answer_goes_with_the_platforms_own_and_a_slow_one_waits() {
    let message = Message::text(TextFormat::Plain, "It left 😀 ]]> today");
    let config = wechat();
    for (key, token) in [(KEY, TOKEN), (OLD_KEY, "old-token")] {
        let asked = sealed(key, token, "wx1", &text("where?"), NOW_S);
        let answer = Wechat
            .passive_answer(&config, &asked, &out("openid-1", &message, None), now())
            .unwrap();
        let envelope = xml::read(&answer.body).unwrap();
        let field = |name: &str| envelope[name].as_str().unwrap().to_owned();
        let signature =
            crypto::sign(token, &[&field("TimeStamp"), &field("Nonce"), &field("Encrypt")]);
        assert_eq!(field("MsgSignature"), signature);
        let opened = Cipher::new(key).unwrap().open(&field("Encrypt"), "wx1").unwrap();
        let reply = xml::read(&opened).unwrap();
        let wanted = json!({"ToUserName": "openid-1", "FromUserName": "gh_1", "CreateTime": NOW_S.to_string(),
            "MsgType": "text", "Content": "It left 😀 ]]> today"});
        assert_eq!(reply, wanted);
        // The question says whose answer it is, if nobody else does.
        let nameless = Wechat.passive_answer(&config, &asked, &out("", &message, None), now());
        assert_eq!(nameless, Some(answer));
        // Somebody else's answer does not go to who asks.
        assert_eq!(
            Wechat.passive_answer(&config, &asked, &out("openid-2", &message, None), now()),
            None
        );
    }
    let forged = sealed(KEY, "another", "wx1", &text("where?"), NOW_S);
    assert_eq!(
        Wechat.passive_answer(&config, &forged, &out("openid-1", &message, None), now()),
        None
    );
    assert_eq!(Wechat.render(&config, &out("openid-1", &message, None)).unwrap(), [Plan::Passive]);

    let mut active = wechat();
    active.settings.insert("customer_service".to_owned(), json!(true));
    let plans = Wechat.render(&active, &out("openid-1", &message, None)).unwrap();
    let (plan, body) = http(&plans);
    assert_eq!(
        plan.url,
        "https://api.weixin.qq.com/cgi-bin/message/custom/send?access_token={access_token}"
    );
    assert_eq!(
        body,
        json!({"touser": "openid-1", "msgtype": "text", "text": {"content": "It left 😀 ]]> today"}})
    );
    assert!(
        Wechat.typing(&active, "openid-1").is_some()
            && Wechat.typing(&config, "openid-1").is_none()
    );

    let mut menu = Message::text(TextFormat::Plain, "What now?");
    let action = ButtonAction::Postback { value: "handoff".to_owned() };
    let items = vec![Button { id: "b".to_owned(), label: "Talk".to_owned(), action }];
    menu.parts.push(Part::Buttons { fallback_text: String::new(), items });
    let plans = Wechat.render(&active, &out("openid-1", &menu, None)).unwrap();
    assert_eq!(http(&plans).1["msgmenu"]["list"], json!([{"id": "handoff", "content": "Talk"}]));
}

#[test]
fn an_app_of_wecom_hears_and_sends() {
    let asked = sealed(KEY, TOKEN, "ww1", &text("Hello"), NOW_S);
    let parsed = parse(&Wecom, &wecom(), &asked).unwrap();
    assert_eq!((words(&parsed.events[0]).as_str(), parsed.patience), ("Hello", None));
    let press = xml_of(
        "<MsgType>event</MsgType><Event>template_card_event</Event><EventKey>handoff</EventKey><TaskId>t</TaskId>",
    );
    let press = only(parse(&Wecom, &wecom(), &sealed(KEY, TOKEN, "ww1", &press, NOW_S)));
    assert_eq!(press.body, EventBody::Pressed { value: "handoff".to_owned() });

    let mut message = Message::text(TextFormat::Markdown, "**Hi**");
    let page = ButtonAction::Url { url: "https://x.example".to_owned() };
    let items = vec![Button { id: "b".to_owned(), label: "Open".to_owned(), action: page }];
    message.parts.push(Part::Buttons { fallback_text: String::new(), items });
    let plans = Wecom.render(&wecom(), &out("zhangsan", &message, None)).unwrap();
    let bodies: Vec<Value> = plans
        .iter()
        .map(|plan| match plan {
            Plan::Http(plan) => serde_json::from_slice(&plan.body).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        bodies[0],
        json!({"touser": "zhangsan", "agentid": 1_000_002, "msgtype": "markdown", "markdown": {"content": "**Hi**"}})
    );
    assert_eq!(bodies[1]["template_card"]["button_list"][0]["url"], "https://x.example");
    for everybody in ["@all", "a|b", ""] {
        let refused = Wecom.render(&wecom(), &out(everybody, &message, None));
        assert!(
            matches!(refused, Err(Failure { reason: FailureReason::RecipientUnknown, .. })),
            "{everybody}"
        );
    }
    let url = Wecom.token(&wecom()).unwrap().url;
    assert_eq!(url, "https://qyapi.weixin.qq.com/cgi-bin/gettoken?corpid=ww1&corpsecret=s");
    let token = response(200, &json!({"errcode": 0, "access_token": "t", "expires_in": 7200}));
    assert_eq!(Wecom.read_token(&token).unwrap().ttl.as_secs(), 7200);
    let wrong = Wecom.read_token(&response(200, &json!({"errcode": 40_001})));
    assert!(matches!(wrong, Err(why) if why.contains("secret")));
}

#[test]
fn what_the_platforms_say_is_understood() {
    let plan = Plan::Http(HttpPlan::get("send", "https://x.example"));
    let said = |body: Value| Wecom.classify(&wecom(), &plan, &response(200, &body));
    assert_eq!(
        said(json!({"errcode": 0, "msgid": "m"})),
        Outcome::Sent { external_id: Some("m".to_owned()) }
    );
    assert_eq!(said(json!({"errcode": 42_001})), Outcome::TokenExpired);
    assert!(matches!(said(json!({"errcode": -1})), Outcome::Retry { .. }));
    assert!(matches!(said(json!({"errcode": 45_033})), Outcome::Retry { after: Some(_), .. }));
    assert!(matches!(said(json!("x")), Outcome::Retry { .. }));
    let failed = |body: Value| match said(body) {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        failed(json!({"errcode": 0, "invaliduser": "zhangsan"})),
        FailureReason::RecipientUnknown
    );
    assert_eq!(failed(json!({"errcode": 45_015})), FailureReason::WindowClosed);
    assert_eq!(failed(json!({"errcode": 43_004})), FailureReason::Blocked);
    assert_eq!(failed(json!({"errcode": 40_164})), FailureReason::Auth);
    assert_eq!(failed(json!({"errcode": 99_999})), FailureReason::ProviderError);
    let outcome = Wechat.classify(&wechat(), &plan, &response(200, &json!({"errcode": 48_001})));
    assert!(matches!(outcome, Outcome::Failed(Failure { reason: FailureReason::Policy, .. })));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let check = |settings: Value, secrets: Value| {
        Wechat.check(&stand::config(settings, secrets)).map_err(|(field, _)| field)
    };
    assert_eq!(check(json!({}), json!({"token": "t"})), Err("aes_key"));
    assert_eq!(check(json!({}), json!({"token": "t", "aes_key": "short"})), Err("aes_key"));
    assert_eq!(check(json!({"mode": "plain"}), json!({"token": "t"})), Ok(()));
    assert_eq!(
        check(json!({"customer_service": true}), json!({"aes_key": KEY})),
        Err("app_secret")
    );
}
