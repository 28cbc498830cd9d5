use qudao_core::channel::{
    event::Attribution,
    plan::{FormPart, Upload},
};
use qudao_domain::{
    ChannelId, TenantId,
    message::{Button, ButtonAction, Message, Part, TextFormat},
};

use super::*;

fn config() -> ChannelConfig {
    ChannelConfig {
        tenant_id: TenantId::new(),
        channel_id: ChannelId::new(),
        locale: "en".to_owned(),
        settings: serde_json::Map::new(),
        secrets: BTreeMap::from([(
            "bot_token".to_owned(),
            vec!["77:new".to_owned(), "77:old".to_owned()],
        )]),
        account: Some("@shop_bot".to_owned()),
        inbound_url: "https://chat.example/v1/inbound/ik_x".to_owned(),
    }
}

fn read(update: &Value) -> Event {
    read_update(update, own(&config()))
}

fn private(message: Value) -> Value {
    let mut whole = json!({
        "message_id": 5, "date": 1_795_443_493,
        "from": { "id": 9, "first_name": "Ada", "language_code": "en" },
        "chat": { "id": 9, "type": "private" },
    });
    merge(&mut whole, message);
    json!({ "update_id": 100, "message": whole })
}

fn group(message: Value) -> Value {
    let mut update = private(message);
    update["message"]["chat"] = json!({ "id": -7, "type": "supergroup" });
    update
}

fn merge(whole: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("an object") };
    whole.as_object_mut().unwrap().extend(more);
}

fn words(event: &Event) -> String {
    match &event.body {
        EventBody::Message { message, .. } => message.to_text(),
        other => panic!("{other:?}"),
    }
}

fn post(config: &ChannelConfig, token: &str, body: &[u8]) -> RawRequest {
    let mut request =
        RawRequest { method: "POST".to_owned(), body: body.to_vec(), ..RawRequest::default() };
    let secret = webhook_secret(config, token).parse().unwrap();
    request.headers.insert(SECRET_HEADER, secret);
    request
}

#[test]
fn a_message_has_its_chats_place_and_its_persons_name() {
    let event = read(&private(json!({ "text": "Hello 😀" })));
    assert_eq!((event.id.as_str(), event.thread.external_id.as_str()), ("u100", "9"));
    assert_eq!(event.sender.name.as_deref(), Some("Ada"));
    let EventBody::Message { external_id, message } = &event.body else { panic!() };
    assert_eq!((external_id.as_str(), message.to_text().as_str()), ("9:5", "Hello 😀"));
}

/// Typed clients of the API lose the words beside what they do not know.
#[test]
fn what_is_not_known_loses_no_words() {
    let entity = json!([{ "type": "date_time", "offset": 0, "length": 5, "unix_time": 1 }]);
    assert_eq!(words(&read(&private(json!({ "text": "Hello", "entities": entity })))), "Hello");
    let alone = read(&private(json!({ "live_photo": { "file_id": "x" } })));
    assert_eq!(alone.body, EventBody::Unknown { kind: "message_live_photo".to_owned() });
    let kind = read(&json!({ "update_id": 1, "managed_bot": { "user": { "id": 4 } } }));
    assert_eq!(kind.body, EventBody::Unknown { kind: "managed_bot".to_owned() });
    assert_eq!(kind.thread.external_id, "4");
}

#[test]
fn files_places_and_contacts_are_parts() {
    let sizes = json!([{ "file_id": "s", "width": 90, "height": 90 },
                       { "file_id": "l", "width": 900, "height": 900, "file_size": 7 }]);
    let event = read(&private(json!({ "photo": sizes, "caption": "a box" })));
    let EventBody::Message { message, .. } = &event.body else { panic!() };
    let Part::Image(media) = &message.parts[0] else { panic!() };
    assert_eq!((media.external_id.as_deref(), media.size), (Some("l"), Some(7)));
    assert_eq!(message.to_text(), "[image]\n\na box");
    let voice = read(&private(json!({ "voice": { "file_id": "v", "mime_type": "audio/ogg" } })));
    assert_eq!(words(&voice), "[voice message]");
    let place = json!({ "location": { "latitude": 1.5, "longitude": 2.0 } });
    assert_eq!(words(&read(&private(place))), "1.500000, 2.000000");
    let contact = json!({ "contact": { "first_name": "Bo", "phone_number": "+1" } });
    assert_eq!(words(&read(&private(contact))), "Bo: +1");
}

