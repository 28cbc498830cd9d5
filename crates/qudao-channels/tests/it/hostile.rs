//! Every adapter against bodies that mean harm: what is not signed is never taken, and what is
//! signed is read to the end, stored or refused, whatever it is.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use qudao_core::channel::{
    adapter::{Answered, ChannelAdapter, Outgoing, Parsed, RawRequest, Reject},
    config::{ChannelConfig, FieldForm},
    event::{Event, EventBody},
    plan::{Plan, RawResponse},
    reference::recalled,
    session::{SessionFrame, SessionStep},
};
use qudao_domain::{
    ChannelId, TenantId,
    message::{Message, TextFormat},
    state::ChannelKind,
};
use qudao_egress::{PublicUrl, Rules};
use serde_json::{Map, Value, json};

use crate::signers::{FRAMES, NOW_S, Platform, SECRET, platforms, post};

/// Bodies that each adapter is given, of each sort.
const CASES: u32 = 10_000;

fn adapters() -> Vec<(Arc<dyn ChannelAdapter>, Option<Platform>)> {
    let mut known = platforms();
    let mut with = |adapter: Arc<dyn ChannelAdapter>| {
        let kind = adapter.manifest().kind;
        let at = known.iter().position(|platform| platform.kind == kind);
        let platform = at.map(|at| known.swap_remove(at));
        (adapter, platform)
    };
    qudao_channels::adapters().into_iter().map(&mut with).collect()
}

/// A channel whose every secret is `secret`.
fn config(adapter: &dyn ChannelAdapter, settings: Value, secret: &str) -> ChannelConfig {
    let mut all = Map::new();
    let mut secrets = BTreeMap::new();
    for field in adapter.manifest().fields {
        if field.secret {
            secrets.insert(field.name.to_owned(), vec!["older".to_owned(), secret.to_owned()]);
        } else if field.required && matches!(field.form, FieldForm::Text(_)) {
            all.insert(field.name.to_owned(), json!("1061"));
        }
    }
    all.extend(settings.as_object().cloned().unwrap_or_default());
    channel(Value::Object(all), secrets)
}

pub(crate) fn channel(settings: Value, secrets: BTreeMap<String, Vec<String>>) -> ChannelConfig {
    ChannelConfig {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        channel_id: ChannelId::from_uuid(uuid::Uuid::nil()),
        locale: "en".to_owned(),
        settings: settings.as_object().cloned().unwrap_or_default(),
        secrets,
        account: None,
        inbound_url: "https://chat.example/v1/inbound/key".to_owned(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW_S).unwrap()
}

/// Texts that have broken something somewhere.
fn text() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "",
        "\0",
        "a\0b",
        "😀👩‍👩‍👧",
        "\u{202e}مرحبا",
        "\u{feff}",
        "%00",
        "../../etc/passwd",
        "<@",
        "<>|",
        "<!here",
        "q:",
        "q::",
        ":",
        "-1",
        "1e999",
        "99999999999999999999",
        "http://169.254.169.254/",
        "D1",
        "C1",
        "text",
        "message",
        "image",
        "interactive",
        "postback",
        "unfollow",
        "page",
        "2001",
        "1061",
        "event_callback",
        "block_actions",
        "'; DROP TABLE channels; --",
        "{{7*7}}",
    ];
    prop_oneof![
        6 => proptest::sample::select(KNOWN).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => (1..3000_usize).prop_map(|length| "é".repeat(length)),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ]
}

