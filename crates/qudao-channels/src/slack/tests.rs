use std::time::Duration;

use qudao_core::channel::{
    adapter::{Answered, FailureReason},
    event::EventBody,
};
use qudao_domain::message::{Message, Part};
use serde_json::json;

use super::*;
use crate::fixture::{
    NOW_S, bodies, buttons, config, header, link, markdown, now, one, post, postback, response,
    rows, says, sent, sent_json, unknown,
};

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

fn ours() -> ChannelConfig {
    config(json!({}), &[("signing_secret", &["newer", SECRET]), ("bot_token", &["xoxb-1"])])
}

fn signed_at(second: i64, secret: &str, body: &str) -> RawRequest {
    let made = format!("v0:{second}:{body}");
    let made = hex::encode(hmac_sha256(secret.as_bytes(), &[made.as_bytes()]));
    post(
        &[
            ("x-slack-request-timestamp", second.to_string()),
            ("x-slack-signature", format!("v0={made}")),
        ],
        body,
    )
}

fn parse(body: &Value) -> Result<Parsed, Reject> {
    let request = signed_at(NOW_S, SECRET, &body.to_string());
    Slack.verify_and_parse(&ours(), &request, now())
}

fn callback(event: Value) -> Value {
    json!({
        "token": "old", "team_id": "T1", "api_app_id": "A1", "type": "event_callback",
        "event_id": "Ev1", "event_time": NOW_S,
        "authorizations": [{ "team_id": "T1", "user_id": "UBOT", "is_bot": true }],
        "event": event,
    })
}

/// The values are those of Slack's guide to verifying requests.
#[test]
fn the_published_signature_is_accepted() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow\
        &channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner\
        &command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands\
        %2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121\
        .803a0bc887a14d10d2c447fce8b6703c";
    let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let request = post(
        &[
            ("x-slack-request-timestamp", "1531420618".to_owned()),
            ("x-slack-signature", signature.to_owned()),
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
        ],
        body,
    );
    let then = Timestamp::from_second(1_531_420_618).unwrap();
    let event = one(Slack.verify_and_parse(&ours(), &request, then));
    assert_eq!(event.thread.external_id, "G8PSS9T3V");
    assert_eq!(event.sender.name.as_deref(), Some("roadrunner"));
    assert_eq!(event.raw.pointer("/token"), None);
    let id = "command:398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    assert_eq!(event.body, says(id, "/webhook-collect"));
}

#[test]
fn what_is_not_signed_as_it_should_is_refused() {
    let body = callback(json!({ "type": "message" })).to_string();
    let good = signed_at(NOW_S, SECRET, &body);
    let refused = |request: &RawRequest| Slack.verify_and_parse(&ours(), request, now()).err();
    assert_eq!(refused(&good), None);
    let mut cases = vec![
        signed_at(NOW_S - 301, SECRET, &body),
        signed_at(NOW_S + 301, SECRET, &body),
        signed_at(NOW_S, "another", &body),
        signed_at(NOW_S, "", &body),
        RawRequest { body: body[1..].into(), ..good.clone() },
        RawRequest { body: body.replace(':', ": ").into(), ..good.clone() },
        RawRequest { headers: Default::default(), ..good.clone() },
    ];
    for name in ["x-slack-signature", "x-slack-request-timestamp"] {
        let value = good.header(name).unwrap().to_owned();
        for other in ["", "v0=", &value[..value.len() - 1], &value.to_uppercase(), "é"] {
            let mut case = good.clone();
            case.headers.insert(name, http::HeaderValue::from_bytes(other.as_bytes()).unwrap());
            if case.headers != good.headers {
                cases.push(case);
            }
        }
        let mut twice = good.clone();
        twice.headers.append(name, value.parse().unwrap());
        cases.push(twice);
    }
    for case in cases {
        assert!(matches!(refused(&case), Some(Reject::Unauthorized(_))), "{:?}", case.headers);
    }
    let without = config(json!({}), &[("signing_secret", &["", ""])]);
    let unset = Slack.verify_and_parse(&without, &signed_at(NOW_S, "", &body), now());
    assert_eq!(unset.unwrap_err(), Reject::NotConfigured("signing_secret"));
    let garbage = signed_at(NOW_S, SECRET, "{");
    assert!(matches!(refused(&garbage), Some(Reject::Malformed(_))));
    let asked = RawRequest { method: "GET".to_owned(), ..good };
    assert_eq!(refused(&asked), Some(Reject::MethodNotAllowed));
}

