use std::time::Duration;

use qudao_core::channel::{
    adapter::Answered,
    event::{Attribution, ReceiptState},
};
use qudao_domain::{
    message::{Message, Part, TextFormat},
    render,
};

use super::*;
use crate::fixture::{
    NOW_S, bodies, buttons, config, get, header, link, markdown, now, one, post, postback,
    response, rows, says, sent, sent_json, unknown,
};

const SECRET: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";

fn ours() -> ChannelConfig {
    let settings = json!({ "phone_number_id": "1061", "page_id": "2001", "account_id": "3001",
        "business_use": "Customers of our shop ask about their orders." });
    let secrets: &[(&str, &[&str])] = &[
        ("app_secret", &["newer", SECRET]),
        ("verify_token", &["open sesame", "older"]),
        ("access_token", &["EAAG"]),
    ];
    config(settings, secrets)
}

fn signed(secret: &str, body: &str) -> RawRequest {
    let made = hex::encode(hmac_sha256(secret.as_bytes(), &[body.as_bytes()]));
    post(&[("x-hub-signature-256", format!("sha256={made}"))], body)
}

fn parse(kind: Meta, body: &Value) -> Result<Parsed, Reject> {
    kind.verify_and_parse(&ours(), &signed(SECRET, &body.to_string()), now())
}

fn value(inner: Value) -> Value {
    let mut value = json!({ "messaging_product": "whatsapp",
        "metadata": { "display_phone_number": "15550001111", "phone_number_id": "1061" },
        "contacts": [{ "profile": { "name": "Ada 😀" }, "wa_id": "4915" }] });
    value.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    json!({ "object": "whatsapp_business_account",
        "entry": [{ "id": "9", "changes": [{ "field": "messages", "value": value }] }] })
}

fn message(inner: Value) -> Event {
    let mut message = json!({ "from": "4915", "id": "wamid.A", "timestamp": NOW_S.to_string() });
    message.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    one(parse(Meta::Whatsapp, &value(json!({ "messages": [message] }))))
}

fn page(messaging: Value) -> Value {
    json!({ "object": "page", "entry": [{ "id": "2001", "time": 1, "messaging": messaging }] })
}

fn item(inner: Value) -> Vec<Event> {
    let mut item = json!({ "sender": { "id": "77" }, "recipient": { "id": "2001" },
        "timestamp": NOW_S * 1000 });
    item.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    parse(Meta::Messenger, &page(json!([item]))).unwrap().events
}

/// The value was made with OpenSSL: `printf … | openssl dgst -sha256 -hmac …`.
#[test]
fn a_signature_that_others_made_is_accepted() {
    let body = r#"{"object":"page","entry":[{"id":"2001","text":"\u00e4\u4f60"}]}"#;
    let made = "sha256=37f8d57c8f5df51ab597de3eda4a2327c237ff6e7b1fc65615466d64aaa47afe";
    let request = post(&[("x-hub-signature-256", made.to_owned())], body);
    assert!(Meta::Messenger.verify_and_parse(&ours(), &request, now()).is_ok());
}

#[test]
fn what_is_not_signed_as_it_should_is_refused() {
    for kind in [Meta::Whatsapp, Meta::Messenger, Meta::Instagram] {
        let body = r#"{"object":"page","entry":[],"x":"\u00e4"}"#;
        let good = signed(SECRET, body);
        let refused = |request: &RawRequest| kind.verify_and_parse(&ours(), request, now()).err();
        assert_eq!(refused(&good), None);
        let mut cases = vec![
            signed("another", body),
            signed("", body),
            RawRequest { body: body[1..].into(), ..good.clone() },
            // Written anew, the same JSON is other bytes.
            RawRequest { body: body.replace("\\u00e4", "ä").into(), ..good.clone() },
            RawRequest { headers: Default::default(), ..good.clone() },
        ];
        let value = good.header("x-hub-signature-256").unwrap().to_owned();
        let upper = format!("sha256={}", value[7..].to_uppercase());
        let sha1 = value.replace("sha256=", "sha1=");
        for other in ["", "sha256=", &value[7..], &value[..70], &upper, &sha1] {
            cases.push(post(&[("x-hub-signature-256", other.to_owned())], body));
        }
        let mut twice = good.clone();
        twice.headers.append("x-hub-signature-256", value.parse().unwrap());
        cases.push(twice);
        for case in cases {
            assert!(matches!(refused(&case), Some(Reject::Unauthorized(_))), "{:?}", case.headers);
        }
        let without = config(json!({}), &[("app_secret", &[""]), ("verify_token", &[])]);
        let unset = kind.verify_and_parse(&without, &signed("", body), now());
        assert_eq!(unset.unwrap_err(), Reject::NotConfigured("app_secret"));
        let unset = kind.verify_and_parse(&without, &get("hub.verify_token="), now());
        assert_eq!(unset.unwrap_err(), Reject::NotConfigured("verify_token"));
        assert!(matches!(refused(&signed(SECRET, "{")), Some(Reject::Malformed(_))));
    }
}