/// JSON with the names that platforms use.
fn value() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "type",
        "event",
        "events",
        "entry",
        "changes",
        "value",
        "messages",
        "messaging",
        "message",
        "id",
        "ts",
        "channel",
        "user",
        "text",
        "object",
        "statuses",
        "sender",
        "source",
        "userId",
        "data",
        "token",
        "channel_id",
        "actions",
        "files",
        "attachments",
        "payload",
        "content",
        "author",
        "update_id",
        "chat",
        "from",
        "header",
        "encrypt",
        "challenge",
        "msgtype",
        "conversationId",
        "body",
        "events_list",
    ];
    leaf().prop_recursive(5, 60, 6, |inner| {
        let name = prop_oneof![
            9 => proptest::sample::select(NAMES).prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// One way of spoiling a good body.
#[derive(Debug, Clone)]
enum Spoil {
    /// Not from a sample at all.
    Bytes(Vec<u8>),
    Json(Value),
    /// Cut off at this part of it, of 255.
    Cut(u8),
    /// A byte of it is another.
    Flip(usize, u8),
    /// Some values within are others.
    Put(Vec<(usize, Value)>),
    /// Something stands twice.
    Twice(usize),
    /// Within so many arrays.
    Deep(usize),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..600).prop_map(Spoil::Bytes),
        3 => value().prop_map(Spoil::Json),
        1 => any::<u8>().prop_map(Spoil::Cut),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Flip(at, byte)),
        8 => proptest::collection::vec((any::<usize>(), prop_oneof![3 => leaf(), 1 => value()]), 1..5)
            .prop_map(Spoil::Put),
        1 => any::<usize>().prop_map(Spoil::Twice),
        1 => (0..400_usize).prop_map(Spoil::Deep),
    ]
}

/// The body that comes of spoiling a sample.
fn spoiled(sample: &str, how: &Spoil) -> Vec<u8> {
    let json = || serde_json::from_str::<Value>(sample);
    match how {
        Spoil::Bytes(bytes) => bytes.clone(),
        Spoil::Json(value) => value.to_string().into_bytes(),
        Spoil::Cut(part) => sample.as_bytes()[..sample.len() * usize::from(*part) / 255].to_vec(),
        Spoil::Flip(at, byte) => {
            let mut bytes = sample.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = *byte;
            bytes
        }
        Spoil::Put(others) => {
            let Ok(mut whole) = json() else { return sample.as_bytes().to_vec() };
            for (at, other) in others {
                let at = at % count(&whole);
                *nth(&mut whole, &mut at.clone()).unwrap() = other.clone();
            }
            whole.to_string().into_bytes()
        }
        Spoil::Twice(at) => {
            let Ok(mut whole) = json() else { return sample.as_bytes().to_vec() };
            let at = at % count(&whole);
            let place = nth(&mut whole, &mut at.clone()).unwrap();
            *place = json!([place.clone(), place.clone()]);
            whole.to_string().into_bytes()
        }
        Spoil::Deep(depth) => {
            format!("{}{sample}{}", "[".repeat(*depth), "]".repeat(*depth)).into_bytes()
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn count(value: &Value) -> usize {
    1 + children(value).into_iter().map(count).sum::<usize>()
}

/// The value that is so many steps ahead.
fn nth<'a>(value: &'a mut Value, ahead: &mut usize) -> Option<&'a mut Value> {
    if *ahead == 0 {
        return Some(value);
    }
    *ahead -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, ahead)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, ahead)),
        _ => None,
    }
}

/// Runs the property over so many bodies, the same ones each time.
fn for_every_body(property: impl Fn(&Spoil, usize) -> Result<(), TestCaseError>) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let input = (spoil(), any::<usize>());
    runner.run(&input, |(how, sample)| property(&how, sample)).unwrap();
}

/// Kinds whose own test does the same, beside this one.
const ELSEWHERE: &[ChannelKind] = &[
    ChannelKind::Dingtalk,
    ChannelKind::Email,
    ChannelKind::Feishu,
    ChannelKind::Matrix,
    ChannelKind::Wechat,
    ChannelKind::Wecom,
];

#[test]
fn every_platform_that_sends_requests_is_tried() {
    for (adapter, platform) in adapters() {
        let kind = adapter.manifest().kind;
        let tried = platform.is_some() || ELSEWHERE.contains(&kind);
        assert!(
            tried || !adapter.manifest().webhook,
            "{} has no entry in tests/it/signers.rs",
            kind.as_str()
        );
    }
}

