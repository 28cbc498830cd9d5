//! More of a bot of Telegram: albums, files, buttons that say much, and Stars.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    bot_api::BotApi,
    platform::Platform,
    telegram::{channel, connect, platform, send},
};

async fn bot(api: &BotApi, settings: Value) -> (Platform, String) {
    let platform = platform(api, "").await;
    let mut settings = settings;
    settings["receive"] = json!("webhook");
    let bot = channel(&platform, api, settings).await;
    let (status, said) = connect(&platform, &bot).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    (platform, bot)
}

/// Pieces that came within a moment of each other have one turn, each piece has one, and no turn has
/// two replies.
fn assert_albums_are_whole(platform: &Platform, pieces: usize) {
    let open = "SELECT count(*) FROM inbox WHERE state = 'accepted'";
    let deadline = Instant::now() + Duration::from_secs(40);
    while platform.sql(open) != "0" {
        assert!(Instant::now() < deadline, "not everything was answered");
        std::thread::sleep(Duration::from_millis(50));
    }
    let split = "SELECT count(*) FROM inbox a JOIN inbox b USING (tenant_id, conversation_id) \
                 WHERE b.seq = a.seq + 1 AND a.body ->> 'album' = b.body ->> 'album' \
                   AND b.accepted_at - a.accepted_at < interval '1.0 s' AND a.turn_id <> b.turn_id";
    assert_eq!(platform.sql(split), "0");
    let answered = "SELECT count(*) FROM inbox WHERE state = 'answered' AND body ? 'album'";
    assert_eq!(platform.sql(answered), pieces.to_string());
    let replies = "SELECT count(*) FROM outbox WHERE kind = 'reply'";
    let turns = "SELECT count(DISTINCT turn_id) FROM inbox";
    assert_eq!(platform.sql(replies), platform.sql(turns));
}

