use qudao_core::channel::{
    adapter::FailureReason,
    event::{EventBody, ReceiptState},
};
use qudao_domain::message::{Message, Part, TextFormat};
use serde_json::{Value, json};

use super::*;
use crate::stand::{self, http, only, out, parse, request, response, unknown, with, words};

const HS: &str = "hs-token-long-and-random";

fn config() -> ChannelConfig {
    stand::config(
        json!({"homeserver_url": "https://hs.example/", "user_id": "@ai_support:hs.example"}),
        json!({"hs_token": [HS, "an-older-token-of-it"], "as_token": "as-token-long-and-random"}),
    )
}

fn put(body: &Value) -> RawRequest {
    let request = request("PUT", body.to_string());
    let request = RawRequest { tail: "_matrix/app/v1/transactions/7".to_owned(), ..request };
    with(request, "authorization", &format!("Bearer {HS}"))
}

fn event(kind: &str, content: Value) -> Value {
    json!({
        "type": kind, "event_id": "$e1", "room_id": "!room:hs.example", "sender": "@alice:hs.example",
        "origin_server_ts": 1_795_896_000_000_i64, "content": content,
    })
}

fn heard(config: &ChannelConfig, raw: Value) -> Event {
    only(parse(&Matrix, config, &put(&json!({"events": [raw]}))))
}

fn text(words: &str) -> Value {
    event("m.room.message", json!({"msgtype": "m.text", "body": words}))
}

#[test]
fn a_message_is_heard_and_the_same_transaction_has_the_same_ids() {
    let said = heard(&config(), text("Hello 😀 مرحبا"));
    assert_eq!((words(&said).as_str(), said.id.as_str()), ("Hello 😀 مرحبا", "$e1"));
    assert_eq!(said.thread.external_id, "!room:hs.example");
    assert_eq!(said.sender.external_id, "@alice:hs.example");
    assert_eq!(said.at.unwrap().as_second(), 1_795_896_000);
    let request = put(&json!({"events": [text("a")], "ephemeral": [
        {"type": "m.typing", "room_id": "!r:x", "content": {"user_ids": ["@a:x", "@ai_support:hs.example"]}},
        {"type": "m.receipt", "room_id": "!r:x", "content": {"$m": {"m.read": {"@a:x": {"ts": 1}}}}},
        {"type": "m.presence", "sender": "@a:x", "content": {}},
    ]}));
    let once = parse(&Matrix, &config(), &request).unwrap();
    assert_eq!(once.events, parse(&Matrix, &config(), &request).unwrap().events);
    assert_eq!(once.answer.body, b"{}");
    let bodies: Vec<_> = once.events.iter().skip(1).map(|event| event.body.clone()).collect();
    let read = EventBody::Receipt { external_id: "$m".to_owned(), state: ReceiptState::Read };
    assert_eq!(bodies, [EventBody::Typing, read]);
}