#[test]
fn the_challenge_is_answered_to_whoever_knows_the_token() {
    let asked = |query: &str| Meta::Whatsapp.verify_and_parse(&ours(), &get(query), now());
    for token in ["open+sesame", "older"] {
        let query = format!("hub.mode=subscribe&hub.challenge=1158&hub.verify_token={token}");
        assert_eq!(asked(&query).unwrap().answer, Answer::text("1158"));
    }
    let other = asked("hub.mode=subscribe&hub.challenge=1158&hub.verify_token=x");
    assert!(matches!(other, Err(Reject::Unauthorized(_))));
    assert!(matches!(asked("hub.verify_token=older"), Err(Reject::Malformed(_))));
}

#[test]
fn words_of_whatsapp_are_read_with_who_and_whence() {
    let event = message(json!({ "type": "text", "text": { "body": "أين 17? 😀" },
        "context": { "id": "wamid.Q" },
        "referral": { "source_url": "https://fb.me/x", "source_id": "ad9", "ctwa_clid": "c1" } }));
    assert_eq!((event.id.as_str(), event.thread.external_id.as_str()), ("wamid.A", "1061/4915"));
    assert_eq!(event.sender.name.as_deref(), Some("Ada 😀"));
    assert_eq!(event.at, Some(now()));
    let attribution = Attribution {
        reference: Some("ad9".to_owned()),
        click_id: Some("c1".to_owned()),
        source_url: Some("https://fb.me/x".to_owned()),
        reseller: None,
    };
    assert_eq!(event.attribution, Some(attribution));
    let EventBody::Message { message, .. } = event.body else { panic!() };
    assert_eq!(message.reply_to.as_deref(), Some("wamid.Q"));
    assert_eq!(message.to_text(), "أين 17? 😀");
    let unseen = json!({ "messages": [{ "from_user_id": "US.1349", "id": "wamid.B",
        "type": "text", "text": { "body": "x" } }] });
    let unseen = one(parse(Meta::Whatsapp, &value(unseen)));
    assert_eq!(unseen.thread.external_id, "1061/US.1349");
}

#[test]
fn every_kind_of_whatsapps_messages_is_read() {
    let parts = |inner: Value| match message(inner).body {
        EventBody::Message { message, .. } => message.parts,
        other => panic!("{other:?}"),
    };
    let hash = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let file = json!({ "id": "M1", "mime_type": "audio/ogg; codecs=opus", "sha256": hash,
        "voice": true, "caption": "c", "filename": "f.pdf" });
    for (kind, name) in [
        ("image", "Image"),
        ("sticker", "Image"),
        ("audio", "Audio"),
        ("video", "Video"),
        ("document", "File"),
    ] {
        let parts = parts(json!({ "type": kind, kind: file }));
        assert!(format!("{:?}", parts[0]).starts_with(name), "{kind}");
        let media = parts[0].media().unwrap();
        assert_eq!(media.external_id.as_deref(), Some("M1"));
        assert!(media.sha256.as_deref().unwrap().starts_with("e3b0c44298fc1c14"));
        assert!(media.voice);
    }
    let place = json!({ "type": "location", "location": { "latitude": 52.5, "longitude": 13,
        "name": "Shop" } });
    assert_eq!(parts(place)[0].to_text(), "Shop (52.500000, 13.000000)");
    let people = json!({ "type": "contacts", "contacts": [
        { "name": { "formatted_name": "Bo" }, "phones": [{ "phone": "+1" }] }, 17] });
    assert_eq!(parts(people)[0].to_text(), "Bo: +1");
    let order = json!({ "type": "order", "order": { "text": "please", "product_items": [
        { "product_retailer_id": "box", "quantity": 2, "item_price": 5, "currency": "EUR" }] } });
    assert_eq!(parts(order)[0].to_text(), "please\n2 × box: 5 EUR");
}