#[test]
fn a_challenge_is_answered_only_if_it_is_signed() {
    let body = json!({ "type": "url_verification", "challenge": "3eZb" });
    assert_eq!(parse(&body).unwrap().answer, Answer::text("3eZb"));
    let forged = signed_at(NOW_S, "another", &body.to_string());
    assert!(Slack.verify_and_parse(&ours(), &forged, now()).is_err());
}

#[test]
fn a_direct_message_is_read_with_its_files() {
    let event = one(parse(&callback(json!({
        "type": "message", "channel": "D1", "channel_type": "im", "user": "U1", "ts": "17.1",
        "subtype": "file_share", "text": "Where is &lt;17&gt;? <https://a.example|the page> 😀 مرحبا",
        "files": [
            { "id": "F1", "mimetype": "image/png", "name": "box.png", "size": 70,
              "url_private_download": "https://files.slack.com/files-pri/T1-F1/download/box.png" },
            { "id": "F2", "mimetype": "audio/mp4", "subtype": "slack_audio", "name": "v.m4a",
              "url_private_download": "https://evil.example/v.m4a" },
            17,
        ],
    }))));
    assert_eq!((event.id.as_str(), event.thread.external_id.as_str()), ("Ev1", "D1"));
    assert!(!event.thread.group);
    assert_eq!(event.sender.external_id, "U1");
    let EventBody::Message { external_id, message } = event.body else { panic!() };
    assert_eq!(external_id, "D1:17.1");
    let words = "Where is <17>? the page (https://a.example) 😀 مرحبا";
    assert_eq!(message.parts[0].to_text(), words);
    let Part::Image(image) = &message.parts[1] else { panic!() };
    let plan = Slack.fetch(&ours(), image).unwrap();
    assert_eq!(header(&plan, "authorization"), Some("Bearer xoxb-1"));
    assert_eq!(plan.answer_max, 25 << 20, "a file is larger than an answer");
    let Part::Audio(voice) = &message.parts[2] else { panic!() };
    assert!(voice.voice);
    assert!(Slack.fetch(&ours(), voice).is_none(), "the token goes to Slack alone");
    assert!(matches!(message.parts[3], Part::File(_)));
}

#[test]
fn in_a_channel_only_what_calls_the_app_is_answered() {
    let said = |event: Value| {
        let mut whole = json!({ "type": "message", "channel": "C1", "user": "U1", "ts": "5.1" });
        whole.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        one(parse(&callback(whole)))
    };
    assert_eq!(said(json!({ "text": "hello all" })).body, EventBody::Overheard);
    let called = said(json!({ "text": "<@UBOT> where is it?" }));
    assert_eq!(called.body, says("C1:5.1", "where is it?"));
    assert_eq!(called.thread.external_id, "C1/5.1");
    assert!(called.thread.group);
    // The same message comes as both kinds and is one.
    let twin = said(json!({ "type": "app_mention", "text": "<@UBOT> where is it?" }));
    assert_eq!(twin.body, called.body);
    let below = said(json!({ "text": "and now?", "thread_ts": "4.0", "parent_user_id": "UBOT" }));
    assert_eq!(below.thread.external_id, "C1/4.0");
    let EventBody::Message { message, .. } = below.body else { panic!() };
    assert_eq!(message.reply_to.as_deref(), Some("C1:4.0"));
}

#[test]
fn bots_are_not_answered() {
    let said = |event: Value| one(parse(&callback(event))).body;
    let message = json!({ "type": "message", "channel": "D1", "ts": "1.1", "text": "x" });
    let with = |name: &str, value: &str| {
        let mut message = message.clone();
        message[name] = json!(value);
        said(message)
    };
    assert_eq!(with("user", "UBOT"), unknown("echo"));
    assert_eq!(with("bot_id", "B1"), unknown("message_of_a_bot"));
    assert_eq!(with("subtype", "bot_message"), unknown("message_bot_message"));
    assert_eq!(with("subtype", "channel_join"), unknown("message_channel_join"));
}