#[test]
fn nothing_is_taken_that_is_not_signed() {
    let all: Vec<_> = adapters()
        .into_iter()
        .map(|(adapter, platform)| {
            let settings = platform.as_ref().map_or(json!({}), |one| (one.settings)());
            let config = config(&*adapter, settings, SECRET);
            (adapter, platform, config)
        })
        .collect();
    for_every_body(|how, at| {
        for (adapter, platform, config) in &all {
            let samples = platform.as_ref().map_or(&["{}"][..], |one| one.samples);
            let body = spoiled(samples[at % samples.len()], how);
            let mut forged = vec![post(&[], &body)];
            if let Some(platform) = platform {
                forged.push((platform.sign)(
                    &body,
                    NOW_S,
                    "another secret of the same length.......",
                ));
                forged.push((platform.sign)(&body, NOW_S, ""));
                if platform.covers_body {
                    let mut changed = (platform.sign)(&body, NOW_S, SECRET);
                    changed.body.push(b' ');
                    forged.push(changed);
                }
            }
            for request in forged {
                let kind = adapter.manifest().kind.as_str();
                let taken = adapter.verify_and_parse(config, &request, now());
                prop_assert!(taken.is_err(), "{kind} took {:?}", String::from_utf8_lossy(&body));
            }
        }
        Ok(())
    });
}

#[test]
fn whatever_is_signed_is_read_to_the_end_or_refused() {
    let all: Vec<_> = adapters()
        .into_iter()
        .filter_map(|(adapter, platform)| {
            let platform = platform?;
            let config = config(&*adapter, (platform.settings)(), SECRET);
            Some((adapter, platform, config))
        })
        .collect();
    for_every_body(|how, at| {
        for (adapter, platform, config) in &all {
            let body = spoiled(platform.samples[at % platform.samples.len()], how);
            let request = (platform.sign)(&body, NOW_S, SECRET);
            let kind = platform.kind.as_str();
            match adapter.verify_and_parse(config, &request, now()) {
                Ok(parsed) => {
                    holds(&**adapter, config, platform, &request, &parsed)
                        .map_err(|why| TestCaseError::fail(format!("{kind}: {why}")))?;
                }
                Err(Reject::Malformed(_) | Reject::MethodNotAllowed | Reject::NotFound) => {}
                Err(other) => return Err(TestCaseError::fail(format!("{kind}: {other}"))),
            }
        }
        Ok(())
    });
}