#[test]
fn what_is_pressed_on_whatsapp_says_what_ours_carried() {
    let items = vec![postback("b1", "Track", "track 17"), postback("b2", "Talk", "")];
    let message_out = Message { parts: vec![buttons(items)], reply_to: None };
    let sent = sent_json(&sent(&Meta::Whatsapp, &ours(), "1061/4915", &message_out, None)[0]);
    let reply = |at: usize| sent["interactive"]["action"]["buttons"][at]["reply"].clone();
    let pressed = |kind: &str, reply: Value| {
        message(json!({ "type": "interactive", "interactive": { "type": kind, kind: reply } })).body
    };
    let says = |value: &str| EventBody::Pressed { value: value.to_owned() };
    assert_eq!(pressed("button_reply", reply(0)), says("track 17"));
    assert_eq!(pressed("button_reply", reply(1)), says("Talk"));
    let row = json!({ "id": "q:r1:row 1", "title": "Row 1" });
    assert_eq!(pressed("list_reply", row), says("row 1"));
    let template = json!({ "type": "button", "button": { "payload": "Yes!", "text": "Yes" } });
    assert_eq!(message(template).body, says("Yes!"));
}

#[test]
fn reactions_edits_deletes_and_new_numbers_are_told() {
    let reaction =
        |reaction: Value| message(json!({ "type": "reaction", "reaction": reaction })).body;
    let told = |sign: &str, added: bool| EventBody::Reaction {
        external_id: "wamid.Q".to_owned(),
        sign: sign.to_owned(),
        added,
    };
    assert_eq!(reaction(json!({ "message_id": "wamid.Q", "emoji": "👍" })), told("👍", true));
    assert_eq!(reaction(json!({ "message_id": "wamid.Q", "emoji": "" })), told("", false));
    let edit = json!({ "type": "edit", "edit": { "original_message_id": "wamid.Q",
        "message": { "type": "text", "text": { "body": "new" } } } });
    let now_says = Message::text(TextFormat::Plain, "new");
    let edited = EventBody::Edited { external_id: "wamid.Q".to_owned(), message: now_says };
    assert_eq!(message(edit).body, edited);
    let revoke = json!({ "type": "revoke", "revoke": { "original_message_id": "wamid.Q" } });
    assert_eq!(message(revoke).body, EventBody::Deleted { external_id: "wamid.Q".to_owned() });
    let moved = json!({ "type": "system",
        "system": { "type": "user_changed_number", "wa_id": "4916" } });
    assert_eq!(message(moved).body, EventBody::Moved { to: "1061/4916".to_owned() });
}

#[test]
fn a_batch_is_read_whole_though_an_element_is_bad() {
    let batch = value(json!({
        "messages": [
            { "from": "4915", "id": "wamid.1", "type": "text", "text": { "body": "one" } },
            { "type": "text" }, 17, null,
            { "from": "4915", "id": "wamid.2", "type": "hologram", "hologram": {} },
            { "from": "4915", "id": "wamid.1", "type": "text", "text": { "body": "one" } },
        ],
        "statuses": [
            { "id": "wamid.0", "status": "read", "timestamp": "1", "recipient_id": "4915" },
            { "id": "wamid.0", "status": "failed", "errors": [{ "code": 131_047 }] },
            { "id": "wamid.0", "status": "warped" }, {},
        ],
    }));
    let parsed = parse(Meta::Whatsapp, &batch).unwrap();
    let ids: Vec<_> = parsed.events.iter().map(|event| event.id.clone()).collect();
    assert_eq!((&ids[0], &ids[5]), (&"wamid.1".to_owned(), &"wamid.1".to_owned()));
    assert_eq!(ids[6..8], ["wamid.0:read", "wamid.0:failed"]);
    let receipt = |state| EventBody::Receipt { external_id: "wamid.0".to_owned(), state };
    assert_eq!(
        bodies(Ok(parsed)),
        [
            says("wamid.1", "one"),
            unknown("message_without_id"),
            unknown("message_without_id"),
            unknown("message_without_id"),
            unknown("message_hologram"),
            says("wamid.1", "one"),
            receipt(ReceiptState::Read),
            receipt(ReceiptState::Failed),
            unknown("status_warped"),
            unknown("status_without_id"),
        ]
    );
}

