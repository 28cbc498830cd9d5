//! A bot of Telegram, from the token to the answer, against a server that fails on demand.

use std::time::Duration;

use qudao_testkit::free_ports;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    bot_api::{BotApi, Call, Fault, TOKEN},
    platform::{Platform, SLOW, Wanted},
};

pub(crate) async fn platform(api: &BotApi, more: &str) -> Platform {
    // The platform has to know the address under which it is sent messages.
    let own = format!("127.0.0.1:{}", free_ports(1)[0]);
    let settings = format!("{}\n[server]\npublic_url = \"http://{own}\"\n{more}", api.egress());
    let environment = vec![("QUDAO_BIND", own)];
    Platform::start_with(Wanted { settings, environment, ..Wanted::default() }).await
}

/// The address of a new channel of the demo tenant.
pub(crate) async fn channel(platform: &Platform, api: &BotApi, settings: Value) -> String {
    channel_of(platform, api, settings, platform.text("assistant_id")).await
}

async fn channel_of(platform: &Platform, api: &BotApi, settings: Value, assistant: &str) -> String {
    let mut settings = settings;
    settings["api_url"] = json!(api.url());
    let base = format!("/v1/tenants/{}/channels", platform.text("tenant_id"));
    let body = json!({
        "name": "Bot", "kind": "telegram", "assistant_id": assistant,
        "settings": settings, "secrets": { "bot_token": TOKEN },
    });
    let (status, made) = platform.operator(Method::POST, &base, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    format!("{base}/{}", made["id"].as_str().unwrap())
}

pub(crate) async fn connect(platform: &Platform, channel: &str) -> (StatusCode, Value) {
    platform.operator(Method::POST, &format!("{channel}/connect"), None).await
}

/// Sends an update as Telegram does, to the path that it was told.
pub(crate) async fn send(api: &BotApi, update: &Value) -> StatusCode {
    let (url, secret) = api.webhook().expect("a webhook");
    let request = Client::builder().no_proxy().build().unwrap().post(url);
    let request = request.header("x-telegram-bot-api-secret-token", secret).json(update);
    request.send().await.unwrap().status()
}

fn texts(api: &BotApi) -> Vec<String> {
    let sent = api.calls("sendMessage").into_iter();
    sent.map(|call| call.body["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_person_asks_a_bot_that_polls_and_is_answered_once() {
    let api = BotApi::start().await;
    let platform = platform(&api, "").await;
    let bot = channel(&platform, &api, json!({ "receive": "poll" })).await;
    let (status, connected) = connect(&platform, &bot).await;
    assert_eq!((status, &connected["account"]), (StatusCode::OK, &json!("@shop_bot")));

    api.offer(api.message(7, "/start spring24"));
    api.await_calls("sendMessage", 1).await;
    api.fault("sendMessage", [Fault::Broken, Fault::Wait(1), Fault::BadMarks]);
    let photo = json!([{ "file_id": "f1", "width": 9, "height": 9, "file_size": 20 }]);
    let mut picture = api.message(7, "");
    picture["message"].as_object_mut().unwrap().remove("text");
    picture["message"]["photo"] = photo;
    picture["message"]["caption"] = json!("What is **this**?");
    api.offer(picture);
    let sent = api.await_calls("sendMessage", 2).await;
    assert_eq!(api.refused(), 3);
    assert_eq!(sent[1].body["chat_id"], 7);
    assert!(sent[1].body["text"].as_str().unwrap().contains("What is"), "{sent:?}");

    let channel_id = bot.rsplit_once('/').unwrap().1.trim_start_matches("chn_").to_owned();
    let ask = |sql: &str| platform.sql(&sql.replace("$channel", &channel_id));
    assert_eq!(
        ask("SELECT body ->> 'ref' FROM attributions WHERE channel_id = '$channel'"),
        "spring24"
    );
    assert_eq!(
        ask("SELECT name || ' ' || locale FROM identities WHERE channel_id = '$channel'"),
        "Ada en"
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let copy = "SELECT convert_from(bytes, 'UTF8') FROM media WHERE channel_id = '$channel'";
    while ask(copy) != "bytes of photos/a.jpg" {
        assert!(std::time::Instant::now() < deadline, "the photo is not copied");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let part = "SELECT body #>> '{parts,0,upload_id}' FROM inbox WHERE channel_id = '$channel' AND seq = 2";
    assert!(ask(part).starts_with("upl_"));
    platform.assert_books_balance();
}

/// An assistant that is to look at pictures, with a model that is not there: the person is answered, and
/// the model that answers knows that it saw nothing.
#[tokio::test]
async fn a_photo_that_nobody_can_look_at_is_answered_all_the_same() {
    let api = BotApi::start().await;
    let platform = platform(&api, "").await;
    let tenant = format!("/v1/tenants/{}", platform.text("tenant_id"));
    let known = format!("{tenant}/assistants/{}", platform.text("assistant_id"));
    let (_, known) = platform.operator(Method::GET, &known, None).await;
    let body = json!({
        "name": "Seer", "system_prompt": "Say what you see.", "route_id": known["route_id"],
        "params": { "vision_model": "yolox-nano" },
    });
    let (status, seer) =
        platform.operator(Method::POST, &format!("{tenant}/assistants"), Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{seer}");
    assert_eq!(seer["params"]["vision_model"], "yolox-nano");
    let settings = json!({ "receive": "poll" });
    let bot = channel_of(&platform, &api, settings, seer["id"].as_str().unwrap()).await;
    assert_eq!(connect(&platform, &bot).await.0, StatusCode::OK);

    let mut picture = api.message(7, "");
    picture["message"].as_object_mut().unwrap().remove("text");
    picture["message"]["photo"] = json!([{ "file_id": "f1", "width": 9, "height": 9 }]);
    picture["message"]["caption"] = json!("What is this?");
    api.offer(picture);
    let sent = api.await_calls("sendMessage", 1).await;
    let answer = sent[0].body["text"].as_str().unwrap();
    assert!(answer.contains("a picture that could not be looked at"), "{answer}");
    assert!(answer.contains("What is this?"), "{answer}");
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_storm_of_repetitions_gives_each_message_one_answer() {
    let api = BotApi::start().await;
    let platform = platform(&api, "").await;
    let bot = channel(&platform, &api, json!({ "receive": "webhook" })).await;
    assert_eq!(connect(&platform, &bot).await.0, StatusCode::OK);
    assert!(api.webhook().unwrap().0.starts_with(&platform.url("/v1/inbound/ik_")));
    let updates: Vec<_> = (0..20).map(|n| api.message(100 + n, &format!("question {n}"))).collect();
    // Each five times, in an order of its own each time.
    let order = (0..5).flat_map(|round| (0..20).map(move |n| (n * 7 + round * 3) % 20));
    let sends = order.map(|n: usize| send(&api, &updates[n]));
    let statuses = futures_util::future::join_all(sends).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    let sent = api.await_calls("sendMessage", 20).await;
    let mut chats: Vec<_> =
        sent.iter().map(|call| call.body["chat_id"].as_i64().unwrap()).collect();
    chats.sort_unstable();
    assert_eq!(chats, (100..120).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(api.calls("sendMessage").len(), 20);

    // Nobody else comes in by this door.
    let (url, secret) = api.webhook().unwrap();
    let http = Client::builder().no_proxy().build().unwrap();
    let forged = api.message(999, "forged");
    for given in [None, Some(""), Some("x"), Some(&secret[1..])] {
        let mut request = http.post(&url).json(&forged);
        if let Some(given) = given {
            request = request.header("x-telegram-bot-api-secret-token", given);
        }
        assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let strange = api.update("brand_new_thing", json!({ "from": { "id": 3 } }));
    for _ in 0..2 {
        assert_eq!(send(&api, &strange).await, StatusCode::OK);
    }
    assert_eq!(
        platform.sql("SELECT kind FROM channel_events WHERE kind LIKE 'unknown%'"),
        "unknown:brand_new_thing"
    );
    let metrics = platform.metrics().await;
    assert!(metrics.contains(
        "qudao_channel_events_total{channel=\"telegram\",kind=\"unknown\",outcome=\"new\"} 1"
    ));
    assert_eq!(platform.sql("SELECT count(*) FROM inbox WHERE external_id LIKE '999%'"), "0");
    platform.assert_books_balance();
}

#[tokio::test]
async fn answers_are_seen_growing_and_a_blocked_bot_learns_it() {
    let api = BotApi::start().await;
    let platform = platform(&api, SLOW).await;
    let tenant = platform.text("tenant_id");
    let made = async |path: &str, body: Value| {
        let path = format!("/v1/tenants/{tenant}/{path}");
        let (status, made) = platform.operator(Method::POST, &path, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["id"].as_str().unwrap().to_owned()
    };
    let route = made("routes", json!({ "name": "slow", "models": ["slow"] })).await;
    let body = json!({ "name": "Slow", "system_prompt": "Echo.", "route_id": route });
    let assistant = made("assistants", body).await;
    let bot = channel(&platform, &api, json!({ "groups": "mention" })).await;
    let change = json!({ "assistant_id": assistant });
    let (status, changed) = platform.operator(Method::PATCH, &bot, Some(change)).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(connect(&platform, &bot).await.0, StatusCode::OK);

    let long = "one two three four five six seven eight nine ten eleven twelve thirteen ".repeat(3);
    send(&api, &api.message(7, &long)).await;
    api.await_calls("sendMessage", 1).await;
    assert!(!api.calls("sendChatAction").is_empty(), "nobody was seen writing");
    let drafts = api.calls("sendMessageDraft");
    assert!(!drafts.is_empty(), "no draft was shown");
    assert!(drafts.iter().all(|draft| draft.body["draft_id"] == drafts[0].body["draft_id"]));

    // In a group the message that grew becomes the answer.
    send(&api, &api.message(-7, "what we say among ourselves")).await;
    send(&api, &api.message(-7, &format!("@shop_bot {long} {long} {long}"))).await;
    let is_last =
        |edits: &[Call]| edits.last().is_some_and(|edit| edit.body["parse_mode"] == "HTML");
    let mut edits = api.await_calls("editMessageText", 2).await;
    while !is_last(&edits) {
        edits = api.await_calls("editMessageText", edits.len() + 1).await;
    }
    let sent = api.calls("sendMessage");
    assert_eq!(sent.len(), 2, "{sent:?}");
    let last = edits.last().unwrap();
    assert!(last.body["text"].as_str().unwrap().contains("thirteen"));
    assert!(edits.windows(2).all(|two| two[0].at <= two[1].at));

    api.fault("sendMessage", [Fault::Blocked]);
    api.fault("sendMessageDraft", std::iter::repeat_n(Fault::Blocked, 20));
    send(&api, &api.message(8, "hello there")).await;
    let gone =
        "SELECT count(*) FROM identities WHERE external_id = '8' AND unreachable_at IS NOT NULL";
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while platform.sql(gone) != "1" {
        assert!(std::time::Instant::now() < deadline, "not known to be unreachable");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(&api, &api.message(8, "I am back")).await;
    while platform.sql(gone) != "0" {
        assert!(std::time::Instant::now() < deadline, "not known to be reachable again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    platform.assert_books_balance();
}

#[tokio::test]
async fn what_is_wrong_with_a_channel_is_said_and_its_secret_is_shown_to_nobody() {
    let api = BotApi::start().await;
    let platform = platform(&api, "").await;
    let base = format!("/v1/tenants/{}/channels", platform.text("tenant_id"));
    let body = |settings: Value, secrets: Value| {
        json!({ "name": "Bot", "kind": "telegram", "settings": settings, "secrets": secrets,
                "assistant_id": platform.text("assistant_id") })
    };
    let wrong = body(json!({ "receive": "pigeon", "bot_token": "x" }), json!({}));
    let (status, refused) = platform.operator(Method::POST, &base, Some(wrong)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let pointers: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
    assert_eq!(pointers, ["/settings/bot_token", "/settings/receive", "/secrets/bot_token"]);
    let bot = channel(&platform, &api, json!({ "receive": "poll" })).await;
    api.fault("getMe", [Fault::Unauthorized]);
    let (status, refused) = connect(&platform, &bot).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("channel_refused"))
    );
    assert!(refused["detail"].as_str().unwrap().contains("copy it anew"), "{refused}");
    let (_, shown) = platform.operator(Method::GET, &bot, None).await;
    assert!(shown["fault"].as_str().unwrap().contains("copy it anew"), "{shown}");
    assert_eq!(shown["secrets_set"], json!(["bot_token"]));
    assert!(!shown.to_string().contains(TOKEN));
    assert!(!platform.log().contains(TOKEN));
    let kept = platform.sql("SELECT secrets_sealed FROM channels WHERE kind = 'telegram'");
    assert!(!kept.is_empty() && !kept.contains(TOKEN));
    let (status, _) = connect(&platform, &bot).await;
    assert_eq!(status, StatusCode::OK);
    let (_, shown) = platform.operator(Method::GET, &bot, None).await;
    assert_eq!((&shown["fault"], &shown["account"]), (&Value::Null, &json!("@shop_bot")));
    assert!(texts(&api).is_empty());
}

#[tokio::test]
async fn a_platform_that_dies_between_two_pieces_sends_the_rest_and_nothing_twice() {
    let api = BotApi::start().await;
    let mut platform = platform(&api, "").await;
    let bot = channel(&platform, &api, json!({ "receive": "webhook" })).await;
    assert_eq!(connect(&platform, &bot).await.0, StatusCode::OK);
    // The echo of this takes three messages; the second is put off for longer than it takes to kill.
    let long = "words and words ".repeat(600);
    api.fault("sendMessage", [Fault::Slow(Duration::ZERO), Fault::Wait(10)]);
    send(&api, &api.message(7, &long)).await;
    api.await_calls("sendMessage", 1).await;
    let recorded = "SELECT count(*) FROM delivery_pieces";
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while platform.sql(recorded) == "0" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    platform.kill_with_children().await;
    platform.restart().await;
    let sent = api.await_calls("sendMessage", 3).await;
    let whole: String = sent.iter().map(|call| call.body["text"].as_str().unwrap()).collect();
    let words = whole.split_whitespace().filter(|word| *word == "and").count();
    assert_eq!(words, 600);
    platform.assert_books_balance();
}