#[test]
fn edits_deletes_and_reactions_are_told() {
    let said = |event: Value| one(parse(&callback(event)));
    let changed = |before: &str| {
        said(json!({ "type": "message", "subtype": "message_changed", "channel": "D1", "ts": "2.0",
            "message": { "user": "U1", "ts": "1.1", "text": "new" },
            "previous_message": { "user": "U1", "ts": "1.1", "text": before } }))
    };
    let message = Message::text(Default::default(), "new");
    let edited = EventBody::Edited { external_id: "D1:1.1".to_owned(), message };
    assert_eq!(changed("old").body, edited);
    assert_eq!(changed("new").body, unknown("message_changed"));
    let deleted = said(json!({ "type": "message", "subtype": "message_deleted", "channel": "D1",
        "deleted_ts": "1.1", "previous_message": { "user": "U1" } }));
    assert_eq!(deleted.body, EventBody::Deleted { external_id: "D1:1.1".to_owned() });
    assert_eq!(deleted.sender.external_id, "U1");
    let reaction = said(json!({ "type": "reaction_removed", "user": "U1", "reaction": "tada",
        "item": { "type": "message", "channel": "D1", "ts": "1.1" } }));
    let body = EventBody::Reaction {
        external_id: "D1:1.1".to_owned(),
        sign: "tada".to_owned(),
        added: false,
    };
    assert_eq!(reaction.body, body);
}

#[test]
fn what_is_not_known_is_kept() {
    let whole = callback(json!({ "type": "canvas.shared", "x": 1 }));
    let event = one(parse(&whole));
    assert_eq!(event.body, unknown("canvas_shared"));
    assert_eq!(event.raw.pointer("/event/x"), Some(&json!(1)));
    for body in [json!([1, 2]), json!("x"), json!(null), json!({}), callback(json!(17))] {
        assert!(matches!(bodies(parse(&body))[..], [EventBody::Unknown { .. }]), "{body}");
    }
}

#[test]
fn each_pressed_button_says_what_ours_carried() {
    let message = Message {
        parts: vec![buttons(vec![
            postback("b1", "Track", "track 17"),
            link("b2", "Shop", "https://shop.example"),
        ])],
        reply_to: None,
    };
    let plan = sent(&Slack, &ours(), "C1/4.0", &message, None).remove(0);
    let elements = sent_json(&plan).pointer("/blocks/0/elements").cloned().unwrap();
    let mut actions = elements.as_array().unwrap().clone();
    actions.push(json!({ "action_id": "rows", "selected_option": { "value": "q:r1:",
        "text": { "type": "plain_text", "text": "Row 1" } } }));
    let payload = json!({ "type": "block_actions", "trigger_id": "tr", "user": { "id": "U1" },
        "channel": { "id": "C1" }, "actions": actions,
        "container": { "type": "message", "message_ts": "5.0", "thread_ts": "4.0" } });
    let pairs = [("payload", payload.to_string())];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let mut request = signed_at(NOW_S, SECRET, &body);
    let form = "application/x-www-form-urlencoded; charset=utf-8";
    request.headers.insert("content-type", form.parse().unwrap());
    let parsed = Slack.verify_and_parse(&ours(), &request, now()).unwrap();
    let ids: Vec<_> = parsed.events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["tr:0", "tr:1", "tr:2"]);
    assert_eq!(parsed.events[0].thread.external_id, "C1/4.0");
    let wanted = [
        EventBody::Pressed { value: "track 17".to_owned() },
        unknown("url_button"),
        EventBody::Pressed { value: "Row 1".to_owned() },
    ];
    assert_eq!(bodies(Ok(parsed)), wanted);
}