#[test]
fn what_belongs_to_others_is_stored_and_not_answered() {
    let mut other = value(json!({ "messages": [{ "from": "1", "id": "w", "type": "text",
        "text": { "body": "x" } }] }));
    other["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = json!("1062");
    assert_eq!(bodies(parse(Meta::Whatsapp, &other)), [unknown("other_phone_number")]);
    let echoes = value(json!({ "message_echoes": [{ "from": "1", "id": "w", "type": "text" }] }));
    assert_eq!(bodies(parse(Meta::Whatsapp, &echoes)), [unknown("echo")]);
    let stop = value(json!({ "user_preferences": [{ "wa_id": "4915", "value": "stop" }] }));
    assert_eq!(bodies(parse(Meta::Whatsapp, &stop)), [EventBody::Unreachable]);
    let group = message(json!({ "group_id": "G1", "type": "text", "text": { "body": "x" } }));
    assert_eq!((group.body, group.thread.group), (EventBody::Overheard, true));
    let odd = [
        json!([]),
        json!(null),
        json!({ "object": "user" }),
        value(json!({})),
        json!({ "object": "whatsapp_business_account", "entry": [1, { "changes": {} }] }),
    ];
    for body in odd {
        let read = bodies(parse(Meta::Whatsapp, &body));
        assert!(!read.is_empty());
        assert!(read.iter().all(|body| matches!(body, EventBody::Unknown { .. })), "{body}");
    }
}

#[test]
fn messengers_events_are_read() {
    let body = |inner: Value| {
        let mut events = item(inner);
        assert_eq!(events.len(), 1);
        events.remove(0)
    };
    let event = body(
        json!({ "message": { "mid": "m_1", "text": "hello", "reply_to": { "mid": "m_0" },
        "attachments": [
            { "type": "image", "payload": { "url": "https://scontent.xx.fbcdn.net/a.jpg" } },
            { "type": "location", "payload": { "coordinates": { "lat": 1.5, "long": 2.5 } } },
            { "type": "share", "payload": { "url": "https://a.example", "title": "A page" } }, 17] } }),
    );
    assert_eq!((event.id.as_str(), event.thread.external_id.as_str()), ("m_1", "77"));
    let EventBody::Message { message, .. } = event.body else { panic!() };
    assert_eq!(message.reply_to.as_deref(), Some("m_0"));
    assert_eq!(message.parts.len(), 5);
    assert_eq!(message.parts[3].to_text(), "[share] A page https://a.example");
    let image = message.parts[1].media().unwrap();
    let fetch = Meta::Messenger.fetch(&ours(), image).unwrap();
    assert_eq!(header(&fetch, "authorization"), None);
    let inner =
        Media { external_id: Some("http://169.254.169.254/".to_owned()), ..Media::default() };
    assert!(Meta::Messenger.fetch(&ours(), &inner).is_none());

    let quick = json!({ "message": { "mid": "m_2", "text": "Red", "quick_reply": { "payload": "q:r:red" } } });
    assert_eq!(body(quick).body, EventBody::Pressed { value: "red".to_owned() });
    let start = body(json!({ "postback": { "title": "Get started", "payload": "q:b:",
        "referral": { "ref": "spring", "source": "SHORTLINK" } } }));
    assert_eq!(start.body, EventBody::Pressed { value: "Get started".to_owned() });
    assert_eq!(start.attribution.unwrap().reference.as_deref(), Some("spring"));
    let came = body(json!({ "referral": { "ref": "flyer", "ad_id": "6" } }));
    assert_eq!(came.attribution.unwrap().reference.as_deref(), Some("flyer"));
    let edit = body(json!({ "message_edit": { "mid": "m_1", "text": "bye", "num_edit": 1 } }));
    let message = Message::text(TextFormat::Plain, "bye");
    assert_eq!(edit.body, EventBody::Edited { external_id: "m_1".to_owned(), message });
    let gone = body(json!({ "message": { "mid": "m_1", "is_deleted": true } }));
    assert_eq!(gone.body, EventBody::Deleted { external_id: "m_1".to_owned() });
    let sign = json!({ "reaction": { "mid": "m_1", "action": "unreact", "emoji": "❤" } });
    let sign_off =
        EventBody::Reaction { external_id: "m_1".to_owned(), sign: "❤".to_owned(), added: false };
    assert_eq!(body(sign).body, sign_off);
    let seen = EventBody::Receipt { external_id: "m_9".to_owned(), state: ReceiptState::Read };
    assert_eq!(body(json!({ "read": { "mid": "m_9" } })).body, seen);
    assert_eq!(body(json!({ "read": { "watermark": 1 } })).body, unknown("read"));
    assert_eq!(body(json!({ "optin": { "type": "x" } })).body, unknown("optin"));
    assert_eq!(item(json!({ "delivery": { "mids": ["m_8", "m_9"], "watermark": 1 } })).len(), 2);
}

#[test]
fn a_pages_own_words_and_other_pages_are_not_answered() {
    let echo = json!({ "sender": { "id": "2001" }, "recipient": { "id": "77" },
        "message": { "is_echo": true, "mid": "m_3", "text": "ours", "app_id": 1 } });
    let event = one(parse(Meta::Messenger, &page(json!([echo]))));
    assert_eq!((event.body, event.thread.external_id.as_str()), (unknown("echo"), "77"));
    let mut other =
        page(json!([{ "sender": { "id": "1" }, "message": { "mid": "m", "text": "x" } }]));
    other["entry"][0]["id"] = json!("2002");
    assert_eq!(bodies(parse(Meta::Messenger, &other)), [unknown("other_account")]);
    let standby = json!({ "object": "page", "entry": [{ "id": "2001", "standby": [
        { "sender": { "id": "77" }, "message": { "mid": "m", "text": "x" } }], "changes": [{ "field": "feed" }] }] });
    assert_eq!(bodies(parse(Meta::Messenger, &standby)), [EventBody::Overheard, unknown("feed")]);
    let instagram = json!({ "object": "instagram", "entry": [{ "id": "3001", "messaging": [
        { "sender": { "id": "5" }, "recipient": { "id": "3001" }, "message": { "mid": "i", "text": "hi" } }, 7] }] });
    assert_eq!(bodies(parse(Meta::Instagram, &instagram)), [says("i", "hi"), unknown("unnamed")]);
    assert_eq!(bodies(parse(Meta::Messenger, &instagram)), [unknown("object_instagram")]);
}

#[test]
fn whatsapp_is_sent_what_it_can_show() {
    let to = |message: &Message| sent(&Meta::Whatsapp, &ours(), "1061/4915", message, None);
    let plans = to(&markdown("**Hi** [page](https://a.example)"));
    assert_eq!(plans[0].url, "https://graph.facebook.com/v24.0/1061/messages");
    assert_eq!(header(&plans[0], "authorization"), Some("Bearer EAAG"));
    assert_eq!(
        sent_json(&plans[0]),
        json!({ "messaging_product": "whatsapp", "to": "4915",
        "recipient_type": "individual", "type": "text",
        "text": { "preview_url": false, "body": "*Hi* page (https://a.example)" } })
    );

    // Buttons take 1,024 characters: the end of what is said stands with them.
    let long = format!("{}\n\nThe end.", "words ".repeat(300));
    let parts = vec![
        Part::Text { format: TextFormat::Plain, text: long },
        buttons(vec![postback("a", "Yes", ""), link("b", "Shop", "https://a.example")]),
    ];
    let bodies: Vec<_> = to(&Message { parts, reply_to: Some("wamid.Q".to_owned()) })
        .iter()
        .map(sent_json)
        .collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0]["context"]["message_id"], "wamid.Q");
    let body = bodies[1]["interactive"]["body"]["text"].as_str().unwrap();
    assert!(body.ends_with("The end.\nShop: https://a.example") && body.chars().count() <= 1024);
    assert_eq!(bodies[1]["interactive"]["action"]["buttons"].as_array().unwrap().len(), 1);

    let single = Message {
        parts: vec![buttons(vec![link("b", "Shop", "https://a.example")])],
        reply_to: None,
    };
    assert_eq!(sent_json(&to(&single)[0])["interactive"]["type"], "cta_url");
    let list = sent_json(&to(&Message { parts: vec![rows(10)], reply_to: None })[0]);
    assert_eq!(list["interactive"]["action"]["sections"][0]["rows"].as_array().unwrap().len(), 10);
    let many = sent_json(&to(&Message { parts: vec![rows(11)], reply_to: None })[0]);
    assert_eq!(many["type"], "text");
    let without_number = sent(&Meta::Whatsapp, &ours(), "1061/US.1349", &markdown("x"), None);
    assert_eq!(sent_json(&without_number[0])["recipient"], "US.1349");
}

