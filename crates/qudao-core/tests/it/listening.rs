//! Sounds in a conversation: what the assistant's speech model hears is told to the one that answers.

use std::{sync::Arc, time::Duration};

use qudao_core::{PreviewEvent, TurnOutcome};
use qudao_domain::{
    ConversationId, MediaId, Micros,
    message::{Media, Part},
    text::ExternalId,
};
use qudao_plugin_api::wire::Content;
use qudao_storage::{BusEvent, Inbound, MessageBody, NewMedia, Topic};
use qudao_testkit::{Ear, TenantBuilder, TestRedis};
use serde_json::json;

use crate::stage::{PER_CALL, Script, Stage, done, tenant, units};

/// Says what it was told.
fn parrot() -> Arc<Script> {
    Script::new(|request, sink| {
        let last = request.messages.last().and_then(|message| message.content.as_ref());
        sink.token(&last.map(Content::to_text).unwrap_or_default())?;
        Ok(done(1))
    })
}

/// An assistant with an ear, both of its models at one unit a call.
fn assistant(locale: &'static str, speech_model: Option<&str>) -> TenantBuilder {
    let params = speech_model.map_or_else(|| json!({}), |model| json!({ "speech_model": model }));
    tenant().models(&["fake", "ear"]).rates(PER_CALL).params(params).locale(locale)
}

async fn stage(locale: &'static str, speech_model: Option<&str>, chat: &Arc<Script>) -> Stage {
    Stage::new(assistant(locale, speech_model), &[("fake", chat)]).await
}