#[test]
fn each_kind_of_message_becomes_its_part() {
    let file = |kind: &str| {
        let content = json!({"msgtype": kind, "body": "a box", "filename": "box.bin",
            "url": "mxc://hs.example/abc", "info": {"mimetype": "image/png", "size": 9}});
        match heard(&config(), event("m.room.message", content)).body {
            EventBody::Message { message, .. } => message.parts[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    for (kind, is) in [
        ("m.image", (|part| matches!(part, Part::Image(_))) as fn(&Part) -> bool),
        ("m.audio", |part| matches!(part, Part::Audio(_))),
        ("m.video", |part| matches!(part, Part::Video(_))),
        ("m.file", |part| matches!(part, Part::File(_))),
    ] {
        let part = file(kind);
        assert!(is(&part), "{kind}");
        let media = part.media().unwrap();
        assert_eq!(media.external_id.as_deref(), Some("mxc://hs.example/abc"));
        assert_eq!(
            (media.name.as_deref(), media.caption.as_deref()),
            (Some("box.bin"), Some("a box"))
        );
        let plan = Matrix.fetch(&config(), media).unwrap();
        assert!(
            plan.url
                .starts_with("https://hs.example/_matrix/client/v1/media/download/hs.example/abc?")
        );
    }
    let place = event(
        "m.room.message",
        json!({"msgtype": "m.location", "body": "Berlin", "geo_uri": "geo:52.5,13.4;u=9"}),
    );
    assert_eq!(words(&heard(&config(), place)), "Berlin (52.500000, 13.400000)");
    let nowhere = event(
        "m.room.message",
        json!({"msgtype": "m.location", "body": "x", "geo_uri": "geo:NaN,999"}),
    );
    assert_eq!(unknown(&heard(&config(), nowhere)), "m_location");
    let odd = event("m.room.message", json!({"msgtype": "org.example.poll", "body": "x"}));
    assert_eq!(unknown(&heard(&config(), odd)), "org_example_poll");
    assert_eq!(
        unknown(&heard(&config(), event("m.room.encrypted", json!({})))),
        "m_room_encrypted"
    );
}

#[test]
fn replies_threads_edits_reactions_and_redactions_name_their_message() {
    let reply = event(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "> <@b:x> hi\n\nyes",
        "m.relates_to": {"m.in_reply_to": {"event_id": "$q"}}}),
    );
    let reply = heard(&config(), reply);
    assert_eq!(words(&reply), "yes");
    let EventBody::Message { message, .. } = &reply.body else { panic!() };
    assert_eq!(message.reply_to.as_deref(), Some("$q"));

    let thread = event(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "in it",
        "m.relates_to": {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": true,
            "m.in_reply_to": {"event_id": "$last"}}}),
    );
    let thread = heard(&config(), thread);
    assert_eq!(thread.thread.external_id, "!room:hs.example $root");
    let EventBody::Message { message, .. } = &thread.body else { panic!() };
    assert_eq!(message.reply_to, None);

    let edit = event(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "* new",
        "m.new_content": {"msgtype": "m.text", "body": "new"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$old"}}),
    );
    let edited = EventBody::Edited {
        external_id: "$old".to_owned(),
        message: Message::text(TextFormat::Plain, "new"),
    };
    assert_eq!(heard(&config(), edit).body, edited);

    let reaction = event(
        "m.reaction",
        json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": "$m", "key": "👍"}}),
    );
    let reacted =
        EventBody::Reaction { external_id: "$m".to_owned(), sign: "👍".to_owned(), added: true };
    assert_eq!(heard(&config(), reaction).body, reacted);

    let mut redaction = event("m.room.redaction", json!({}));
    redaction["redacts"] = json!("$m");
    let deleted = EventBody::Deleted { external_id: "$m".to_owned() };
    assert_eq!(heard(&config(), redaction).body, deleted);
    let newer = event("m.room.redaction", json!({"redacts": "$m"}));
    assert_eq!(heard(&config(), newer).body, deleted);
}

#[test]
fn the_assistant_hears_neither_itself_nor_machines_nor_what_is_for_others() {
    let mut own = text("echo");
    own["sender"] = json!("@ai_support:hs.example");
    assert!(parse(&Matrix, &config(), &put(&json!({"events": [own]}))).unwrap().events.is_empty());
    let notice = event("m.room.message", json!({"msgtype": "m.notice", "body": "beep"}));
    assert_eq!(heard(&config(), notice).body, EventBody::Overheard);
    let other = event(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "Bob: hi", "m.mentions": {"user_ids": ["@bob:x"]}}),
    );
    assert_eq!(heard(&config(), other).body, EventBody::Overheard);

    let mut gated = config();
    gated.settings.insert("require_mention".to_owned(), json!(true));
    assert_eq!(heard(&gated, text("hello all")).body, EventBody::Overheard);
    for calling in ["ai_support: hello", "hey AI_Support!", "@ai_support:hs.example hi"] {
        let called = heard(&gated, text(calling));
        assert!(called.thread.group);
        assert_eq!(words(&called), calling);
    }
    let named = event(
        "m.room.message",
        json!({"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": ["@ai_support:hs.example"]}}),
    );
    words(&heard(&gated, named));
}

