use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use qudao_core::channel::{
    adapter::{Answered, FailureReason},
    event::EventBody,
    session::{OpenError, SessionFrame, SessionStep},
};
use qudao_domain::message::{Message, Part};

use super::*;
use crate::fixture::{
    NOW_S, bodies, buttons, config, get, header, link, markdown, now, one, post, postback,
    response, rows, says, sent, sent_json, unknown,
};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn ours() -> ChannelConfig {
    let public = hex::encode(key().verifying_key().as_bytes());
    config(json!({ "application_id": "900", "public_key": public }), &[("bot_token", &["b.o.t"])])
}

fn signed_at(second: i64, key: &SigningKey, body: &str) -> RawRequest {
    let made = key.sign(format!("{second}{body}").as_bytes());
    post(
        &[
            ("x-signature-timestamp", second.to_string()),
            ("x-signature-ed25519", hex::encode(made.to_bytes())),
        ],
        body,
    )
}

fn parse(body: &Value) -> Result<Parsed, Reject> {
    Discord.verify_and_parse(&ours(), &signed_at(NOW_S, &key(), &body.to_string()), now())
}

fn interaction(inner: Value) -> Value {
    let mut interaction = json!({ "id": "101", "application_id": "900", "token": "aW50ZXI-_x",
        "channel_id": "55", "guild_id": "44", "locale": "zh-CN",
        "member": { "user": { "id": "7", "username": "ada", "global_name": "Ada 😀" } } });
    interaction.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    interaction
}

