use qudao_core::channel::{
    adapter::{Answered, FailureReason},
    event::{Event, EventBody},
};
use qudao_domain::message::{Message, Part, TextFormat};
use serde_json::Value;

use super::*;
use crate::fixture::{
    bodies, buttons, config, get, header, link, markdown, now, one, post, postback, response, rows,
    says, sent, sent_json, unknown,
};

const SECRET: &str = "8c570fa6dd201bb328f1c1eac23a96d8";

fn ours() -> ChannelConfig {
    config(json!({}), &[("channel_secret", &["newer", SECRET]), ("access_token", &["tok"])])
}

fn signed(secret: &str, body: &str) -> RawRequest {
    let made = STANDARD.encode(hmac_sha256(secret.as_bytes(), &[body.as_bytes()]));
    post(&[("x-line-signature", made)], body)
}

fn parse(body: &Value) -> Result<Parsed, Reject> {
    Line.verify_and_parse(&ours(), &signed(SECRET, &body.to_string()), now())
}

fn event(inner: Value) -> Value {
    let mut event = json!({ "mode": "active", "timestamp": 1_795_867_200_000_i64,
        "source": { "type": "user", "userId": "U1" }, "webhookEventId": "01HE",
        "deliveryContext": { "isRedelivery": false }, "replyToken": "rt1" });
    event.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    event
}

fn read(inner: Value) -> Event {
    one(parse(&json!({ "destination": "U0", "events": [event(inner)] })))
}

/// The values are those of LINE's guide to verifying requests.
#[test]
fn a_published_signature_is_accepted() {
    let body = r#"{"destination":"U8e742f61d673b39c7fff3cecb7536ef0","events":[]}"#;
    let made = "GhRKmvmHys4Pi8DxkF4+EayaH0OqtJtaZxgTD9fMDLs=";
    let request = post(&[("x-line-signature", made.to_owned())], body);
    assert!(Line.verify_and_parse(&ours(), &request, now()).unwrap().events.is_empty());
}

#[test]
fn what_is_not_signed_as_it_should_is_refused() {
    let body = r#"{"events":[],"x":"ä"}"#;
    let good = signed(SECRET, body);
    let refused = |request: &RawRequest| Line.verify_and_parse(&ours(), request, now()).err();
    assert_eq!(refused(&good), None);
    let value = good.header("x-line-signature").unwrap().to_owned();
    let mut cases = vec![
        signed("another", body),
        signed("", body),
        RawRequest { body: body[1..].into(), ..good.clone() },
        RawRequest { body: body.replace('ä', "\\u00e4").into(), ..good.clone() },
        RawRequest { headers: Default::default(), ..good.clone() },
    ];
    let url_safe = value.replace('+', "-").replace('/', "_").replace('=', "");
    for other in ["", &value[..43], &url_safe, &value.to_lowercase()] {
        cases.push(post(&[("x-line-signature", other.to_owned())], body));
    }
    let mut twice = good.clone();
    twice.headers.append("x-line-signature", value.parse().unwrap());
    cases.push(twice);
    for case in cases {
        assert!(matches!(refused(&case), Some(Reject::Unauthorized(_))), "{:?}", case.headers);
    }
    let without = config(json!({}), &[("channel_secret", &[""])]);
    let unset = Line.verify_and_parse(&without, &signed("", body), now());
    assert_eq!(unset.unwrap_err(), Reject::NotConfigured("channel_secret"));
    assert_eq!(refused(&get("")), Some(Reject::MethodNotAllowed));
    assert!(matches!(refused(&signed(SECRET, "[")), Some(Reject::Malformed(_))));
}