#[test]
fn an_invitation_is_accepted_from_whom_it_may_come() {
    let mut invite =
        event("m.room.member", json!({"membership": "invite", "displayname": "Support"}));
    invite["state_key"] = json!("@ai_support:hs.example");
    let invited = heard(&config(), invite.clone());
    assert_eq!(unknown(&invited), "invite");
    let plan = Matrix.acknowledge(&config(), &invited).unwrap();
    assert_eq!(
        plan.url,
        "https://hs.example/_matrix/client/v3/join/%21room%3Ahs.example?user_id=%40ai_support%3Ahs.example"
    );

    let mut picky = config();
    picky.settings.insert("allow_servers".to_owned(), json!(["other.example"]));
    assert_eq!(Matrix.acknowledge(&picky, &invited), None);
    invite["state_key"] = json!("@bob:hs.example");
    let others = heard(&config(), invite.clone());
    assert_eq!(Matrix.acknowledge(&config(), &others), None);
    invite["state_key"] = json!("@ai_support:hs.example");
    invite["content"]["membership"] = json!("leave");
    assert_eq!(heard(&config(), invite).body, EventBody::Unreachable);
}

#[test]
fn one_bad_event_spoils_no_batch() {
    let batch = json!({"events": [text("one"), 17, null, {"type": "m.room.message"}, {"type": "x", "room_id": "!".repeat(300)}, text("two")]});
    let events = parse(&Matrix, &config(), &put(&batch)).unwrap().events;
    assert_eq!(events.len(), 6);
    assert_eq!((words(&events[0]), words(&events[5])), ("one".to_owned(), "two".to_owned()));
    for event in &events[1..5] {
        assert_eq!(unknown(event), "id_missing_or_too_long");
        assert!(event.id.len() <= 200 && event.thread.external_id.chars().count() <= 200);
    }
}

#[test]
fn only_the_homeservers_token_opens_the_door() {
    let body = json!({"events": [text("x")]});
    let given = |line: &str| {
        let mut request = put(&body);
        request.headers.clear();
        parse(&Matrix, &config(), &with(request, "authorization", line))
    };
    assert!(given("Bearer an-older-token-of-it").is_ok());
    for wrong in [
        "Bearer ",
        "Bearer hs-token-long-and-rando",
        "Basic hs-token-long-and-random",
        "bearer",
        "",
    ] {
        assert!(matches!(given(wrong), Err(Reject::Unauthorized(_))), "{wrong}");
    }
    let mut asked = put(&body);
    asked.headers.clear();
    asked.query = format!("access_token={HS}");
    assert!(matches!(parse(&Matrix, &config(), &asked), Err(Reject::Unauthorized(_))));
    let unset = stand::config(json!({}), json!({"hs_token": ""}));
    assert!(matches!(parse(&Matrix, &unset, &put(&body)), Err(Reject::NotConfigured(_))));
}

#[test]
fn the_other_addresses_of_an_application_service_answer_too() {
    let at = |method: &str, tail: &str| {
        let request =
            RawRequest { tail: tail.to_owned(), method: method.to_owned(), ..put(&json!({})) };
        parse(&Matrix, &config(), &request).map(|parsed| parsed.answer.status)
    };
    assert_eq!(at("GET", "_matrix/app/v1/users/%40ai_support%3Ahs.example"), Ok(200));
    assert_eq!(at("GET", "_matrix/app/v1/users/%40bob%3Ahs.example"), Err(Reject::NotFound));
    assert_eq!(at("GET", "_matrix/app/v1/rooms/%23x%3Ahs.example"), Err(Reject::NotFound));
    assert_eq!(at("POST", "_matrix/app/v1/ping"), Ok(200));
    assert_eq!(at("GET", "_matrix/app/v1/transactions/1"), Err(Reject::MethodNotAllowed));
    assert_eq!(at("PUT", "transactions/1"), Ok(200));
    assert_eq!(at("PUT", ""), Err(Reject::NotFound));
    let broken = RawRequest { body: b"{".to_vec(), ..put(&json!({})) };
    assert!(matches!(parse(&Matrix, &config(), &broken), Err(Reject::Malformed(_))));
}