/// The signature was made by OpenSSL with the same key.
#[test]
fn a_signature_that_others_made_is_accepted() {
    let made = "407d130c3c4fbe27c5f2e020c790aed4732f991cb9f3ae3242430eb2fdf1dfd7\
        2e5af080a27e769f5a2d8e66d391d47c305cfc385bce976c1f4315fbcc09e704";
    let headers =
        [("x-signature-timestamp", NOW_S.to_string()), ("x-signature-ed25519", made.to_owned())];
    let request = post(&headers, r#"{"type":1,"x":"ä"}"#);
    assert!(Discord.verify_and_parse(&ours(), &request, now()).is_ok());
}

#[test]
fn what_is_not_signed_as_it_should_is_refused() {
    let body = json!({ "type": 1, "x": "ä" }).to_string();
    let good = signed_at(NOW_S, &key(), &body);
    let refused = |request: &RawRequest| Discord.verify_and_parse(&ours(), request, now()).err();
    assert_eq!(refused(&good), None);
    let mut cases = vec![
        signed_at(NOW_S - 301, &key(), &body),
        signed_at(NOW_S + 301, &key(), &body),
        signed_at(NOW_S, &SigningKey::from_bytes(&[8; 32]), &body),
        RawRequest { body: body[1..].into(), ..good.clone() },
        RawRequest { body: body.replace('ä', "\\u00e4").into(), ..good.clone() },
        RawRequest { headers: Default::default(), ..good.clone() },
    ];
    for name in ["x-signature-timestamp", "x-signature-ed25519"] {
        let value = good.header(name).unwrap().to_owned();
        for other in ["", "zz", &value[1..], &format!("{value}0")] {
            let mut case = good.clone();
            case.headers.insert(name, other.parse().unwrap());
            cases.push(case);
        }
        let mut twice = good.clone();
        twice.headers.append(name, value.parse().unwrap());
        cases.push(twice);
    }
    for case in cases {
        assert!(matches!(refused(&case), Some(Reject::Unauthorized(_))), "{:?}", case.headers);
    }
    for key in [json!(null), json!(""), json!("00"), json!("zz".repeat(32))] {
        let unset = config(json!({ "public_key": key }), &[]);
        let unset = Discord.verify_and_parse(&unset, &good, now());
        assert_eq!(unset.unwrap_err(), Reject::NotConfigured("public_key"));
    }
    assert_eq!(refused(&get("")), Some(Reject::MethodNotAllowed));
    assert!(matches!(refused(&signed_at(NOW_S, &key(), "{")), Some(Reject::Malformed(_))));
}

#[test]
fn a_ping_is_answered_and_interactions_are_put_off() {
    let answer = |body: Value| parse(&body).unwrap();
    let ping = answer(json!({ "type": 1 }));
    assert_eq!((ping.answer, ping.events.len()), (Answer::json(&json!({ "type": 1 })), 0));
    let command = answer(interaction(json!({ "type": 2, "data": { "name": "ask" } })));
    assert_eq!(command.answer, Answer::json(&json!({ "type": 5 })));
    let guess = answer(interaction(json!({ "type": 4, "data": {} })));
    assert_eq!(guess.answer, Answer::json(&json!({ "type": 8, "data": { "choices": [] } })));
    assert_eq!(bodies(Ok(guess)), [unknown("interaction_4")]);
    let event =
        answer(json!({ "version": 1, "type": 1, "event": { "type": "ENTITLEMENT_CREATE" } }));
    assert_eq!(event.answer.status, 204);
    assert_eq!(bodies(Ok(event)), [unknown("ENTITLEMENT_CREATE")]);
    assert_eq!(answer(json!({ "version": 1, "type": 0 })).events.len(), 0);
    for odd in [json!(null), json!([]), json!({ "type": 2 }), json!({ "type": 99, "id": "1" })] {
        assert!(matches!(bodies(parse(&odd))[..], [EventBody::Unknown { .. }]), "{odd}");
    }
}

#[test]
fn a_command_says_its_options() {
    let event = one(parse(&interaction(json!({ "type": 2, "data": { "name": "ask", "options": [
        { "name": "sub", "type": 1, "options": [
            { "name": "words", "type": 3, "value": "أين 17? 😀" },
            { "name": "file", "type": 11, "value": "66" }] }, 17],
        "resolved": { "attachments": { "66": { "id": "66", "filename": "a.png",
            "content_type": "image/png", "url": "https://cdn.discordapp.com/a.png" } } } } }))));
    assert_eq!((event.id.as_str(), event.thread.external_id.as_str()), ("101", "55"));
    assert!(event.thread.group);
    assert_eq!(event.sender.name.as_deref(), Some("Ada 😀"));
    assert_eq!(event.sender.locale.as_deref(), Some("zh-CN"));
    let EventBody::Message { message, .. } = event.body else { panic!() };
    assert_eq!(message.parts[0].to_text(), "أين 17? 😀");
    assert!(Discord.fetch(&ours(), message.parts[1].media().unwrap()).is_some());
    let bare = one(parse(&interaction(json!({ "type": 2, "data": { "name": "help" } }))));
    assert_eq!(bare.body, says("101", "/help"));
    let form = one(parse(&interaction(json!({ "type": 5, "data": { "components": [
        { "type": 1, "components": [{ "type": 4, "custom_id": "x", "value": "written" }] }] } }))));
    assert_eq!(form.body, says("101", "written"));
}

#[test]
fn what_is_pressed_says_what_ours_carried() {
    let long = "v".repeat(200);
    let items = vec![
        postback("b", "Track", "track 17"),
        postback("b", "Talk to us", ""),
        postback("b", "Long", &long),
        link("c", "Shop", "https://a.example"),
    ];
    let message = Message { parts: vec![buttons(items)], reply_to: None };
    let shown = sent_json(&sent(&Discord, &ours(), "55", &message, None)[0]);
    let buttons = shown["components"][0]["components"].as_array().unwrap().clone();
    assert_eq!(buttons[3]["url"], "https://a.example");
    assert!(buttons[2]["custom_id"].as_str().unwrap().len() <= 100);
    let press = |data: Value, message: &Value| {
        one(parse(&interaction(json!({ "type": 3, "data": data, "message": message })))).body
    };
    for (at, value) in ["track 17", "Talk to us", "Long"].into_iter().enumerate() {
        let data = json!({ "component_type": 2, "custom_id": buttons[at]["custom_id"] });
        assert_eq!(press(data, &shown), EventBody::Pressed { value: value.to_owned() });
    }
    let message = Message { parts: vec![rows(25)], reply_to: None };
    let shown = sent_json(&sent(&Discord, &ours(), "55", &message, None)[0]);
    let option = shown["components"][0]["components"][0]["options"][24]["value"].clone();
    let data = json!({ "component_type": 3, "custom_id": "rows", "values": [option] });
    assert_eq!(press(data, &shown), EventBody::Pressed { value: "row 25".to_owned() });
}

fn dispatched(kind: &str, data: Value) -> Event {
    let mut events = event::dispatched(kind, &data, Some("900"));
    assert_eq!(events.len(), 1);
    events.remove(0)
}

#[test]
fn messages_of_the_socket_are_read() {
    let message = |inner: Value| {
        let mut data = json!({ "id": "5", "channel_id": "55", "type": 0, "content": "hello",
            "timestamp": "2026-11-28T12:00:00.000000+00:00",
            "author": { "id": "7", "username": "ada" } });
        data.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
        dispatched("MESSAGE_CREATE", data)
    };
    let direct = message(json!({}));
    assert_eq!((direct.body, direct.at), (says("5", "hello"), Some(now())));
    assert_eq!(direct.sender.name.as_deref(), Some("ada"));
    assert_eq!(message(json!({ "guild_id": "44" })).body, EventBody::Overheard);
    let called = message(json!({ "guild_id": "44", "content": "<@900> hi <@8>", "mentions": [
        { "id": "900", "username": "bot" }, { "id": "8", "global_name": "Bo" }] }));
    assert_eq!(called.body, says("5", "hi @Bo"));
    let reply = message(json!({ "guild_id": "44", "type": 19,
        "message_reference": { "message_id": "4" },
        "referenced_message": { "author": { "id": "900" } } }));
    let EventBody::Message { message: read, .. } = reply.body else { panic!() };
    assert_eq!(read.reply_to.as_deref(), Some("4"));
    let own = message(json!({ "author": { "id": "900", "bot": true } }));
    assert_eq!(own.body, unknown("echo"));
    let bot = message(json!({ "author": { "id": "8", "bot": true } }));
    assert_eq!(bot.body, unknown("message_of_a_bot"));
    assert_eq!(message(json!({ "type": 7 })).body, unknown("message_type_7"));
    assert_eq!(message(json!({ "content": "" })).body, unknown("message_without_words"));
    let voice = message(json!({ "content": "", "flags": 8192, "attachments": [
        { "url": "https://cdn.discordapp.com/v.ogg", "content_type": "audio/ogg" }] }));
    let EventBody::Message { message: read, .. } = voice.body else { panic!() };
    let Part::Audio(media) = &read.parts[0] else { panic!() };
    assert!(media.voice);
}

#[test]
fn edits_deletes_reactions_and_typing_are_told() {
    let data = json!({ "id": "5", "channel_id": "55", "content": "new", "author": { "id": "7" } });
    assert_eq!(dispatched("MESSAGE_UPDATE", data.clone()).body, unknown("message_update"));
    let mut edited = data.clone();
    edited["edited_timestamp"] = json!("2026-11-28T12:00:01+00:00");
    let message = Message::text(Default::default(), "new");
    let body = EventBody::Edited { external_id: "5".to_owned(), message };
    assert_eq!(dispatched("MESSAGE_UPDATE", edited).body, body);
    let gone = EventBody::Deleted { external_id: "5".to_owned() };
    assert_eq!(dispatched("MESSAGE_DELETE", data).body, gone);
    let many = json!({ "ids": ["5", 6, null], "channel_id": "55" });
    assert_eq!(event::dispatched("MESSAGE_DELETE_BULK", &many, None).len(), 2);
    let reaction =
        json!({ "user_id": "7", "channel_id": "55", "message_id": "5", "emoji": { "name": "🎉" } });
    let body =
        EventBody::Reaction { external_id: "5".to_owned(), sign: "🎉".to_owned(), added: true };
    assert_eq!(dispatched("MESSAGE_REACTION_ADD", reaction).body, body);
    let typing = json!({ "channel_id": "55", "user_id": "7" });
    assert_eq!(dispatched("TYPING_START", typing).body, EventBody::Typing);
    assert_eq!(dispatched("GUILD_CREATE", json!({ "id": "44" })).body, unknown("guild_create"));
}

#[test]
fn a_session_identifies_beats_and_resumes() {
    let gateway = response(200, &json!({ "url": "wss://gateway.discord.gg", "shards": 1 }));
    assert_eq!(Discord.locate(&ours()).unwrap().url, "https://discord.com/api/v10/gateway/bot");
    let mut session = Discord.open(&ours(), Some(&gateway), None).unwrap();
    assert_eq!(session.address(), "wss://gateway.discord.gg/?v=10&encoding=json");
    let mut feed = |frame: Value| session.on_frame(&SessionFrame::Text(frame.to_string()), now());
    let sent = |step: &SessionStep| match step {
        SessionStep::Send(SessionFrame::Text(text)) => serde_json::from_str::<Value>(text).unwrap(),
        other => panic!("{other:?}"),
    };
    let hello = json!({ "op": 10, "d": { "heartbeat_interval": 41_250 } });
    let steps = feed(hello.clone());
    let identify = sent(&steps[0]);
    assert_eq!((&identify["op"], &identify["d"]["token"]), (&json!(2), &json!("b.o.t")));
    assert_eq!(identify["d"]["intents"], 512 + 1024 + 4096 + 8192);
    assert!(matches!(steps[1], SessionStep::Wake(wait) if wait.as_millis() == 20_625));

    let ready = json!({ "op": 0, "t": "READY", "s": 1, "d": { "session_id": "sess",
        "resume_gateway_url": "wss://other.discord.gg", "user": { "id": "900" } } });
    assert!(matches!(feed(ready)[..], [SessionStep::Established]));
    let said = json!({ "op": 0, "t": "MESSAGE_CREATE", "s": 2, "d": { "id": "5",
        "channel_id": "55", "content": "hi", "author": { "id": "7" } } });
    let steps = feed(said);
    let [SessionStep::Accept(events)] = steps.as_slice() else { panic!() };
    assert_eq!(events[0].body, says("5", "hi"));
    assert_eq!(sent(&feed(json!({ "op": 1 }))[0]), json!({ "op": 1, "d": 2 }));

    let steps = session.on_timer(now());
    assert_eq!(sent(&steps[0])["op"], 1);
    session.on_frame(&SessionFrame::Text(json!({ "op": 11 }).to_string()), now());
    assert!(matches!(session.on_timer(now())[..], [SessionStep::Send(_), SessionStep::Wake(_)]));
    // Not acknowledged: the socket is dead.
    assert!(matches!(session.on_timer(now())[..], [SessionStep::Reconnect(_)]));
    assert_eq!(session.address(), "wss://other.discord.gg/?v=10&encoding=json");
    let mut feed = |frame: Value| session.on_frame(&SessionFrame::Text(frame.to_string()), now());
    let resume = sent(&feed(hello.clone())[0]);
    assert_eq!(resume["op"], 6);
    assert_eq!((&resume["d"]["session_id"], &resume["d"]["seq"]), (&json!("sess"), &json!(2)));
    assert!(matches!(feed(json!({ "op": 7 }))[..], [SessionStep::Reconnect(_)]));
    feed(json!({ "op": 9, "d": false }));
    assert_eq!(sent(&feed(hello)[0])["op"], 2);
    for odd in [json!(null), json!({ "op": 0 }), json!({ "op": 99 }), json!({ "op": "0" })] {
        feed(odd);
    }
    assert!(session.on_frame(&SessionFrame::Binary(vec![1]), now()).is_empty());

    let reads_all = ours();
    let mut settings = reads_all.settings.clone();
    settings.insert("read_all".to_owned(), json!(true));
    let mut session =
        Discord.open(&ChannelConfig { settings, ..reads_all }, Some(&gateway), None).unwrap();
    let hello = SessionFrame::Text(json!({ "op": 10, "d": {} }).to_string());
    let steps = session.on_frame(&hello, now());
    assert_eq!(sent(&steps[0])["d"]["intents"], 512 + 1024 + 4096 + 8192 + 32_768);
    let refused = response(401, &json!({ "message": "401: Unauthorized" }));
    assert!(matches!(Discord.open(&ours(), Some(&refused), None), Err(OpenError::Refused(_))));
}

fn to_interaction(raw: &Value, thread: &str, minutes: u64, text: &str) -> Vec<HttpPlan> {
    let at = now() - Duration::from_secs(minutes * 60);
    let answered = Answered { external_id: "101", raw, at };
    sent(&Discord, &ours(), thread, &markdown(text), Some(answered))
}

#[test]
fn an_interaction_is_answered_under_its_token_while_that_is_valid() {
    let raw = interaction(json!({ "type": 2, "data": { "name": "ask" } }));
    let plans = to_interaction(&raw, "55", 5, &"words ".repeat(500));
    let base = "https://discord.com/api/v10/webhooks/900/aW50ZXI-_x";
    assert_eq!(plans[0].method, "PATCH");
    assert_eq!(plans[0].url, format!("{base}/messages/@original"));
    assert_eq!(plans[1].method, "POST");
    assert_eq!(plans[1].url, format!("{base}?wait=true"));
    assert_eq!(header(&plans[0], "authorization"), None);
    for late in [to_interaction(&raw, "55", 15, "x"), to_interaction(&raw, "56", 5, "x")] {
        assert!(late[0].url.ends_with("/messages"));
        assert_eq!(header(&late[0], "authorization"), Some("Bot b.o.t"));
    }
    // Refused all the same: the bot says it, under the same nonce whenever it is tried again.
    let gone = response(404, &json!({ "code": 10_015, "message": "Unknown Webhook" }));
    let again = |plan: &HttpPlan| match Discord.classify(&ours(), &Plan::Http(plan.clone()), &gone)
    {
        Outcome::Then(mut plans) => match plans.remove(0) {
            Plan::Http(plan) => plan,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let instead = again(&plans[0]);
    assert_eq!(instead.url, "https://discord.com/api/v10/channels/55/messages");
    let nonce = |plan: &HttpPlan| sent_json(plan)["nonce"].clone();
    assert_eq!(nonce(&instead), nonce(&to_interaction(&raw, "55", 15, "x")[0]));
    assert_ne!(nonce(&instead), nonce(&again(&plans[1])));
    assert!(nonce(&instead).as_str().unwrap().len() <= 25);
    // A message of the socket has a type and no token.
    let message = json!({ "t": "MESSAGE_CREATE", "d": { "type": 3, "channel_id": "55" } });
    assert!(to_interaction(&message, "55", 1, "x")[0].url.ends_with("/messages"));
    let odd = interaction(json!({ "type": 2, "token": "../../x" }));
    assert!(to_interaction(&odd, "55", 1, "x")[0].url.ends_with("/channels/55/messages"));
}

#[test]
fn an_interaction_of_the_socket_is_acknowledged_by_a_request() {
    let data = interaction(json!({ "type": 2, "data": { "name": "ask" } }));
    let event = dispatched("INTERACTION_CREATE", data.clone());
    let plan = Discord.acknowledge(&ours(), &event).unwrap();
    assert_eq!(plan.url, "https://discord.com/api/v10/interactions/101/aW50ZXI-_x/callback");
    assert_eq!(sent_json(&plan), json!({ "type": 5 }));
    assert!(to_interaction(&event.raw, "55", 1, "x")[0].url.contains("/@original"));
    let by_request = one(parse(&data));
    assert!(Discord.acknowledge(&ours(), &by_request).is_none());
}

#[test]
fn discord_is_sent_what_it_can_show() {
    let message = Message { reply_to: Some("4".to_owned()), ..markdown("**Hi** @everyone") };
    let body = sent_json(&sent(&Discord, &ours(), "55", &message, None)[0]);
    assert_eq!(body["content"], "**Hi** @everyone");
    assert_eq!(body["allowed_mentions"]["parse"], json!([]));
    assert_eq!(
        (&body["enforce_nonce"], &body["message_reference"]["message_id"]),
        (&json!(true), &json!("4"))
    );
    let items = (0..12).map(|at| postback("b", &format!("Button {at}"), "")).collect();
    let message = Message { parts: vec![buttons(items)], reply_to: None };
    let body = sent_json(&sent(&Discord, &ours(), "55", &message, None)[0]);
    let row = |at: usize| body["components"][at]["components"].as_array().unwrap().len();
    assert_eq!((row(0), row(1), row(2)), (5, 5, 2));
    let card = Part::Card {
        fallback_text: String::new(),
        title: "Box".to_owned(),
        text: Some("Blue".to_owned()),
        image_url: Some("https://a.example/b.png".to_owned()),
        items: vec![postback("a", "Buy", "")],
    };
    let message = Message { parts: vec![card], reply_to: None };
    let body = sent_json(&sent(&Discord, &ours(), "55", &message, None)[0]);
    assert_eq!(body["embeds"][0]["image"]["url"], "https://a.example/b.png");
    let out = |thread| Outgoing {
        id: "o",
        piece: 0,
        thread,
        message: &message,
        answered: None,
        preview_id: None,
        now: now(),
    };
    let nowhere = Discord.render(&ours(), &out("55/../56")).unwrap_err();
    assert_eq!(nowhere.reason, FailureReason::RecipientUnknown);
}

#[test]
fn answers_are_understood() {
    let plan = sent(&Discord, &ours(), "55", &markdown("x"), None).remove(0);
    let means = |status: u16, body: Value| {
        Discord.classify(&ours(), &Plan::Http(plan.clone()), &response(status, &body))
    };
    assert_eq!(
        means(200, json!({ "id": "77" })),
        Outcome::Sent { external_id: Some("77".to_owned()) }
    );
    let busy = means(429, json!({ "retry_after": 1.5, "global": false }));
    assert!(matches!(busy, Outcome::Retry { after: Some(after), .. } if after.as_millis() == 1500));
    let odd = means(429, json!({ "retry_after": -1e300 }));
    assert!(matches!(odd, Outcome::Retry { after: None, .. }));
    let why = |status: u16, code: i64| match means(status, json!({ "code": code, "message": "no" }))
    {
        Outcome::Failed(failure) => Some(failure.reason),
        Outcome::Retry { .. } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(401, 0), Some(FailureReason::Auth));
    assert_eq!(why(403, 50_007), Some(FailureReason::Blocked));
    assert_eq!(why(404, 10_003), Some(FailureReason::RecipientUnknown));
    assert_eq!(why(403, 50_013), Some(FailureReason::Policy));
    assert_eq!(why(400, 50_035), Some(FailureReason::ProviderError));
    assert_eq!(why(502, 0), None);
}

#[test]
fn connecting_says_what_is_wrong() {
    assert_eq!(Discord.check(&ours()), Ok(()));
    let odd = config(json!({ "application_id": "900", "public_key": "xyz" }), &[]);
    assert_eq!(Discord.check(&odd).unwrap_err().0, "public_key");
    let plans = Discord.connect(&ours());
    let did: Vec<_> = plans.iter().map(|plan| (plan.method, plan.purpose)).collect();
    assert_eq!(did, [("GET", "connect"), ("POST", "command"), ("PATCH", "endpoint")]);
    assert_eq!(sent_json(&plans[1])["name"], "ask");
    let address = "https://chat.example/v1/inbound/key";
    assert_eq!(sent_json(&plans[2]), json!({ "interactions_endpoint_url": address }));
    let refused = response(400, &json!({ "message": "Invalid Form Body" }));
    let why = Discord.connected(&ours(), &plans[2], &refused).unwrap_err();
    assert!(why.contains("address"));
    let named = config(json!({ "command": "/Ask us" }), &[]);
    assert_eq!(Discord.check(&named).unwrap_err().0, "command");
    let plan = &plans[0];
    let says =
        |status: u16, body: Value| Discord.connected(&ours(), plan, &response(status, &body));
    let key = ours().setting("public_key").unwrap().to_owned();
    let known =
        json!({ "id": "900", "verify_key": key, "name": "App", "bot": { "username": "acme" } });
    assert_eq!(says(200, known).unwrap().as_deref(), Some("acme"));
    assert!(says(401, Value::Null).unwrap_err().contains("bot token"));
    assert!(says(200, json!({ "id": "901" })).unwrap_err().contains("901"));
    assert!(
        says(200, json!({ "id": "900", "verify_key": "00" })).unwrap_err().contains("public key")
    );
}

#[test]
fn the_answer_takes_the_place_of_what_showed_it_growing() {
    let grown = |message_id: Option<&str>| {
        let preview = Preview { draft: 1, text: "Grow", message_id };
        Discord.preview(&ours(), "55", &preview)
    };
    assert_eq!(grown(None).unwrap().method, "POST");
    assert_eq!(grown(Some("77")).unwrap().method, "PATCH");
    assert!(grown(Some("77/../78")).is_none());

    let message = markdown("Done");
    let raw = interaction(json!({ "type": 2, "data": { "name": "ask" } }));
    let plans = |asked: bool| {
        let answered = Answered { external_id: "101", raw: &raw, at: now() };
        let out = Outgoing {
            id: "o",
            piece: 0,
            thread: "55",
            message: &message,
            answered: asked.then_some(answered),
            preview_id: Some("77"),
            now: now(),
        };
        Discord.render(&ours(), &out).unwrap()
    };
    let [Plan::Http(edit)] = &plans(false)[..] else { panic!() };
    assert_eq!((edit.method, edit.purpose), ("PATCH", "edit"));
    let gone = response(404, &json!({ "code": 10_008 }));
    let Outcome::Then(anew) = Discord.classify(&ours(), &plans(false)[0], &gone) else { panic!() };
    let [Plan::Http(anew)] = anew.as_slice() else { panic!() };
    assert_eq!((anew.method, &sent_json(anew)["content"]), ("POST", &json!("Done")));
    // An interaction has its own place: there the growing message is taken back.
    let asked = plans(true);
    let [Plan::Http(answer), Plan::Http(withdraw)] = &asked[..] else { panic!() };
    assert_eq!((answer.purpose, withdraw.method), ("original", "DELETE"));
    let done = Discord.classify(&ours(), &asked[1], &gone);
    assert_eq!(done, Outcome::Sent { external_id: None });
}