#[test]
fn files_go_out_by_their_address() {
    let media = |mime: &str| Media {
        url: Some("https://a.example/f".to_owned()),
        mime: Some(mime.to_owned()),
        name: Some("f.pdf".to_owned()),
        caption: Some("See".to_owned()),
        ..Media::default()
    };
    let message = Message { parts: vec![Part::File(media("application/pdf"))], reply_to: None };
    let body = sent_json(&sent(&Meta::Whatsapp, &ours(), "1061/4915", &message, None)[0]);
    assert_eq!(
        body["document"],
        json!({ "link": "https://a.example/f", "caption": "See", "filename": "f.pdf" })
    );
    let message = Message { parts: vec![Part::Image(media("image/png"))], reply_to: None };
    let plans = sent(&Meta::Messenger, &ours(), "77", &message, None);
    assert_eq!(
        sent_json(&plans[0])["message"]["attachment"]["payload"]["url"],
        "https://a.example/f"
    );
    assert_eq!(sent_json(&plans[1])["message"]["text"], "See");
    let own = Media {
        upload_id: Some("upl_1".to_owned()),
        alt: Some("a cat".to_owned()),
        ..Media::default()
    };
    let own = Message { parts: vec![Part::Image(own)], reply_to: None };
    let plans = sent(&Meta::Instagram, &ours(), "77", &own, None);
    assert_eq!(sent_json(&plans[0])["message"]["text"], "[image: a cat]");
    let nowhere = Message { parts: vec![Part::Image(Media::default())], reply_to: None };
    let out = Outgoing {
        id: "o",
        piece: 0,
        thread: "77",
        message: &nowhere,
        answered: None,
        preview_id: None,
        now: now(),
    };
    for kind in [Meta::Whatsapp, Meta::Messenger] {
        assert_eq!(kind.render(&ours(), &out).unwrap_err().reason, FailureReason::MediaRejected);
    }
}