#[test]
fn every_kind_of_message_is_read() {
    let told = read(json!({ "type": "message", "message": { "id": "m1", "type": "text",
        "text": "أين 😀", "quotedMessageId": "m0", "quoteToken": "q" } }));
    assert_eq!((told.id.as_str(), told.thread.external_id.as_str()), ("01HE", "U1"));
    assert_eq!(told.at, Some(now()));
    let EventBody::Message { message, external_id } = told.body else { panic!() };
    assert_eq!((external_id.as_str(), message.reply_to.as_deref()), ("m1", Some("m0")));
    assert_eq!(message.to_text(), "أين 😀");

    let part = |message: Value| match read(json!({ "type": "message", "message": message })).body {
        EventBody::Message { mut message, .. } => message.parts.remove(0),
        other => panic!("{other:?}"),
    };
    let own = json!({ "type": "line" });
    for (kind, name) in
        [("image", "Image"), ("audio", "Audio"), ("video", "Video"), ("file", "File")]
    {
        let part = part(json!({ "id": "m2", "type": kind, "contentProvider": own,
            "fileName": "f.pdf", "fileSize": 7 }));
        assert!(format!("{part:?}").starts_with(name));
        let plan = Line.fetch(&ours(), part.media().unwrap()).unwrap();
        assert_eq!(plan.url, "https://api-data.line.me/v2/bot/message/m2/content");
        assert_eq!(header(&plan, "authorization"), Some("Bearer tok"));
    }
    let foreign = json!({ "type": "external", "originalContentUrl": "https://a.example/x.jpg" });
    let foreign = part(json!({ "id": "m2", "type": "image", "contentProvider": foreign }));
    assert_eq!(foreign.media().unwrap().url.as_deref(), Some("https://a.example/x.jpg"));
    assert!(Line.fetch(&ours(), foreign.media().unwrap()).is_none());
    let place =
        json!({ "id": "m", "type": "location", "title": "Shop", "latitude": 1.5, "longitude": 2 });
    assert_eq!(part(place).to_text(), "Shop (1.500000, 2.000000)");
    let sticker = json!({ "id": "m", "type": "sticker", "keywords": ["happy", "smile"] });
    assert_eq!(part(sticker).to_text(), "[sticker: happy, smile]");
    let new = read(json!({ "type": "message", "message": { "id": "m", "type": "hologram" } }));
    assert_eq!(new.body, unknown("message_hologram"));
}

#[test]
fn in_a_group_only_what_calls_the_account_is_answered() {
    let said = |mention: Value| {
        read(json!({ "type": "message",
        "source": { "type": "group", "groupId": "C1", "userId": "U1" },
        "message": { "id": "m1", "type": "text", "text": "@Acme hi", "mention": mention } }))
    };
    let other = said(json!({ "mentionees": [{ "userId": "U2", "isSelf": false }, 1] }));
    assert_eq!(other.body, EventBody::Overheard);
    let called = said(json!({ "mentionees": [{ "isSelf": true }] }));
    assert_eq!(called.body, says("m1", "@Acme hi"));
    assert_eq!((called.thread.external_id.as_str(), called.thread.group), ("C1", true));
    assert_eq!(called.sender.external_id, "U1");
}

#[test]
fn presses_comings_and_goings_are_told() {
    assert_eq!(
        read(json!({ "type": "follow", "follow": { "isUnblocked": true } })).body,
        EventBody::Reachable
    );
    assert_eq!(read(json!({ "type": "unfollow" })).body, EventBody::Unreachable);
    let gone = read(json!({ "type": "unsend", "unsend": { "messageId": "m1" } }));
    assert_eq!(gone.body, EventBody::Deleted { external_id: "m1".to_owned() });
    let standby = read(json!({ "type": "message", "mode": "standby",
        "message": { "id": "m", "type": "text", "text": "x" } }));
    assert_eq!(standby.body, EventBody::Overheard);
    assert_eq!(read(json!({ "type": "beacon", "beacon": {} })).body, unknown("beacon"));

    let items = vec![postback("b1", "Track", "track 17"), postback("b2", "Talk to us", "")];
    let message = Message { parts: vec![buttons(items)], reply_to: None };
    let body = sent_json(&sent(&Line, &ours(), "U1", &message, None)[0]);
    let pressed = |at: usize| {
        let data = body["messages"][0]["template"]["actions"][at]["data"].clone();
        read(json!({ "type": "postback", "postback": { "data": data } })).body
    };
    assert_eq!(pressed(0), EventBody::Pressed { value: "track 17".to_owned() });
    assert_eq!(pressed(1), EventBody::Pressed { value: "Talk to us".to_owned() });
}