#[test]
fn in_a_group_only_what_is_meant_for_the_bot_is_answered() {
    let overheard = |text: &str| read(&group(json!({ "text": text }))).body == EventBody::Overheard;
    assert!(overheard("hello all"));
    assert!(overheard("ask @shop_bot_two"));
    assert!(overheard("/help@other_bot"));
    assert!(!overheard("/help"));
    assert_eq!(words(&read(&group(json!({ "text": "@Shop_Bot where is it?" })))), "where is it?");
    let reply = json!({ "text": "and then?", "reply_to_message":
        { "message_id": 3, "from": { "id": 77, "is_bot": true } } });
    let event = read(&group(reply));
    assert!(event.thread.group);
    let EventBody::Message { message, .. } = &event.body else { panic!() };
    assert_eq!(message.reply_to.as_deref(), Some("-7:3"));
    let bot = json!({ "text": "@shop_bot hi", "from": { "id": 8, "is_bot": true } });
    assert_eq!(read(&group(bot)).body, EventBody::Overheard);
}

#[test]
fn a_topic_is_a_conversation_of_its_own() {
    let topic = json!({ "text": "/help", "message_thread_id": 4, "is_topic_message": true });
    assert_eq!(read(&group(topic)).thread.external_id, "-7:4");
    let reply = json!({ "text": "/help", "message_thread_id": 4 });
    assert_eq!(read(&group(reply)).thread.external_id, "-7");
}

#[test]
fn a_deep_link_says_how_somebody_came() {
    let event = read(&private(json!({ "text": "/start spring24-a_b" })));
    let reference = Some("spring24-a_b".to_owned());
    assert_eq!(event.attribution, Some(Attribution { reference, ..Attribution::default() }));
    assert_eq!(words(&event), "/start");
    assert_eq!(read(&private(json!({ "text": "/start <script>" }))).attribution, None);
}

#[test]
fn membership_migration_payment_and_presses_are_events() {
    let change = |status: &str| {
        read(&json!({ "update_id": 1, "my_chat_member": { "chat": { "id": 9, "type": "private" },
            "from": { "id": 9 }, "new_chat_member": { "status": status } } }))
        .body
    };
    assert_eq!(change("kicked"), EventBody::Unreachable);
    assert_eq!(change("member"), EventBody::Reachable);
    let moved = read(&group(json!({ "migrate_to_chat_id": -1007 })));
    assert_eq!(moved.body, EventBody::Moved { to: "-1007".to_owned() });
    let paid = private(json!({ "successful_payment": { "currency": "XTR", "total_amount": 5,
        "telegram_payment_charge_id": "c1", "invoice_payload": "p" } }));
    let event = read(&paid);
    assert_eq!(Telegram.credit(&config(), &event), None);
    let mut priced = config();
    priced.settings.insert("stars_value".to_owned(), json!(13_000));
    assert_eq!(Telegram.credit(&priced, &event), Some(65_000));
    let press = |data: &str| {
        read(&json!({ "update_id": 1, "callback_query": { "id": "q", "from": { "id": 9 },
            "data": data, "message": { "message_id": 6, "chat": { "id": 9, "type": "private" },
            "reply_markup": { "inline_keyboard": [[{ "text": "Track", "callback_data": "b:1" }]] } } } }))
    };
    assert_eq!(press("v:handoff").body, EventBody::Pressed { value: "handoff".to_owned() });
    assert_eq!(press("b:1").body, EventBody::Pressed { value: "Track".to_owned() });
    assert_eq!(
        Telegram.acknowledge(&config(), &press("b:1")).unwrap().purpose,
        "answerCallbackQuery"
    );
}