#[test]
fn messenger_and_instagram_are_sent_what_they_can_show() {
    let to = |kind: Meta, parts: Vec<Part>| -> Vec<Value> {
        let message = Message { parts, reply_to: None };
        sent(&kind, &ours(), "77", &message, None).iter().map(sent_json).collect()
    };
    let text = |text: &str| Part::Text { format: TextFormat::Markdown, text: text.to_owned() };
    let items = vec![postback("a", "Yes", ""), link("b", "Shop", "https://a.example")];
    let body = &to(Meta::Messenger, vec![text("**Well?**"), buttons(items)])[0];
    assert_eq!(body["recipient"]["id"], "77");
    let payload = &body["message"]["attachment"]["payload"];
    assert_eq!((&payload["text"], &payload["template_type"]), (&json!("Well?"), &json!("button")));
    assert_eq!(
        payload["buttons"][1],
        json!({ "type": "web_url", "url": "https://a.example", "title": "Shop" })
    );
    let quick = &to(Meta::Instagram, vec![text("Which?"), rows(13)])[0]["message"];
    assert_eq!(
        (&quick["text"], quick["quick_replies"].as_array().unwrap().len()),
        (&json!("Which?"), 13)
    );
    let card = Part::Card {
        fallback_text: String::new(),
        title: "Box".to_owned(),
        text: Some("x".repeat(100)),
        image_url: None,
        items: vec![postback("a", "Buy", "")],
    };
    let card = to(Meta::Messenger, vec![card]);
    assert_eq!(card[0]["message"]["attachment"]["payload"]["template_type"], "generic");
    assert_eq!(card[1]["message"]["text"], "x".repeat(100));
    let long = to(Meta::Instagram, vec![text(&"你好。".repeat(200))]);
    assert!(1 < long.len());
    assert!(long.iter().all(|body| body["message"]["text"].as_str().unwrap().len() <= 1000));
}