/// A message of nothing but a sound, whose bytes are here.
async fn speak(stage: &Stage, voice: bool) -> ConversationId {
    let media = MediaId::new();
    let sound =
        Part::Audio(Media { upload_id: Some(media.to_string()), voice, ..Media::default() });
    let text = sound.to_text();
    let inbound = Inbound {
        channel_id: stage.tenant.channel_id,
        external_id: ExternalId::parse("1").unwrap(),
        peer: ExternalId::parse("visitor").unwrap(),
        body: MessageBody { parts: vec![sound], ..MessageBody::text(text) },
    };
    let accepted = stage.core.accept(stage.tenant.id, inbound).await.unwrap();
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    tx.keep_media(NewMedia {
        id: media,
        channel_id: stage.tenant.channel_id,
        conversation_id: Some(accepted.conversation_id),
        mime: "audio/ogg",
        name: None,
        sha256: &[7; 32],
        bytes: b"a sound",
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
    accepted.conversation_id
}

/// What was booked, by model.
fn booked(stage: &Stage) -> String {
    stage.sql(
        "SELECT string_agg(concat_ws(' ', model, charge, input_tokens), ', ' ORDER BY model) \
         FROM usage_events",
    )
}

fn kept(stage: &Stage) -> String {
    stage.sql("SELECT body #>> '{parts,0,alt}' FROM inbox")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_becomes_the_turns_text_is_charged_and_written_down() {
    let chat = parrot();
    let stage = stage("en", Some("ear"), &chat).await;
    let said = ["Hello.", "Where is my parcel?"];
    Ear::register(&stage.core.plugins, "ear", Some(&said)).await;
    speak(&stage, true).await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let told = "Hello. Where is my parcel?";
    assert_eq!(stage.texts().await, [told, told]);
    assert_eq!(booked(&stage), "ear 1000000 2, fake 1000000 10");
    assert_eq!(stage.wallet().await.0, units(98));
    assert_eq!(kept(&stage), told);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_reads_what_is_said_before_it_is_answered() {
    let redis = TestRedis::new().await;
    let chat = parrot();
    let stage = Stage::on_bus(assistant("en", Some("ear")), &[("fake", &chat)], redis.url()).await;
    Ear::register(&stage.core.plugins, "ear", Some(&["Hello."])).await;
    let conversation = speak(&stage, true).await;
    let mut preview = stage.core.bus.subscribe(&Topic::Preview(conversation));
    assert_eq!(preview.next().await, BusEvent::Ready);
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let told = async {
        loop {
            let BusEvent::Message(bytes) = preview.next().await else { continue };
            match serde_json::from_slice(&bytes).unwrap() {
                PreviewEvent::Heard { seq, place, words } => break (seq, place, words),
                PreviewEvent::Delta { .. } => panic!("answered before it was told"),
                _ => {}
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    assert_eq!(told, (1, 0, "Hello.".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_keeps_words_here_lets_no_remote_model_hear_them() {
    let chat = parrot();
    let routing = json!({ "rules": [{
        "name": "private",
        "when": [{ "signal": "personal_data", "any_of": ["card"] }],
        "targets": [{ "model": "fake" }], "local_only": true,
    }] });
    let tenant = assistant("en", Some("ear")).routing(routing);
    let stage = Stage::new(tenant, &[("fake", &chat)]).await;
    Ear::register_remote(&stage.core.plugins, "ear", Some(&["My card is 4111."])).await;
    speak(&stage, true).await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "[a voice message that could not be listened to]");
    assert_eq!(booked(&stage), "fake 1000000 10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_that_is_no_voice_message_is_told_as_what_it_is() {
    let chat = parrot();
    let stage = stage("en", Some("ear"), &chat).await;
    Ear::register(&stage.core.plugins, "ear", Some(&["La la la."])).await;
    speak(&stage, false).await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "[audio: La la la.]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_begins_anew_does_not_listen_again() {
    let chat = Script::fails();
    let stage = stage("en", Some("ear"), &chat).await;
    Ear::register(&stage.core.plugins, "ear", Some(&["Hello."])).await;
    speak(&stage, true).await;
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    assert_eq!(kept(&stage), "Hello.");
    // As if the node had died between the call and the note of it.
    stage.sql("UPDATE inbox SET body = body #- '{parts,0,alt}'");
    stage.skip_backoff();
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    assert_eq!(kept(&stage), "Hello.");
    stage.skip_backoff();
    assert_eq!(stage.answer().await, TurnOutcome::Buried);
    assert_eq!(booked(&stage), "ear 1000000 1");
    assert_eq!(stage.wallet().await.0, units(99));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_told_as_silence() {
    for (locale, told) in [
        ("en", "[a voice message in which nobody speaks]"),
        ("zh-CN", "[一条语音消息，其中没有人说话]"),
    ] {
        let chat = parrot();
        let stage = stage(locale, Some("ear"), &chat).await;
        Ear::register(&stage.core.plugins, "ear", Some(&[])).await;
        speak(&stage, true).await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
        assert_eq!(stage.texts().await[1], told);
        // It was listened to all the same.
        assert_eq!(booked(&stage), "ear 1000000 1, fake 1000000 10");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assistant_without_an_ear_knows_that_it_cannot_listen() {
    for (locale, told) in [
        ("en", "[a voice message that you cannot listen to; say so, and ask for it in writing]"),
        ("zh", "[一条语音消息，你无法收听；请如实告知，并请对方用文字再发一次]"),
    ] {
        let chat = parrot();
        let stage = stage(locale, None, &chat).await;
        Ear::register(&stage.core.plugins, "ear", Some(&["Hello."])).await;
        speak(&stage, true).await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
        assert_eq!(stage.texts().await[1], told);
        assert_eq!(stage.sql("SELECT body #>> '{parts,0,alt}' IS NULL FROM inbox"), "t");
        assert_eq!(stage.wallet().await, (units(99), Micros::ZERO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_or_is_absent_does_not_stop_the_turn() {
    for (model, hears) in [("ear", Some(None)), ("ear", None), ("other", Some(Some(&["Hi."][..])))]
    {
        let chat = parrot();
        let stage = stage("en", Some(model), &chat).await;
        if let Some(hears) = hears {
            Ear::register(&stage.core.plugins, "ear", hears).await;
        }
        speak(&stage, true).await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
        assert_eq!(stage.texts().await[1], "[a voice message that could not be listened to]");
        assert_eq!(booked(&stage), "fake 1000000 10");
        stage.assert_sound().await;
    }
}