#[test]
fn only_the_bots_own_secrets_open_the_door() {
    let config = config();
    let now = Timestamp::UNIX_EPOCH;
    let body = private(json!({ "text": "hi" })).to_string();
    let answer = |request: &RawRequest| Telegram.verify_and_parse(&config, request, now);
    for token in ["77:new", "77:old"] {
        assert_eq!(answer(&post(&config, token, body.as_bytes())).unwrap().events.len(), 1);
    }
    let unauthorized = |request: &RawRequest| {
        assert!(matches!(answer(request), Err(Reject::Unauthorized(_))));
    };
    unauthorized(&post(&config, "77:other", body.as_bytes()));
    let mut other = config.clone();
    other.channel_id = ChannelId::new();
    unauthorized(&post(&other, "77:new", body.as_bytes()));
    let mut request = post(&config, "77:new", body.as_bytes());
    request.headers.append(SECRET_HEADER, "x".parse().unwrap());
    unauthorized(&request);
    request.headers.remove(SECRET_HEADER);
    unauthorized(&request);
    for body in ["", "[]", "{}", "{\"update_id\":\"1\"}", "{\"update_id\":"] {
        let refused = answer(&post(&config, "77:new", body.as_bytes()));
        assert!(matches!(refused, Err(Reject::Malformed(_))), "{body}");
    }
    let mut bare = config.clone();
    bare.secrets.clear();
    let refused = Telegram.verify_and_parse(&bare, &post(&config, "", b"{}"), now);
    assert_eq!(refused.unwrap_err(), Reject::NotConfigured("bot_token"));
}