#[test]
fn words_go_out_as_markdown_into_the_thread() {
    let plans = sent(&Slack, &ours(), "C1/4.0", &markdown("**Hi** <!channel> & <b>"), None);
    let [plan] = plans.as_slice() else { panic!() };
    assert_eq!(plan.url, "https://slack.com/api/chat.postMessage");
    assert_eq!(header(plan, "authorization"), Some("Bearer xoxb-1"));
    let body = json!({ "channel": "C1", "thread_ts": "4.0", "unfurl_links": false,
        "markdown_text": "**Hi** <\u{200b}!channel> & <b>" });
    assert_eq!(sent_json(plan), body);
    let plain = Message::text(Default::default(), "1 < 2 & 3");
    let body = sent_json(&sent(&Slack, &ours(), "D1", &plain, None)[0]);
    assert_eq!(body.pointer("/text"), Some(&json!("1 &lt; 2 &amp; 3")));
    assert_eq!(body.pointer("/thread_ts"), None);
    let long = markdown(&"words ".repeat(5000));
    assert_eq!(sent(&Slack, &ours(), "D1", &long, None).len(), 3);
}

#[test]
fn lists_cards_and_pictures_are_blocks() {
    let card = Part::Card {
        fallback_text: String::new(),
        title: "A box".to_owned(),
        text: Some("Blue".to_owned()),
        image_url: Some("https://a.example/box.png".to_owned()),
        items: vec![postback("b", "Buy", "")],
    };
    let image = Part::Image(Media {
        url: Some("https://a.example/x.png".to_owned()),
        mime: Some("image/png".to_owned()),
        alt: Some("a box".to_owned()),
        ..Media::default()
    });
    let kinds = |part: Part| {
        let message = Message { parts: vec![part], reply_to: None };
        let body = sent_json(&sent(&Slack, &ours(), "D1", &message, None)[0]);
        assert!(body["text"].is_string());
        let blocks = body["blocks"].as_array().unwrap().clone();
        blocks.iter().map(|block| block["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(rows(4)), ["actions"]);
    assert_eq!(kinds(card), ["header", "section", "image", "actions"]);
    assert_eq!(kinds(image), ["image"]);
}

#[test]
fn a_command_is_answered_at_its_own_address_while_that_is_valid() {
    let raw = json!({ "command": "/ask", "response_url": "https://hooks.slack.com/commands/1" });
    let to = |minutes: u64| {
        let at = now() - Duration::from_secs(minutes * 60);
        let answered = Answered { external_id: "command:1", raw: &raw, at };
        sent(&Slack, &ours(), "C1", &markdown("Hi"), Some(answered)).remove(0)
    };
    assert_eq!(to(5).url, "https://hooks.slack.com/commands/1");
    assert_eq!(header(&to(5), "authorization"), None);
    assert_eq!(sent_json(&to(5))["response_type"], "in_channel");
    assert_eq!(to(30).url, "https://slack.com/api/chat.postMessage");
}

#[test]
fn answers_are_understood() {
    let plan = sent(&Slack, &ours(), "D1", &markdown("Hi"), None).remove(0);
    let means = |status: u16, body: Value| {
        Slack.classify(&ours(), &Plan::Http(plan.clone()), &response(status, &body))
    };
    let sent = Outcome::Sent { external_id: Some("D1:9.1".to_owned()) };
    assert_eq!(means(200, json!({ "ok": true, "channel": "D1", "ts": "9.1" })), sent);
    let why = |error: &str| match means(200, json!({ "ok": false, "error": error })) {
        Outcome::Failed(failure) => Some(failure.reason),
        _ => None,
    };
    assert_eq!(why("invalid_auth"), Some(FailureReason::Auth));
    assert_eq!(why("channel_not_found"), Some(FailureReason::RecipientUnknown));
    assert_eq!(why("msg_too_long"), Some(FailureReason::TooLong));
    assert_eq!(why("something_new"), Some(FailureReason::ProviderError));
    assert_eq!(why("internal_error"), None);
    assert!(matches!(means(503, json!(null)), Outcome::Retry { after: None, .. }));
    let mut busy = response(429, &json!({ "ok": false, "error": "ratelimited" }));
    busy.headers.insert("retry-after", "7".parse().unwrap());
    let busy = Slack.classify(&ours(), &Plan::Http(plan.clone()), &busy);
    assert!(matches!(busy, Outcome::Retry { after: Some(after), .. } if after.as_secs() == 7));
}

#[test]
fn what_slack_cannot_show_goes_out_as_words() {
    let message = Message { parts: vec![rows(2)], reply_to: None };
    let plan = Plan::Http(sent(&Slack, &ours(), "D1", &message, None).remove(0));
    let refused = response(200, &json!({ "ok": false, "error": "invalid_blocks" }));
    let Outcome::Then(plans) = Slack.classify(&ours(), &plan, &refused) else { panic!() };
    let [Plan::Http(plain)] = plans.as_slice() else { panic!() };
    assert_eq!(sent_json(plain)["text"], "1. Row 1\n2. Row 2");
    let again = Slack.classify(&ours(), &plans[0], &refused);
    assert!(matches!(again, Outcome::Failed(_)));
}

#[test]
fn connecting_says_what_is_wrong() {
    let plan = Slack.connect(&ours()).remove(0);
    assert_eq!(plan.url, "https://slack.com/api/auth.test");
    let says = |response: &RawResponse| Slack.connected(&ours(), &plan, response);
    let mut good = response(200, &json!({ "ok": true, "user": "qudao", "team": "Acme" }));
    assert_eq!(says(&good).unwrap().as_deref(), Some("qudao in Acme"));
    good.headers.insert("x-oauth-scopes", "im:history,app_mentions:read".parse().unwrap());
    assert!(says(&good).unwrap_err().contains("chat:write"));
    assert_eq!(Slack.check(&ours()), Ok(()));
    let other = config(json!({}), &[("bot_token", &["xapp-1"])]);
    assert_eq!(Slack.check(&other).unwrap_err().0, "bot_token");
    let bad = response(200, &json!({ "ok": false, "error": "invalid_auth" }));
    assert!(says(&bad).unwrap_err().contains("xoxb-"));
}

#[test]
fn the_answer_takes_the_place_of_what_showed_it_growing() {
    let grown = |message_id: Option<&str>, thread: &str| {
        let preview = Preview { draft: 1, text: "Grow", message_id };
        Slack.preview(&ours(), thread, &preview).unwrap()
    };
    let first = grown(None, "C1/4.0");
    assert!(first.url.ends_with("/chat.postMessage"));
    assert_eq!(sent_json(&first)["thread_ts"], "4.0");
    let next = grown(Some("C1:9.1"), "C1/4.0");
    assert!(next.url.ends_with("/chat.update"));
    assert_eq!(sent_json(&next), json!({ "channel": "C1", "ts": "9.1", "markdown_text": "Grow" }));

    let message = markdown("**Done**");
    let mut out = Outgoing {
        id: "o",
        piece: 0,
        thread: "C1/4.0",
        message: &message,
        answered: None,
        preview_id: Some("C1:9.1"),
        now: now(),
    };
    let plan = |out: &Outgoing<'_>| match Slack.render(&ours(), out).unwrap().remove(0) {
        Plan::Http(plan) => plan,
        other => panic!("{other:?}"),
    };
    let edit = plan(&out);
    assert_eq!(edit.url, "https://slack.com/api/chat.update");
    assert_eq!(
        sent_json(&edit),
        json!({ "channel": "C1", "ts": "9.1", "markdown_text": "**Done**" })
    );
    let gone = response(200, &json!({ "ok": false, "error": "message_not_found" }));
    let Outcome::Then(plans) = Slack.classify(&ours(), &Plan::Http(edit), &gone) else { panic!() };
    let [Plan::Http(anew)] = plans.as_slice() else { panic!() };
    assert_eq!(
        sent_json(anew),
        json!({ "channel": "C1", "thread_ts": "4.0", "markdown_text": "**Done**" })
    );
    out.piece = 1;
    assert!(plan(&out).url.ends_with("/chat.postMessage"));
}

#[test]
fn what_slack_repeats_is_the_same_event() {
    let body = callback(
        json!({ "type": "message", "channel": "D1", "user": "U1", "ts": "1.1", "text": "x" }),
    );
    let first = one(parse(&body));
    // Signed anew a minute later, with a word on why.
    let mut again = signed_at(NOW_S + 60, SECRET, &body.to_string());
    again.headers.insert("x-slack-retry-num", "1".parse().unwrap());
    again.headers.insert("x-slack-retry-reason", "http_timeout".parse().unwrap());
    let later = now() + Duration::from_secs(60);
    assert_eq!(one(Slack.verify_and_parse(&ours(), &again, later)), first);
}