#[test]
fn an_answer_goes_to_its_room_and_thread_under_one_transaction_id() {
    let mut message = Message::text(TextFormat::Markdown, "It **left**.");
    message.reply_to = Some("$q".to_owned());
    let plans = Matrix.render(&config(), &out("!room:hs.example $root", &message, None)).unwrap();
    let (plan, body) = http(&plans);
    assert_eq!(plan.method, "PUT");
    assert!(
        plan.url.contains("/rooms/%21room%3Ahs.example/send/m.room.message/out_1.0.0?user_id=")
    );
    assert!(
        plan.headers
            .contains(&("authorization".to_owned(), "Bearer as-token-long-and-random".to_owned()))
    );
    assert_eq!(body["body"], "It left.");
    assert_eq!(body["formatted_body"], "<p>It <strong>left</strong>.</p>\n");
    assert_eq!(
        body["m.relates_to"],
        json!({"rel_type": "m.thread", "event_id": "$root",
        "is_falling_back": false, "m.in_reply_to": {"event_id": "$q"}})
    );
    let gone = Matrix.render(&config(), &out("nowhere", &message, None));
    assert_eq!(gone.unwrap_err().reason, FailureReason::RecipientUnknown);

    // What showed it growing becomes the answer itself.
    let shown = qudao_core::channel::adapter::Outgoing {
        preview_id: Some("$p"),
        ..out("!room:hs.example $root", &message, None)
    };
    let plans = Matrix.render(&config(), &shown).unwrap();
    let (_, body) = http(&plans);
    assert_eq!(body["m.relates_to"], json!({"rel_type": "m.replace", "event_id": "$p"}));
    assert_eq!(body["m.new_content"]["body"], "It left.");

    let first = Matrix
        .preview(&config(), "!r:x", &Preview { draft: 9, text: "It", message_id: None })
        .unwrap();
    let next = Matrix
        .preview(&config(), "!r:x", &Preview { draft: 9, text: "It left", message_id: Some("$p") })
        .unwrap();
    assert_ne!(first.url, next.url);
    let edit: Value = serde_json::from_slice(&next.body).unwrap();
    assert_eq!(
        (&edit["m.new_content"]["body"], &edit["m.relates_to"]["event_id"]),
        (&json!("It left"), &json!("$p"))
    );
}

#[test]
fn what_a_homeserver_says_is_understood() {
    let plan = Plan::Http(HttpPlan::get("send", "https://hs.example"));
    let said = |status, body: Value| Matrix.classify(&config(), &plan, &response(status, &body));
    assert_eq!(
        said(200, json!({"event_id": "$s"})),
        Outcome::Sent { external_id: Some("$s".to_owned()) }
    );
    let limited = json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2500});
    let after = Some(std::time::Duration::from_millis(2500));
    assert!(matches!(said(429, limited), Outcome::Retry { after: given, .. } if given == after));
    assert!(matches!(said(502, json!("x")), Outcome::Retry { .. }));
    let failed = |status, code: &str| match said(status, json!({"errcode": code})) {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(401, "M_UNKNOWN_TOKEN"), FailureReason::Auth);
    assert_eq!(failed(403, "M_FORBIDDEN"), FailureReason::Blocked);
    assert_eq!(failed(413, "M_TOO_LARGE"), FailureReason::TooLong);
}

#[test]
fn connecting_says_what_is_wrong() {
    let plans = Matrix.connect(&config());
    let purposes: Vec<_> = plans.iter().map(|plan| plan.purpose).collect();
    assert_eq!(purposes, ["register", "whoami"]);
    let used = response(400, &json!({"errcode": "M_USER_IN_USE"}));
    assert_eq!(Matrix.connected(&config(), &plans[0], &used), Ok(None));
    let who = response(200, &json!({"user_id": "@ai_support:hs.example"}));
    assert_eq!(
        Matrix.connected(&config(), &plans[1], &who),
        Ok(Some("@ai_support:hs.example".to_owned()))
    );
    let unknown = response(401, &json!({"errcode": "M_UNKNOWN_TOKEN"}));
    assert!(Matrix.connected(&config(), &plans[1], &unknown).unwrap_err().contains("as_token"));

    let file: Value = serde_json::from_str(&registration(&config(), "qudao").unwrap()).unwrap();
    assert_eq!(file["url"], "https://qudao.example/v1/inbound/key");
    assert_eq!(file["namespaces"]["users"][0]["regex"], "@ai_support:hs\\.example");
}