fn out<'a>(message: &'a Message, thread: &'a str) -> Outgoing<'a> {
    Outgoing {
        id: "out_1",
        piece: 0,
        thread,
        message,
        answered: None,
        preview_id: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn only(message: &Message, thread: &str) -> (HttpPlan, Value) {
    let plans = Telegram.render(&config(), &out(message, thread)).unwrap();
    let [Plan::Http(plan)] = &plans[..] else { panic!("{plans:?}") };
    (plan.clone(), serde_json::from_slice(&plan.body).unwrap())
}

#[test]
fn words_go_out_as_html_with_their_buttons() {
    let mut message = Message::text(TextFormat::Markdown, "**Order 17** < 2 days");
    let button = |id: &str, action| Button { id: id.to_owned(), label: id.to_owned(), action };
    message.parts.push(Part::Buttons {
        fallback_text: String::new(),
        items: vec![
            button("Track", ButtonAction::Url { url: "https://a.example".to_owned() }),
            button("Talk", ButtonAction::Postback { value: "handoff".to_owned() }),
        ],
    });
    let (plan, body) = only(&message, "-7:4");
    assert_eq!(plan.url, "https://api.telegram.org/bot77:new/sendMessage");
    assert_eq!(body["text"], "<b>Order 17</b> &lt; 2 days");
    assert_eq!((&body["chat_id"], &body["message_thread_id"]), (&json!(-7), &json!(4)));
    let row = json!([{ "text": "Track", "url": "https://a.example" },
                     { "text": "Talk", "callback_data": "v:handoff" }]);
    assert_eq!(body["reply_markup"]["inline_keyboard"][0], row);
    assert!(!format!("{plan:?}").contains("77:new"));
}

#[test]
fn an_answer_takes_the_place_of_what_showed_it_growing() {
    let message = Message::text(TextFormat::Plain, "Done");
    let outgoing = Outgoing { preview_id: Some("-7:12"), ..out(&message, "-7") };
    let plans = Telegram.render(&config(), &outgoing).unwrap();
    let [Plan::Http(plan)] = &plans[..] else { panic!() };
    assert_eq!(plan.purpose, "editMessageText");
    // It was deleted meanwhile: the answer is sent as a message of its own.
    let gone = json!({ "ok": false, "description": "Bad Request: message to edit not found" });
    let response = RawResponse { status: 400, body: gone.to_string().into(), ..Default::default() };
    let Outcome::Then(plans) = Telegram.classify(&config(), &plans[0], &response) else { panic!() };
    let Plan::Http(plan) = &plans[0] else { panic!() };
    assert!(plan.url.ends_with("/sendMessage"));
    assert!(!String::from_utf8_lossy(&plan.body).contains("message_id"));
}

#[test]
fn each_answer_of_telegram_has_its_meaning() {
    let message = Message::text(TextFormat::Markdown, "**x** <y>");
    let plan = Plan::Http(only(&message, "9").0);
    let says = |status, answer: Value| {
        let body = answer.to_string().into_bytes();
        Telegram.classify(&config(), &plan, &RawResponse { status, body, ..Default::default() })
    };
    let failed = |outcome: Outcome| match outcome {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    let sent = json!({ "ok": true, "result": { "message_id": 8, "chat": { "id": 9 } } });
    assert_eq!(says(200, sent), Outcome::Sent { external_id: Some("9:8".to_owned()) });
    let wait = json!({ "ok": false, "parameters": { "retry_after": 7 } });
    assert!(
        matches!(says(429, wait), Outcome::Retry { after: Some(after), .. } if after.as_secs() == 7)
    );
    let no = |words: &str| json!({ "ok": false, "description": words });
    let Outcome::Then(plans) = says(400, no("Bad Request: can't parse entities: x")) else {
        panic!()
    };
    let Plan::Http(plain) = &plans[0] else { panic!() };
    let body: Value = serde_json::from_slice(&plain.body).unwrap();
    assert_eq!((&body["text"], &body["parse_mode"]), (&json!("x <y>"), &Value::Null));
    assert_eq!(
        failed(says(403, no("Forbidden: bot was blocked by the user"))),
        FailureReason::Blocked
    );
    assert_eq!(failed(says(401, no("Unauthorized"))), FailureReason::Auth);
    assert_eq!(
        failed(says(400, no("Bad Request: chat not found"))),
        FailureReason::RecipientUnknown
    );
    assert!(matches!(says(502, no("x")), Outcome::Retry { after: None, .. }));
    assert!(matches!(says(200, json!("<html>")), Outcome::Retry { .. }));
    let moved =
        json!({ "ok": false, "description": "x", "parameters": { "migrate_to_chat_id": -1009 } });
    let Outcome::Then(plans) = says(400, moved) else { panic!() };
    let Plan::Http(again) = &plans[0] else { panic!() };
    assert!(String::from_utf8_lossy(&again.body).contains("-1009"));
}

#[test]
fn polling_goes_on_after_the_last_update() {
    let mut config = config();
    config.settings.insert("receive".to_owned(), json!("poll"));
    let plan = Telegram.poll(&config, Some(&json!(101))).unwrap();
    assert!(String::from_utf8_lossy(&plan.body).contains("\"offset\":101"));
    let body = json!({ "ok": true, "result": [private(json!({ "text": "a" })), 5,
        { "update_id": 102, "new_thing": {} }] });
    let response = RawResponse { status: 200, body: body.to_string().into(), ..Default::default() };
    let polled = Telegram.polled(&config, &response, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((polled.events.len(), polled.cursor), (2, Some(json!(103))));
    let taken = RawResponse { status: 409, body: b"{}".to_vec(), ..Default::default() };
    assert!(Telegram.polled(&config, &taken, Timestamp::UNIX_EPOCH).is_err());
    assert!(Telegram.poll(&self::config(), None).is_none());
}

#[test]
fn a_file_comes_in_two_steps_and_no_path_leads_elsewhere() {
    let config = config();
    let media = Media { external_id: Some("f".to_owned()), ..Media::default() };
    assert_eq!(Telegram.fetch(&config, &media).unwrap().purpose, "getFile");
    let too_large = Media { size: Some(20 << 20), ..media };
    assert!(Telegram.fetch(&config, &too_large).is_none());
    let answer = |path: &str| {
        let body = json!({ "ok": true, "result": { "file_path": path } }).to_string();
        let mut response = RawResponse { status: 200, body: body.into(), ..Default::default() };
        response.headers.insert("content-type", "application/json".parse().unwrap());
        Telegram.fetched(&config, &response)
    };
    let Fetched::Then(plan) = answer("photos/a.jpg") else { panic!() };
    assert_eq!(plan.url, "https://api.telegram.org/file/bot77:new/photos/a.jpg");
    assert!(matches!(answer("../x"), Fetched::Failed(_)));
}

#[test]
fn a_picture_of_an_album_is_a_piece_of_it() {
    let picture = json!({ "photo": [{ "file_id": "a", "width": 1, "height": 1 }],
                          "media_group_id": "g1", "caption": "look" });
    let piece = |update: Value| match read(&update).body {
        EventBody::Piece { external_id, album, addressed, message } => {
            assert_eq!(message.to_text(), "[image]\n\nlook");
            (external_id, album, addressed)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(piece(private(picture.clone())), ("9:5".to_owned(), "g1".to_owned(), true));
    assert_eq!(piece(group(picture)), ("-7:5".to_owned(), "g1".to_owned(), false));
}

fn image(url: &str) -> Part {
    Part::Image(Media { url: Some(url.to_owned()), ..Media::default() })
}

fn own_copy(id: &str, mime: &str, size: u64) -> Media {
    Media {
        upload_id: Some(id.to_owned()),
        mime: Some(mime.to_owned()),
        size: Some(size),
        ..Media::default()
    }
}

#[test]
fn an_album_that_is_refused_goes_picture_by_picture() {
    let mut mine = own_copy("upl_1", "image/png", 9);
    mine.caption = Some("mine".to_owned());
    let parts = vec![image("https://a.example/1"), Part::Image(mine)];
    let message = Message { parts, reply_to: None };
    let plans = Telegram.render(&config(), &out(&message, "-7:4")).unwrap();
    let [Plan::Http(plan)] = &plans[..] else { panic!("{plans:?}") };
    let Some(Upload::Form(form)) = &plan.upload else { panic!() };
    let names: Vec<_> = form.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["chat_id", "media", "message_thread_id", "file0"]);
    let moved = json!({ "ok": false, "description": "x",
                        "parameters": { "migrate_to_chat_id": -1009 } });
    let answer = |status, answer: Value| {
        let body = answer.to_string().into_bytes();
        let response = RawResponse { status, body, ..RawResponse::default() };
        Telegram.classify(&config(), &plans[0], &response)
    };
    let Outcome::Then(again) = answer(400, moved) else { panic!() };
    let Plan::Http(again) = &again[0] else { panic!() };
    let Some(Upload::Form(form)) = &again.upload else { panic!() };
    assert!(form.contains(&FormPart::text("chat_id", "-1009")));
    let refused = json!({ "ok": false, "description": "Bad Request: wrong file identifier" });
    let Outcome::Then(singles) = answer(400, refused) else { panic!() };
    let [Plan::Http(one), Plan::Http(two)] = &singles[..] else { panic!() };
    let sent: Value = serde_json::from_slice(&one.body).unwrap();
    assert_eq!(
        sent,
        json!({ "chat_id": -7, "message_thread_id": 4,
                             "photo": "https://a.example/1" })
    );
    let Some(Upload::Form(form)) = &two.upload else { panic!() };
    assert!(two.url.ends_with("/sendPhoto"));
    assert!(form.contains(&FormPart::text("caption", "mine")));
    assert!(form.iter().any(|part| part.name == "photo"));
    let sent = json!({ "ok": true, "result": [{ "message_id": 8, "chat": { "id": -7 } }] });
    assert_eq!(answer(200, sent), Outcome::Sent { external_id: Some("-7:8".to_owned()) });
}

#[test]
fn a_picture_that_is_too_large_for_one_is_a_document() {
    let message = Message {
        parts: vec![Part::Image(own_copy("upl_1", "image/png", (10 << 20) + 1))],
        reply_to: None,
    };
    let plans = Telegram.render(&config(), &out(&message, "9")).unwrap();
    let [Plan::Http(plan)] = &plans[..] else { panic!() };
    assert_eq!(plan.purpose, "sendDocument");
}

#[test]
fn settings_for_stars_are_looked_at() {
    let with = |value: Value, offers: Value| {
        let mut config = config();
        config.settings.insert("receive".to_owned(), json!("poll"));
        config.settings.insert("stars_offers".to_owned(), offers);
        if !value.is_null() {
            config.settings.insert("stars_value".to_owned(), value);
        }
        config
    };
    assert_eq!(Telegram.check(&with(json!(9), json!(["50"]))), Ok(()));
    assert_eq!(Telegram.check(&with(json!(null), json!([]))), Ok(()));
    let bad = [(json!(null), json!(["50"])), (json!(9), json!(["0"])), (json!(9), json!(["many"]))];
    for (value, offers) in bad {
        assert_eq!(Telegram.check(&with(value, offers)).unwrap_err().0, "stars_offers");
    }
    // What is not sold is a message like any other.
    assert_eq!(words(&read(&private(json!({ "text": "/topup" })))), "/topup");
    let selling = with(json!(9), json!(["50", "250"]));
    let asks = |text: &str| {
        let event = read_update(&private(json!({ "text": text })), super::own(&selling));
        Telegram.acknowledge(&selling, &event).map(|plan| plan.purpose)
    };
    assert_eq!(asks("/topup"), Some("sendMessage"));
    assert_eq!(asks("/topup 250"), Some("sendInvoice"));
    assert_eq!(asks("/topup_50@shop_bot"), Some("sendInvoice"));
    assert_eq!(asks("/topup_51"), Some("sendMessage"));
    for other in ["/topups", "/topup_x", "topup", "/top"] {
        assert_eq!(asks(other), None, "{other}");
    }
}