/// What is true of everything that was read.
fn holds(
    adapter: &dyn ChannelAdapter,
    config: &ChannelConfig,
    platform: &Platform,
    request: &RawRequest,
    parsed: &Parsed,
) -> Result<(), String> {
    ensure((200..300).contains(&parsed.answer.status), "the answer says no")?;
    if parsed.events.is_empty() {
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        ensure((platform.is_nothing)(&body), "something was dropped")?;
    }
    for event in &parsed.events {
        is_sound(event)?;
        if let EventBody::Message { message, .. } = &event.body {
            for media in message.parts.iter().filter_map(|part| part.media()) {
                let _ = adapter.fetch(config, media);
            }
        }
        let _ = adapter.acknowledge(config, event);
        answers(adapter, config, event);
    }
    let again = adapter.verify_and_parse(config, request, now());
    let same = again.is_ok_and(|again| again.events == parsed.events);
    ensure(same, "the same request is read in another way")
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// What is true of every event.
fn is_sound(event: &Event) -> Result<(), String> {
    let fits = |id: &str| id.chars().count() <= 200;
    ensure(!event.id.is_empty() && fits(&event.id), "the event's id")?;
    ensure(fits(&event.thread.external_id), "the thread's id")?;
    ensure(fits(&event.sender.external_id), "the sender's id")?;
    match &event.body {
        EventBody::Message { external_id, message }
        | EventBody::Piece { external_id, message, .. } => {
            ensure(!external_id.is_empty() && fits(external_id), "the message's id")?;
            ensure(!event.thread.external_id.is_empty(), "a message from nowhere")?;
            ensure(!message.parts.is_empty(), "a message without parts")?;
        }
        EventBody::Pressed { value } => {
            ensure(!value.is_empty(), "a press that says nothing")?;
            ensure(!event.thread.external_id.is_empty(), "a press from nowhere")?;
        }
        EventBody::Recalled { reference } => {
            // None is found by one that nobody gave.
            ensure(!event.thread.external_id.is_empty(), "a press from nowhere")?;
            ensure(recalled(reference, &[]).is_none(), "a value from nothing")?;
        }
        EventBody::Edited { external_id, .. }
        | EventBody::Deleted { external_id }
        | EventBody::Reaction { external_id, .. }
        | EventBody::Receipt { external_id, .. } => {
            ensure(!external_id.is_empty() && fits(external_id), "what it is about")?;
        }
        EventBody::Unknown { kind } => {
            let plain = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            ensure(plain && !kind.is_empty(), "the kind's name")?;
        }
        _ => {}
    }
    Ok(())
}

/// An answer to what was read: never a panic, and what comes back is understood.
fn answers(adapter: &dyn ChannelAdapter, config: &ChannelConfig, event: &Event) {
    let message = Message::text(TextFormat::Plain, "Yes.");
    let answered = Answered { external_id: "m", raw: &event.raw, at: now() };
    let out = Outgoing {
        id: "out_1",
        piece: 0,
        thread: &event.thread.external_id,
        message: &message,
        answered: Some(answered),
        preview_id: None,
        now: now(),
    };
    for plan in adapter.render(config, &out).unwrap_or_default() {
        if let Plan::Http(plan) = &plan {
            // The host asks no address that does not pass.
            let passed = PublicUrl::parse(&plan.url, &Rules::default());
            assert!(passed.is_ok(), "{}: {passed:?}", plan.url);
        }
        for status in [200, 400, 404] {
            let body = event.raw.to_string().into_bytes();
            let response = RawResponse { status, body, ..RawResponse::default() };
            let _ = adapter.classify(config, &plan, &response);
        }
    }
}

#[test]
fn a_socket_that_means_harm_ends_no_session() {
    let located = RawResponse {
        status: 200,
        body: br#"{"url":"wss://gateway.example","session_start_limit":{"remaining":1},
                   "endpoint":"wss://gateway.example/connect","ticket":"t"}"#
            .to_vec(),
        ..RawResponse::default()
    };
    for adapter in qudao_channels::sessions() {
        let config = config(&*adapter, json!({}), SECRET);
        let session = adapter.open(&config, Some(&located), None).unwrap();
        let session = std::cell::RefCell::new(session);
        for_every_body(|how, at| {
            let body = spoiled(FRAMES[at % FRAMES.len()], how);
            let frame = match String::from_utf8(body) {
                Ok(text) => SessionFrame::Text(text),
                Err(error) => SessionFrame::Binary(error.into_bytes()),
            };
            let mut session = session.borrow_mut();
            for step in session.on_frame(&frame, now()).into_iter().chain(session.on_timer(now())) {
                let SessionStep::Accept(events) = step else { continue };
                prop_assert!(!events.is_empty());
                for event in &events {
                    is_sound(event).map_err(TestCaseError::fail)?;
                    let _ = adapter.acknowledge(&config, event);
                    answers(&*adapter, &config, event);
                }
            }
            let _ = session.address();
            Ok(())
        });
    }
}

#[test]
fn a_secret_that_is_missing_is_never_no_check() {
    for (adapter, platform) in adapters() {
        let Some(platform) = platform else { continue };
        let kind = platform.kind.as_str();
        let mut bare = config(&*adapter, json!({}), "");
        bare.settings.clear();
        let mut none = bare.clone();
        none.secrets.values_mut().for_each(Vec::clear);
        bare.secrets.values_mut().for_each(|values| *values = vec![String::new()]);
        for without in [bare, none] {
            for secret in ["", SECRET] {
                let request = (platform.sign)(platform.samples[0].as_bytes(), NOW_S, secret);
                let taken = adapter.verify_and_parse(&without, &request, now());
                assert!(matches!(taken, Err(Reject::NotConfigured(_))), "{kind}: {taken:?}");
            }
        }
    }
}

#[test]
fn good_requests_are_taken_and_an_older_secret_still_counts() {
    for (adapter, platform) in adapters() {
        let Some(platform) = platform else { continue };
        let kind = platform.kind.as_str();
        let good = config(&*adapter, (platform.settings)(), SECRET);
        for sample in platform.samples {
            let request = (platform.sign)(sample.as_bytes(), NOW_S, SECRET);
            let parsed = adapter.verify_and_parse(&good, &request, now());
            let parsed = parsed.unwrap_or_else(|reject| panic!("{kind}: {reject}"));
            let whole = serde_json::from_str(sample).unwrap_or_default();
            assert!(!parsed.events.is_empty() || (platform.is_nothing)(&whole), "{kind}: {sample}");
        }
    }
}
