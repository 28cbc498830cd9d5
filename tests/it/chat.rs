//! What a person on the web and a program on the API see.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{platform::Platform, visitor::Visitor};

#[tokio::test]
async fn a_message_is_answered_once_and_charged_once() {
    let platform = Platform::start().await;
    let wallet = format!("/v1/tenants/{}/wallet", platform.text("tenant_id"));
    let (_, before) = platform.tenant(Method::GET, &wallet, None).await;

    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", "one two three").await;
    let accepted = visitor.read_until("accepted").await;
    assert_eq!((&accepted["id"], &accepted["duplicate"]), (&json!("m1"), &json!(false)));
    let reply = visitor.reply().await;
    assert_eq!(reply["text"], "one two three");

    // The same message again, as a browser that never saw the answer would send it.
    visitor.say("m1", "one two three").await;
    assert_eq!(visitor.read_until("accepted").await["duplicate"], true);

    let (_, after) = platform.tenant(Method::GET, &wallet, None).await;
    assert_ne!(before["posted"], after["posted"], "{before} {after}");
    assert_eq!(platform.charged_turns().await.len(), 1);
    platform.assert_books_balance();
}

#[tokio::test]
async fn chinese_and_emoji_come_back_as_they_were_sent() {
    let platform = Platform::start().await;
    let mut visitor = Visitor::arrive(&platform).await;
    let text = "你好，我的快递还没到 👩🏽‍🚀 应该怎么办？";
    visitor.say("m1", text).await;
    assert_eq!(visitor.reply().await["text"], text);
}

#[tokio::test]
async fn who_comes_back_sees_what_was_said_and_nothing_twice() {
    let platform = Platform::start().await;
    let mut visitor = Visitor::arrive(&platform).await;
    for (id, text) in [("a", "first"), ("b", "second")] {
        visitor.say(id, text).await;
        assert_eq!(visitor.reply().await["text"], text);
    }
    visitor.say("c", "third").await;
    visitor.read_until("accepted").await;

    // Gone before the answer; the cursor is what was seen.
    let mut visitor = visitor.reconnect(None).await;
    let mut seen = Vec::new();
    while !seen.contains(&"assistant:third".to_owned()) {
        let message = visitor.read_until("message").await;
        seen.push(format!(
            "{}:{}",
            message["role"].as_str().unwrap(),
            message["text"].as_str().unwrap()
        ));
    }
    let mut unique = seen.clone();
    unique.dedup();
    assert_eq!(seen, unique);
    assert!(!seen.iter().any(|line| line.contains("first")), "{seen:?}");

    // All of it for a browser that lost its memory but for the token.
    visitor.cursor = String::new();
    let mut visitor = visitor.reconnect(None).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        let message = visitor.read_until("message").await;
        all.push(message["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(all, ["first", "first", "second", "second", "third", "third"]);
    platform.assert_books_balance();
}

#[tokio::test]
async fn an_empty_wallet_is_refused_before_any_model_is_called() {
    let platform = Platform::start().await;
    let (_, tenant) = platform
        .operator(
            Method::POST,
            "/v1/tenants",
            Some(json!({ "name": "Poor", "currency": "CNY", "locale": "en" })),
        )
        .await;
    let tenant = tenant["id"].as_str().unwrap();
    let (status, _) = platform
        .operator(
            Method::POST,
            &format!("/v1/tenants/{tenant}/routes"),
            Some(json!({ "name": "default", "models": ["echo"] })),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, key) = platform
        .operator(
            Method::POST,
            &format!("/v1/tenants/{tenant}/api-keys"),
            Some(json!({ "name": "k", "scopes": ["chat"] })),
        )
        .await;
    let key = key["key"].as_str().unwrap();
    let body = json!({ "model": "echo", "messages": [{ "role": "user", "content": "hi" }] });
    let (status, answer) =
        platform.send(Method::POST, "/v1/chat/completions", key, &[], Some(body.clone())).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::PAYMENT_REQUIRED, &json!("insufficient_quota"))
    );

    let credits = format!("/v1/tenants/{tenant}/credits");
    let operator = platform.text("operator_key");
    let amount = json!({ "amount": "1.00", "note": "first" });
    let once = [("Idempotency-Key", "top-up-1")];
    let (status, _) =
        platform.send(Method::POST, &credits, operator, &once, Some(amount.clone())).await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, _) = platform.send(Method::POST, &credits, operator, &once, Some(amount)).await;
    let (_, wallet) =
        platform.operator(Method::GET, &format!("/v1/tenants/{tenant}/wallet"), None).await;
    assert_eq!(wallet["posted"]["amount"], "1");

    let (status, answer) =
        platform.send(Method::POST, "/v1/chat/completions", key, &[], Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], "hi");
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_stream_of_the_api_ends_with_done_after_the_charge() {
    let platform = Platform::start().await;
    // Until the greeting of the start was charged too.
    while platform.usage().await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let response = platform.stream_completion("echo", "a b c").await;
    let text = response.text().await.unwrap();
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    // The charge was committed before [DONE] came: it shows at once.
    assert_eq!(platform.usage().await.len(), 2);
}