#[test]
fn nothing_is_sent_when_the_window_has_closed() {
    let message = markdown("late");
    let raw = json!({});
    for kind in [Meta::Whatsapp, Meta::Messenger, Meta::Instagram] {
        let pieces = render::render(&message, &kind.capabilities(&ours())).unwrap();
        let try_after = |seconds: u64| {
            let at = now() - Duration::from_secs(seconds);
            let answered = Some(Answered { external_id: "m", raw: &raw, at });
            let out = Outgoing {
                id: "o",
                piece: 0,
                thread: "7",
                message: &pieces[0],
                answered,
                preview_id: None,
                now: now(),
            };
            kind.render(&ours(), &out).map_err(|failure| failure.reason)
        };
        assert!(try_after(86_400).is_ok());
        assert_eq!(try_after(86_401).unwrap_err(), FailureReason::WindowClosed);
    }
}

#[test]
fn answers_are_understood() {
    let plan = Plan::Http(HttpPlan::get("send", "https://graph.facebook.com"));
    let means = |status: u16, body: Value| {
        Meta::Whatsapp.classify(&ours(), &plan, &response(status, &body))
    };
    let sent = |id: &str| Outcome::Sent { external_id: Some(id.to_owned()) };
    assert_eq!(means(200, json!({ "messages": [{ "id": "wamid.X" }] })), sent("wamid.X"));
    assert_eq!(means(200, json!({ "recipient_id": "7", "message_id": "m_X" })), sent("m_X"));
    let why = |status: u16, code: i64, subcode: i64| {
        let error = json!({ "error": { "message": "no", "code": code, "error_subcode": subcode } });
        match means(status, error) {
            Outcome::Failed(failure) => Some(failure.reason),
            Outcome::Retry { .. } => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why(401, 190, 463), Some(FailureReason::Auth));
    assert_eq!(why(400, 131_047, 0), Some(FailureReason::WindowClosed));
    assert_eq!(why(400, 10, 2_018_278), Some(FailureReason::WindowClosed));
    assert_eq!(why(400, 551, 0), Some(FailureReason::Blocked));
    assert_eq!(why(400, 131_026, 0), Some(FailureReason::RecipientUnknown));
    assert_eq!(why(400, 131_053, 0), Some(FailureReason::MediaRejected));
    assert_eq!(why(400, 368, 0), Some(FailureReason::Policy));
    assert_eq!(why(400, 100, 0), Some(FailureReason::ProviderError));
    for passing in [130_429, 131_056, 4, 80_007, 2] {
        assert_eq!(why(400, passing, 0), None, "{passing}");
    }
    assert!(matches!(means(503, Value::Null), Outcome::Retry { .. }));
    assert!(matches!(means(429, Value::Null), Outcome::Retry { .. }));
}

#[test]
fn a_file_of_whatsapp_comes_in_two_steps_and_the_token_goes_to_meta_alone() {
    let media = Media { external_id: Some("M1".to_owned()), ..Media::default() };
    let plan = Meta::Whatsapp.fetch(&ours(), &media).unwrap();
    assert_eq!(plan.url, "https://graph.facebook.com/v24.0/M1");
    let odd = Media { external_id: Some("../me".to_owned()), ..Media::default() };
    assert!(Meta::Whatsapp.fetch(&ours(), &odd).is_none());
    let found = |url: &str| {
        let body = json!({ "messaging_product": "whatsapp", "url": url, "id": "M1" });
        Meta::Whatsapp.fetched(&ours(), &response(200, &body))
    };
    let own = found("https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1");
    let Fetched::Then(next) = own else { panic!() };
    assert_eq!(header(&next, "authorization"), Some("Bearer EAAG"));
    assert!(matches!(found("https://evil.example/x"), Fetched::Bytes));
    let gone = Meta::Whatsapp.fetched(&ours(), &response(404, &Value::Null));
    assert!(matches!(gone, Fetched::Failed(_)));
}

#[test]
fn seen_and_writing_are_shown() {
    let event = message(json!({ "type": "text", "text": { "body": "x" } }));
    let plan = Meta::Whatsapp.acknowledge(&ours(), &event).unwrap();
    let body = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.A",
        "typing_indicator": { "type": "text" } });
    assert_eq!(sent_json(&plan), body);
    let silent = config(json!({ "mark_read": false }), &[("access_token", &["t"])]);
    assert!(Meta::Whatsapp.acknowledge(&silent, &event).is_none());
    assert!(Meta::Whatsapp.typing(&ours(), "1061/4915").is_none());
    let typing = Meta::Messenger.typing(&ours(), "77").unwrap();
    assert_eq!(sent_json(&typing)["sender_action"], "typing_on");
}