#[tokio::test]
async fn an_album_is_one_turn_in_whatever_order_and_however_often_its_pictures_come() {
    let api = BotApi::start().await;
    let (platform, _) = bot(&api, json!({})).await;
    let album = api.album(7, 5, "Which one is yours?");
    let order = [3, 1, 1, 4, 0, 3, 2, 0, 4, 2];
    let sends = order.map(|at: usize| send(&api, &album[at]));
    let statuses = futures_util::future::join_all(sends).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    let sent = api.await_calls("sendMessage", 1).await;
    assert_albums_are_whole(&platform, 5);
    assert_eq!(platform.sql("SELECT count(DISTINCT turn_id) FROM inbox"), "1");
    let said = sent[0].body["text"].as_str().unwrap();
    assert!(said.contains("Which one is yours?"), "{said}");
    for at in order {
        assert_eq!(send(&api, &album[at]).await, StatusCode::OK);
    }
    assert_eq!(api.calls("sendMessage").len(), 1);
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_node_that_dies_between_two_pictures_loses_none() {
    let api = BotApi::start().await;
    let (mut platform, _) = bot(&api, json!({})).await;
    let album = api.album(7, 4, "Four of them");
    for at in [2, 0] {
        assert_eq!(send(&api, &album[at]).await, StatusCode::OK);
    }
    platform.kill_with_children().await;
    platform.restart().await;
    for at in [0, 3, 1, 2] {
        assert_eq!(send(&api, &album[at]).await, StatusCode::OK);
    }
    assert_albums_are_whole(&platform, 4);
    platform.assert_books_balance();
}

#[tokio::test]
async fn in_a_group_one_pictures_mention_makes_the_whole_album_a_question() {
    let api = BotApi::start().await;
    let (platform, _) = bot(&api, json!({ "groups": "mention" })).await;
    let (meant, other) = (api.album(-7, 4, "@shop_bot which?"), api.album(-7, 3, "for us alone"));
    // The one with the mention comes in the middle; one came before it and two after.
    for update in [&meant[2], &other[0], &meant[0], &other[1], &meant[1], &meant[3], &other[2]] {
        assert_eq!(send(&api, update).await, StatusCode::OK);
    }
    for update in meant.iter().chain(&other) {
        assert_eq!(send(&api, update).await, StatusCode::OK);
    }
    api.await_calls("sendMessage", 1).await;
    assert_albums_are_whole(&platform, 4);
    let overheard = "SELECT count(*) FROM channel_events WHERE kind = 'overheard'";
    assert_eq!(platform.sql(overheard), "3");
    platform.assert_books_balance();
}

/// Until all that went out is known to have: what is not is sent again by the next node, and a change
/// of its row meanwhile is lost.
async fn until_delivered(platform: &Platform) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while platform.sql("SELECT count(*) FROM outbox WHERE state <> 'delivered'") != "0" {
        assert!(Instant::now() < deadline, "not everything was delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts parts in the place of the last reply to a chat, and lets it be sent again.
async fn say(platform: &Platform, chat: i64, parts: &Value) {
    until_delivered(platform).await;
    let parts = parts.to_string().replace('\'', "''");
    platform.sql(&format!(
        "WITH last AS (SELECT o.outbox_id FROM outbox o JOIN conversations c \
             USING (tenant_id, conversation_id) WHERE c.peer = '{chat}' ORDER BY o.out_seq DESC LIMIT 1), \
         gone AS (DELETE FROM delivery_pieces WHERE outbox_id IN (SELECT outbox_id FROM last)) \
         UPDATE outbox SET body = body || jsonb_build_object('parts', '{parts}'::jsonb), \
             state = 'queued', next_at = now(), delivered_at = NULL, lease_until = NULL \
         WHERE outbox_id IN (SELECT outbox_id FROM last)"
    ));
}

#[tokio::test]
async fn pictures_go_out_as_an_album_and_own_copies_with_their_bytes() {
    let api = BotApi::start().await;
    let (platform, _) = bot(&api, json!({})).await;
    assert_eq!(send(&api, &api.message(7, "hello")).await, StatusCode::OK);
    api.await_calls("sendMessage", 1).await;
    let own = |name: &str, mime: &str| {
        platform.sql(&format!(
            "INSERT INTO media (tenant_id, media_id, channel_id, mime, name, size, sha256, bytes) \
             SELECT tenant_id, gen_random_uuid(), channel_id, '{mime}', '{name}', 5, \
                 sha256('\\x00ff0d0a2d'), '\\x00ff0d0a2d' FROM channels WHERE kind = 'telegram'"
        ));
        let id = platform.sql(&format!("SELECT media_id FROM media WHERE name = '{name}'"));
        format!("upl_{}", id.replace('-', ""))
    };
    let (first, second) = (own("a.jpg", "image/jpeg"), own("b.pdf", "application/pdf"));
    let voice = own("c.ogg", "audio/ogg");
    let parts = json!([
        { "type": "image", "upload_id": first, "caption": "mine" },
        { "type": "image", "url": "https://a.example/2.jpg" },
        { "type": "video", "url": "https://a.example/3.mp4" },
        { "type": "text", "text": "and" },
        { "type": "file", "upload_id": second },
        { "type": "audio", "upload_id": voice, "voice": true },
        { "type": "image", "upload_id": "upl_00000000000000000000000000000001", "alt": "lost" },
    ]);
    say(&platform, 7, &parts).await;
    let album = &api.await_calls("sendMediaGroup", 1).await[0].body;
    let bytes = "\u{0}\u{ff}\r\n-";
    let media = json!([
        { "type": "photo", "media": "attach://file0", "caption": "mine" },
        { "type": "photo", "media": "https://a.example/2.jpg" },
        { "type": "video", "media": "https://a.example/3.mp4" },
    ]);
    assert_eq!((&album["chat_id"], &album["media"]), (&json!(7), &media));
    let shown = json!({ "file": "a.jpg", "type": "image/jpeg", "bytes": bytes });
    assert_eq!(album["file0"], shown);
    let document = &api.await_calls("sendDocument", 1).await[0].body;
    let shown = json!({ "file": "b.pdf", "type": "application/pdf", "bytes": bytes });
    assert_eq!((&document["chat_id"], &document["document"]), (&json!(7), &shown));
    assert_eq!(api.await_calls("sendVoice", 1).await[0].body["voice"]["file"], "c.ogg");
    let words = api.await_calls("sendMessage", 3).await;
    assert_eq!(words[2].body["text"], "[image: lost]");

    // One that Telegram cannot fetch does not cost the others.
    let parts = json!([
        { "type": "image", "upload_id": first },
        { "type": "image", "url": "https://a.example/gone.jpg" },
    ]);
    say(&platform, 7, &parts).await;
    let photos = api.await_calls("sendPhoto", 2).await;
    assert_eq!(photos[0].body["photo"]["bytes"], bytes);
    assert_eq!(photos[1].body["photo"], "https://a.example/gone.jpg");
    assert_eq!(api.calls("sendMediaGroup").len(), 1);
}

#[tokio::test]
async fn a_button_says_all_of_its_value_to_whom_it_was_sent_and_to_nobody_else() {
    let api = BotApi::start().await;
    let (mut platform, _) = bot(&api, json!({})).await;
    for chat in [7, 8] {
        assert_eq!(send(&api, &api.message(chat, "hello")).await, StatusCode::OK);
    }
    api.await_calls("sendMessage", 2).await;
    let long = "the whole story of order 17 ".repeat(20);
    let items = json!([
        { "id": "b1", "label": "Tell", "kind": "postback", "value": long },
        { "id": "b2", "label": "Short", "kind": "postback", "value": "short" },
    ]);
    let parts = json!([{ "type": "text", "text": "Choose" },
                       { "type": "buttons", "fallback_text": "1) Tell", "items": items }]);
    say(&platform, 7, &parts).await;
    let sent = api.await_calls("sendMessage", 3).await;
    let keyboard = &sent[2].body["reply_markup"];
    let data = keyboard["inline_keyboard"][0][0]["callback_data"].as_str().unwrap().to_owned();
    assert!(data.starts_with("r:"), "{data}");
    until_delivered(&platform).await;
    platform.kill_with_children().await;
    platform.restart().await;

    let press = |chat: i64, data: &str, language: &str| {
        let id = format!("q{chat}{language}");
        api.update(
            "callback_query",
            json!({ "id": id, "data": data, "chat_instance": "1",
                "from": { "id": chat, "first_name": "Ada", "language_code": language },
                "message": { "message_id": 1, "date": 1, "reply_markup": keyboard,
                             "chat": { "id": chat, "type": "private" } } }),
        )
    };
    let pressed = press(7, &data, "en");
    for _ in 0..3 {
        assert_eq!(send(&api, &pressed).await, StatusCode::OK);
    }
    let sent = api.await_calls("sendMessage", 4).await;
    assert!(sent[3].body["text"].as_str().unwrap().contains(long.trim()), "{:?}", sent[3]);
    let told = &api.await_calls("answerCallbackQuery", 1).await[0].body;
    assert_eq!(told, &json!({ "callback_query_id": "q7en" }));

    // In another chat, of another message, and of none.
    let unknown = "r:out_00000000000000000000000000000001.0011223344556677";
    let presses = [(8, &*data, "en"), (7, unknown, "zh-hans"), (8, "r:x", "zh-hant")];
    for (chat, data, language) in presses {
        assert_eq!(send(&api, &press(chat, data, language)).await, StatusCode::OK);
    }
    let told = api.await_calls("answerCallbackQuery", 4).await;
    let words = |id: &str| {
        let told = told.iter().find(|call| call.body["callback_query_id"] == id).unwrap();
        assert_eq!(told.body["show_alert"], true);
        told.body["text"].as_str().unwrap().to_owned()
    };
    assert!(words("q8en").contains("no longer valid"));
    assert!(words("q7zh-hans").contains("已失效") && words("q8zh-hant").contains("已失效"));
    assert_eq!(platform.sql("SELECT count(*) FROM channel_events WHERE kind = 'lapsed'"), "3");
    assert_eq!(
        platform.sql("SELECT count(*) FROM inbox WHERE body ->> 'text' LIKE '%story%'"),
        "1"
    );
    platform.assert_books_balance();
}

#[tokio::test]
async fn stars_top_the_wallet_up_once_and_leave_it_once() {
    let api = BotApi::start().await;
    let settings = json!({ "stars_value": 13_000, "stars_offers": ["50", "250"] });
    let (platform, _) = bot(&api, settings).await;
    let wallet = || platform.sql("SELECT posted FROM wallets").parse::<i64>().unwrap();
    let before = wallet();
    assert_eq!(send(&api, &api.message(7, "/topup")).await, StatusCode::OK);
    let menu = &api.await_calls("sendMessage", 1).await[0].body;
    assert!(menu["text"].as_str().unwrap().contains("/topup_250"), "{menu}");
    assert_eq!(send(&api, &api.message(7, "/topup_250@shop_bot")).await, StatusCode::OK);
    let invoice = api.await_calls("sendInvoice", 1).await[0].body.clone();
    assert_eq!(invoice["prices"], json!([{ "label": "Top-up", "amount": 250 }]));
    let payload = invoice["payload"].as_str().unwrap();

    // Who may pay, and how much.
    let asks = [
        (7, 250, payload.to_owned(), true),
        (8, 250, payload.to_owned(), false),
        (7, 50, payload.to_owned(), false),
        (8, 250, payload.replace(":7:", ":8:"), false),
        (7, 250, String::new(), false),
    ];
    for (at, (who, stars, payload, _)) in asks.iter().enumerate() {
        let query = json!({ "id": format!("p{at}"), "currency": "XTR", "total_amount": stars,
            "invoice_payload": payload, "from": { "id": who, "language_code": "en" } });
        assert_eq!(send(&api, &api.update("pre_checkout_query", query)).await, StatusCode::OK);
    }
    let told = api.await_calls("answerPreCheckoutQuery", asks.len()).await;
    for (at, (.., may)) in asks.iter().enumerate() {
        let id = json!(format!("p{at}"));
        let told = told.iter().find(|call| call.body["pre_checkout_query_id"] == id).unwrap();
        assert_eq!(told.body["ok"], *may, "{at}");
        assert_eq!(told.body["error_message"].is_string(), !may);
    }

    let money = |kind: &str, charge: &str| {
        let mut update = api.message(7, "");
        update["message"].as_object_mut().unwrap().remove("text");
        update["message"][kind] = json!({ "currency": "XTR", "total_amount": 250,
            "invoice_payload": payload, "telegram_payment_charge_id": charge });
        update
    };
    let several = async |updates: &[Value]| {
        let sends = updates.iter().cycle().take(updates.len() * 5).map(|update| send(&api, update));
        let statuses = futures_util::future::join_all(sends).await;
        assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    };
    // The same payment in one update five times, and in another one.
    several(&[money("successful_payment", "c1"), money("successful_payment", "c1")]).await;
    assert_eq!(wallet(), before + 250 * 13_000);
    several(&[money("refunded_payment", "c1"), money("refunded_payment", "c1")]).await;
    assert_eq!(wallet(), before);
    // Told in the wrong order.
    several(&[money("refunded_payment", "c2")]).await;
    several(&[money("successful_payment", "c2")]).await;
    assert_eq!(wallet(), before);
    platform.assert_books_balance();

    // What was spent meanwhile cannot be taken back.
    several(&[money("successful_payment", "c3")]).await;
    platform.sql("UPDATE wallets SET posted = held + 1000");
    several(&[money("refunded_payment", "c3")]).await;
    assert_eq!(platform.sql("SELECT posted - held FROM wallets"), "0");
    let borne = "SELECT sum(amount) FROM ledger_entries WHERE account = 'platform_absorbed'";
    assert_eq!(platform.sql(borne), (1000 - 250 * 13_000).to_string());
}