#[test]
fn a_batch_is_read_whole_though_an_element_is_bad() {
    let good =
        event(json!({ "type": "message", "message": { "id": "m1", "type": "text", "text": "x" } }));
    let batch = json!({ "events": [good, 17, null, { "type": "message" }, {},
        event(json!({ "type": "message", "message": { "type": "text" } }))] });
    assert_eq!(
        bodies(parse(&batch)),
        [
            says("m1", "x"),
            unknown("unnamed"),
            unknown("unnamed"),
            unknown("message"),
            unknown("unnamed"),
            unknown("message_without_id"),
        ]
    );
    for odd in [json!(null), json!([]), json!({ "events": {} })] {
        assert_eq!(bodies(parse(&odd)), [unknown("body_without_events")]);
    }
}

fn answered<'a>(raw: &'a Value, seconds: i64) -> Option<Answered<'a>> {
    let at = Timestamp::from_second(now().as_second() - seconds).unwrap();
    Some(Answered { external_id: "m1", raw, at })
}

#[test]
fn the_reply_token_is_used_once_and_while_it_is_valid() {
    let raw = event(json!({ "type": "message" }));
    let to = |thread: &str, seconds: i64| {
        sent(&Line, &ours(), thread, &markdown("**Hi**"), answered(&raw, seconds)).remove(0)
    };
    let reply = to("U1", 5);
    assert_eq!(reply.url, "https://api.line.me/v2/bot/message/reply");
    assert_eq!(
        sent_json(&reply),
        json!({ "replyToken": "rt1",
        "messages": [{ "type": "text", "text": "Hi" }] })
    );
    for push in [to("U1", 60), to("U2", 5)] {
        assert_eq!(push.url, "https://api.line.me/v2/bot/message/push");
        assert_eq!(sent_json(&push)["replyToken"], Value::Null);
    }
    let long = markdown(&"words ".repeat(2000));
    let plans = sent(&Line, &ours(), "U1", &long, answered(&raw, 5));
    let kinds: Vec<_> = plans.iter().map(|plan| plan.purpose).collect();
    assert_eq!(kinds, ["reply", "push", "push"]);
    let keys: Vec<_> = plans.iter().filter_map(|plan| header(plan, "x-line-retry-key")).collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(uuid::Uuid::parse_str(keys[0]).unwrap().get_version_num(), 4);

    // A token that was used already: the same words are pushed, always under the same key.
    let used = response(400, &json!({ "message": "Invalid reply token" }));
    let again = |plan: &HttpPlan| match Line.classify(&ours(), &Plan::Http(plan.clone()), &used) {
        Outcome::Then(mut plans) => plans.remove(0),
        other => panic!("{other:?}"),
    };
    let Plan::Http(push) = again(&reply) else { panic!() };
    assert_eq!(
        sent_json(&push),
        json!({ "to": "U1", "messages": [{ "type": "text", "text": "Hi" }] })
    );
    assert_eq!(header(&push, "x-line-retry-key"), header(&to("U1", 60), "x-line-retry-key"));
    assert_eq!(again(&reply), Plan::Http(push));
}

#[test]
fn line_is_sent_what_it_can_show() {
    let to = |parts: Vec<Part>| {
        let message = Message { parts, reply_to: None };
        let body = sent_json(&sent(&Line, &ours(), "U1", &message, None)[0]);
        body["messages"].as_array().unwrap().clone()
    };
    let text = |text: String| Part::Text { format: TextFormat::Plain, text };
    let items = || buttons(vec![postback("a", "Yes", ""), link("b", "Shop", "https://a.example")]);
    let short = to(vec![text("Well?".to_owned()), items()]);
    assert_eq!(short[0]["template"]["text"], "Well?");
    assert_eq!(
        short[0]["template"]["actions"][1],
        json!({ "type": "uri", "label": "Shop", "uri": "https://a.example" })
    );
    let long = to(vec![text("x".repeat(161)), items()]);
    assert_eq!((&long[0]["type"], &long[1]["type"]), (&json!("text"), &json!("template")));
    let list = to(vec![text("Which?".to_owned()), rows(13)]);
    assert_eq!(list[0]["quickReply"]["items"].as_array().unwrap().len(), 13);
    let card = |items: Vec<qudao_domain::message::Button>| {
        to(vec![Part::Card {
            fallback_text: String::new(),
            title: "Box".to_owned(),
            text: Some("y".repeat(61)),
            image_url: Some("https://a.example/b.png".to_owned()),
            items,
        }])
    };
    let shown = card(vec![postback("a", "Buy", "")]);
    assert_eq!(shown[0]["template"]["thumbnailImageUrl"], "https://a.example/b.png");
    assert_eq!(shown[1]["text"], "y".repeat(61));
    let bare = card(vec![]);
    assert_eq!((&bare[0]["type"], &bare[1]["type"]), (&json!("image"), &json!("text")));
    let place =
        to(vec![Part::Location { latitude: 1.5, longitude: 2.5, name: None, address: None }]);
    assert_eq!(place[0]["address"], "1.500000, 2.500000");
    let image = Media { url: Some("https://a.example/x.png".to_owned()), ..Media::default() };
    assert_eq!(to(vec![Part::Image(image)])[0]["previewImageUrl"], "https://a.example/x.png");
    let own = Media {
        upload_id: Some("upl_1".to_owned()),
        alt: Some("a cat".to_owned()),
        ..Media::default()
    };
    assert_eq!(to(vec![Part::Image(own)])[0]["text"], "[image: a cat]");
    let film = Media { url: Some("https://a.example/x.mp4".to_owned()), ..Media::default() };
    assert_eq!(to(vec![Part::Video(film)])[0]["text"], "[video]\nhttps://a.example/x.mp4");
}