#[test]
fn settings_are_checked_and_connecting_says_what_is_wrong() {
    assert_eq!(Meta::Whatsapp.check(&ours()), Ok(()));
    let vague = config(json!({ "phone_number_id": "1", "business_use": "AI" }), &[]);
    assert_eq!(Meta::Whatsapp.check(&vague).unwrap_err().0, "business_use");
    let number = config(json!({ "phone_number_id": "+49 15" }), &[]);
    assert_eq!(Meta::Whatsapp.check(&number).unwrap_err().0, "phone_number_id");
    let required = |name: &str| {
        let field = manifest::WHATSAPP.fields.iter().find(|field| field.name == name).unwrap();
        field.required
    };
    assert!(required("business_use") && required("verify_token"));

    let plan = Meta::Whatsapp.connect(&ours()).remove(0);
    let says = |status: u16, body: Value| {
        Meta::Whatsapp.connected(&ours(), &plan, &response(status, &body))
    };
    let known = json!({ "display_phone_number": "+1 555", "verified_name": "Acme", "id": "1061" });
    assert_eq!(says(200, known).unwrap().as_deref(), Some("Acme (+1 555)"));
    let bad = json!({ "error": { "code": 190, "message": "expired" } });
    assert!(says(401, bad).unwrap_err().contains("access token"));
    let plans = Meta::Messenger.connect(&ours());
    let other = response(200, &json!({ "id": "2002", "name": "Other" }));
    assert!(Meta::Messenger.connected(&ours(), &plans[0], &other).unwrap_err().contains("2002"));
    let subscribed = response(200, &json!({ "success": true }));
    assert_eq!(Meta::Messenger.connected(&ours(), &plans[1], &subscribed), Ok(None));
}

#[test]
fn a_code_goes_by_the_tenants_template_and_in_words_without_one() {
    let peer = Meta::Whatsapp.phone_peer(&ours(), "8613800138000").unwrap();
    assert_eq!(peer, "1061/8613800138000");
    for other in [Meta::Messenger, Meta::Instagram] {
        assert_eq!((other.reaches_phones(), other.phone_peer(&ours(), "86")), (false, None));
    }
    assert!(Meta::Whatsapp.code(&ours(), &peer, "012345").is_none());
    let mut config = ours();
    config.settings.insert("code_template".to_owned(), json!("login_code"));
    config.settings.insert("code_language".to_owned(), json!("zh_CN"));
    let Some(Plan::Http(plan)) = Meta::Whatsapp.code(&config, &peer, "012345") else {
        panic!("a request")
    };
    let body: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!((&body["to"], &body["type"]), (&json!("8613800138000"), &json!("template")));
    let template = &body["template"];
    assert_eq!(
        (&template["name"], &template["language"]["code"]),
        (&json!("login_code"), &json!("zh_CN"))
    );
    let codes: Vec<_> = template["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["parameters"][0]["text"])
        .collect();
    assert_eq!(codes, ["012345", "012345"]);
    assert!(Meta::Messenger.code(&config, &peer, "012345").is_none());
}
