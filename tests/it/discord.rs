//! A bot of Discord over its gateway, against one that fails on demand. The tests have more than one
//! thread, since the gateway has to answer heartbeats while they wait for `psql`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    discord_api::{DiscordApi, OWN, PUBLIC_KEY, TOKEN},
    platform::{Platform, Wanted},
};

async fn platform(discord: &DiscordApi) -> Platform {
    Platform::start_with(Wanted { settings: discord.egress(), ..Wanted::default() }).await
}

/// The address of a new channel of the demo tenant, connected.
async fn bot(platform: &Platform, discord: &DiscordApi, more: Value) -> String {
    let mut settings = json!({ "application_id": "900", "public_key": PUBLIC_KEY,
        "api_url": discord.url() });
    for (name, value) in more.as_object().into_iter().flatten() {
        settings[name] = value.clone();
    }
    let base = format!("/v1/tenants/{}/channels", platform.text("tenant_id"));
    let body = json!({
        "name": "Bot", "kind": "discord", "assistant_id": platform.text("assistant_id"),
        "settings": settings, "secrets": { "bot_token": TOKEN },
    });
    let (status, made) = platform.operator(Method::POST, &base, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let path = format!("{base}/{}", made["id"].as_str().unwrap());
    connect(platform, &path).await;
    path
}

async fn connect(platform: &Platform, path: &str) {
    let (status, said) = platform.operator(Method::POST, &format!("{path}/connect"), None).await;
    assert_eq!((status, &said["account"]), (StatusCode::OK, &json!("shop")), "{said}");
}

/// Waits until a field of the channel is what is wanted.
async fn await_field(platform: &Platform, path: &str, field: &str, is: impl Fn(&Value) -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let (_, channel) = platform.operator(Method::GET, path, None).await;
        if is(&channel[field]) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{channel}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_write_to_a_bot_without_a_command_and_whoever_does_not_mean_it_is_let_be() {
    let discord = DiscordApi::start().await;
    let platform = platform(&discord).await;
    bot(&platform, &discord, json!({})).await;
    discord.await_counts(1, 0).await;
    let to_own = json!([{ "id": OWN, "username": "shop" }]);
    discord.write(1, "55", "direct", &json!({}));
    discord.write(2, "55", "own", &json!({ "author": { "id": OWN, "bot": true } }));
    discord.write(3, "55", "a bot's", &json!({ "author": { "id": "8", "bot": true } }));
    discord.write(4, "66", "among people", &json!({ "guild_id": "44" }));
    let called = json!({ "guild_id": "44", "mentions": to_own });
    discord.write(5, "66", &format!("<@{OWN}> in a server"), &called);
    discord.await_said("55", &["direct"]).await;
    discord.await_said("66", &["in a server"]).await;
    let kinds = "SELECT string_agg(kind, ' ' ORDER BY event_id) FROM channel_events";
    assert_eq!(platform.sql(kinds), "unknown:echo unknown:message_of_a_bot overheard");
    assert_eq!(platform.charged_turns().await.len(), 2);
    platform.assert_books_balance();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_breaks_in_every_way_loses_nothing_and_repeats_nothing() {
    let discord = DiscordApi::start().await;
    let mut platform = platform(&discord).await;
    bot(&platform, &discord, json!({})).await;
    discord.await_counts(1, 0).await;
    discord.write(1, "55", "one", &json!({}));
    discord.await_said("55", &["one"]).await;

    // Discord asks for another socket, and somebody writes meanwhile.
    let resumed = discord.counts().1;
    discord.say(json!({ "op": 7, "d": null }));
    discord.write(2, "56", "two", &json!({}));
    discord.await_counts(1, resumed + 1).await;
    discord.await_said("56", &["two"]).await;
    // It closes without a reason that would keep anybody out.
    let resumed = discord.counts().1;
    discord.close(4000);
    discord.write(3, "57", "three", &json!({}));
    discord.await_counts(1, resumed + 1).await;
    discord.await_said("57", &["three"]).await;
    // It does not answer heartbeats any more.
    let resumed = discord.counts().1;
    discord.set_deaf(true);
    discord.await_counts(1, resumed + 1).await;
    discord.set_deaf(false);
    discord.write(4, "58", "four", &json!({}));
    discord.await_said("58", &["four"]).await;

    // The node dies, and people write before another is there.
    platform.kill_with_children().await;
    let resumed = discord.counts().1;
    for (at, channel) in ["59", "60", "59"].into_iter().enumerate() {
        discord.write(5 + at as u64, channel, &format!("while dead {at}"), &json!({}));
    }
    platform.restart().await;
    discord.await_counts(1, resumed + 1).await;
    discord.await_said("60", &["while dead 1"]).await;
    let of_59 = || discord.said_in("59").join("\n");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !(of_59().contains("while dead 2")) {
        assert!(std::time::Instant::now() < deadline, "{}", of_59());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let said = "SELECT string_agg(body ->> 'text', ' ' ORDER BY seq) FROM inbox i \
                JOIN conversations c USING (tenant_id, conversation_id) WHERE c.peer = '59'";
    assert_eq!(platform.sql(said), "while dead 0 while dead 2");

    // A session that Discord does not know any more: another one is begun.
    discord.forget_sessions();
    discord.close(4000);
    discord.await_counts(2, 0).await;
    discord.write(9, "61", "anew", &json!({}));
    discord.await_said("61", &["anew"]).await;
    for channel in ["55", "56", "57", "58", "60", "61"] {
        assert_eq!(discord.said_in(channel).len(), 1, "{channel}");
    }
    platform.assert_books_balance();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_administers_a_bot_that_discord_refuses_is_told_why() {
    let discord = DiscordApi::start().await;
    let platform = platform(&discord).await;
    let path = bot(&platform, &discord, json!({ "read_all": true })).await;
    let says = |words: &'static str| {
        move |fault: &Value| fault.as_str().is_some_and(|fault| fault.contains(words))
    };
    await_field(&platform, &path, "fault", says("Message Content Intent")).await;
    let tried = discord.counts().0;
    // Their change of the settings is seen, and this one is not enough.
    discord.refuse(Some(4004));
    let change = json!({ "settings": { "application_id": "900", "public_key": PUBLIC_KEY,
        "api_url": discord.url() } });
    let (status, changed) = platform.operator(Method::PATCH, &path, Some(change)).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    await_field(&platform, &path, "fault", says("bot token")).await;
    assert_eq!(discord.counts().0, tried + 1, "nothing is tried while nothing has changed");
    // They reset the token at Discord, and connect again.
    discord.refuse(None);
    connect(&platform, &path).await;
    discord.await_counts(tried + 2, 0).await;
    await_field(&platform, &path, "fault", Value::is_null).await;
    await_field(&platform, &path, "account", |account| account == "shop").await;
    discord.write(1, "55", "are you there", &json!({}));
    discord.await_said("55", &["are you there"]).await;
}