#[test]
fn answers_are_understood() {
    let plan = sent(&Line, &ours(), "U1", &markdown("x"), None).remove(0);
    let means = |status: u16, body: Value| {
        Line.classify(&ours(), &Plan::Http(plan.clone()), &response(status, &body))
    };
    let sent = Outcome::Sent { external_id: Some("461".to_owned()) };
    assert_eq!(means(200, json!({ "sentMessages": [{ "id": "461", "quoteToken": "q" }] })), sent);
    let again = json!({ "message": "The retry key is already accepted" });
    assert_eq!(means(409, again), Outcome::Sent { external_id: None });
    let under_way = json!({ "message": "The request is still processed" });
    assert!(matches!(means(409, under_way), Outcome::Retry { .. }));
    let why = |status: u16, message: &str| match means(status, json!({ "message": message })) {
        Outcome::Failed(failure) => Some(failure.reason),
        Outcome::Retry { .. } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(401, "Authentication failed"), Some(FailureReason::Auth));
    assert_eq!(
        why(400, "The property, 'to', in the request body is invalid"),
        Some(FailureReason::RecipientUnknown)
    );
    assert_eq!(why(429, "You have reached your monthly limit."), Some(FailureReason::Policy));
    assert_eq!(why(429, "The API rate limit has been exceeded."), None);
    assert_eq!(why(500, ""), None);
    assert_eq!(why(400, "The request body has 1 error(s)"), Some(FailureReason::ProviderError));
}

#[test]
fn connecting_sets_the_webhook_and_says_what_is_wrong() {
    let plans = Line.connect(&ours());
    assert_eq!(plans[1].method, "PUT");
    assert_eq!(sent_json(&plans[1])["endpoint"], "https://chat.example/v1/inbound/key");
    let says =
        |status: u16, body: Value| Line.connected(&ours(), &plans[0], &response(status, &body));
    let known = json!({ "displayName": "Acme", "basicId": "@216ru" });
    assert_eq!(says(200, known).unwrap().as_deref(), Some("Acme (@216ru)"));
    assert!(says(401, json!({ "message": "no" })).unwrap_err().contains("access token"));
    assert!(Line.typing(&ours(), "U1").is_some());
    assert!(Line.typing(&ours(), "C1").is_none());
    let waiting = Line.fetched(&ours(), &response(202, &Value::Null));
    assert!(matches!(waiting, Fetched::Failed(_)));
}

#[test]
fn what_line_sends_again_is_the_same_event_and_its_old_token_is_not_used() {
    let sent_on = |redelivered: bool| {
        read(json!({ "type": "message", "deliveryContext": { "isRedelivery": redelivered },
            "message": { "id": "m1", "type": "text", "text": "x" } }))
    };
    let (first, again) = (sent_on(false), sent_on(true));
    assert_eq!((&first.id, &first.body), (&again.id, &again.body));
    // Accepted late, by the platform's own word: the token is as old as the event.
    let mut old = again.raw;
    old["timestamp"] = json!((now().as_second() - 120) * 1000);
    let plan = sent(&Line, &ours(), "U1", &markdown("x"), answered(&old, 5)).remove(0);
    assert_eq!(plan.purpose, "push");
}
