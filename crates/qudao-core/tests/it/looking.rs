//! Pictures in a conversation: what the assistant's vision model finds is told to the one that answers.

use std::{sync::Arc, time::Duration};

use qudao_core::TurnOutcome;
use qudao_domain::{
    MediaId, Micros,
    message::{Media, Part},
    text::ExternalId,
};
use qudao_plugin_api::wire::Content;
use qudao_storage::{Inbound, MessageBody, NewMedia};
use qudao_testkit::Eye;
use serde_json::{Value, json};

use crate::stage::{PER_CALL, Script, Stage, done, tenant, units};

async fn open_eye(stage: &Stage, sees: &[(&str, f32)]) {
    Eye::register(&stage.core.plugins, "eye", sees).await;
}

/// Says what it was told.
fn parrot() -> Arc<Script> {
    Script::new(|request, sink| {
        sink.token(
            &request
                .messages
                .last()
                .and_then(|m| m.content.as_ref())
                .map(Content::to_text)
                .unwrap_or_default(),
        )?;
        Ok(done(1))
    })
}

/// An assistant with an eye, both of its models at one unit a call.
async fn stage(locale: &'static str, vision_model: Option<&str>, chat: &Arc<Script>) -> Stage {
    let params = vision_model.map_or_else(|| json!({}), |model| json!({ "vision_model": model }));
    stage_with(locale, params, chat).await
}

/// An assistant that shows in its replies what its eye drew.
async fn drawing_stage(locale: &'static str, chat: &Arc<Script>) -> Stage {
    let params = json!({ "vision_model": "eye", "vision_annotate": true });
    stage_with(locale, params, chat).await
}

async fn stage_with(locale: &'static str, params: Value, chat: &Arc<Script>) -> Stage {
    let tenant = tenant().models(&["fake", "eye"]).rates(PER_CALL).params(params).locale(locale);
    Stage::new(tenant, &[("fake", chat)]).await
}

/// A message with a picture, whose bytes are kept or come later.
async fn show(stage: &Stage, id: &str) -> (MediaId, qudao_core::Accepted) {
    let media = MediaId::new();
    let picture = Media {
        upload_id: Some(media.to_string()),
        name: Some("a.png".to_owned()),
        ..Media::default()
    };
    let words = Part::Text { format: Default::default(), text: "What is this?".to_owned() };
    let parts = vec![words, Part::Image(picture)];
    let text = "What is this?\n\n[image: a.png]".to_owned();
    let inbound = Inbound {
        channel_id: stage.tenant.channel_id,
        external_id: ExternalId::parse(id).unwrap(),
        peer: ExternalId::parse("visitor").unwrap(),
        body: MessageBody { parts, ..MessageBody::text(text) },
    };
    (media, stage.core.accept(stage.tenant.id, inbound).await.unwrap())
}

async fn keep(stage: &Stage, id: MediaId, accepted: &qudao_core::Accepted) {
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    tx.keep_media(NewMedia {
        id,
        channel_id: stage.tenant.channel_id,
        conversation_id: Some(accepted.conversation_id),
        mime: "image/png",
        name: None,
        sha256: &[7; 32],
        bytes: b"a picture",
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

async fn show_and_keep(stage: &Stage, id: &str) {
    let (media, accepted) = show(stage, id).await;
    keep(stage, media, &accepted).await;
}

/// What was booked, by model.
fn booked(stage: &Stage) -> String {
    stage.sql("SELECT string_agg(model || ' ' || charge, ', ' ORDER BY model) FROM usage_events")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_picture_shows_is_told_charged_and_written_down() {
    let chat = parrot();
    let stage = stage("en", Some("eye"), &chat).await;
    open_eye(&stage, &[("person", 0.93), ("cup", 0.9), ("person", 0.88)]).await;
    show_and_keep(&stage, "1").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let told = "What is this?\n\n[image: The picture shows: 2 persons (93 %, 88 %), 1 cup (90 %).]";
    assert_eq!(stage.texts().await, [told, told]);
    assert_eq!(booked(&stage), "eye 1000000, fake 1000000");
    assert_eq!(stage.wallet().await.0, units(98));
    assert_eq!(
        stage.sql("SELECT body #>> '{parts,1,alt}' FROM inbox"),
        "The picture shows: 2 persons (93 %, 88 %), 1 cup (90 %)."
    );
    stage.assert_sound().await;
}

/// What was drawn, as the outbox names it and as it is kept: `words mime conversation`.
fn drawn(stage: &Stage) -> String {
    stage.sql(
        "SELECT convert_from(substr(bytes, 4), 'UTF8') || ' ' || mime || ' ' || \
             (SELECT count(*) FROM outbox, jsonb_array_elements(body -> 'parts') AS part \
              WHERE part ->> 'upload_id' = 'upl_' || replace(media_id::text, '-', '')) \
         FROM media WHERE name = 'found.jpg'",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_shows_the_picture_with_what_was_found_in_it() {
    let chat = parrot();
    let stage = drawing_stage("en", &chat).await;
    open_eye(&stage, &[("cat", 0.62), ("cup", 0.5)]).await;
    show_and_keep(&stage, "1").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let reply = stage.timeline().await.pop().unwrap();
    let [Part::Text { text, .. }, Part::Image(picture)] = &reply.parts[..] else {
        panic!("{:?}", reply.parts)
    };
    assert_eq!(*text, reply.text);
    let found = "The picture shows: 1 cat (62 %), 1 cup (50 %).";
    assert_eq!(picture.alt.as_deref(), Some(found));
    assert_eq!((picture.mime.as_deref(), picture.size), (Some("image/jpeg"), Some(10)));
    let id: MediaId = picture.upload_id.as_deref().unwrap().parse().unwrap();
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    let kept = tx.channel_media(stage.tenant.channel_id, id).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(kept.bytes, b"\xff\xd8\xffcat,cup");
    assert_eq!(booked(&stage), "eye 1000000, fake 1000000");
    // An erasure finds it: it belongs to the conversation, and no other tenant has it.
    assert_eq!(stage.sql("SELECT count(*) FROM media WHERE conversation_id IS NULL"), "0");
    let rival = tenant().create(&stage.store).await;
    let mut tx = stage.store.begin(rival.id).await.unwrap();
    assert_eq!(tx.channel_media(stage.tenant.channel_id, id).await.unwrap(), None);
    tx.commit().await.unwrap();
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn things_are_drawn_with_their_names_in_the_conversations_language() {
    let chat = parrot();
    let stage = drawing_stage("zh-CN", &chat).await;
    open_eye(&stage, &[("cat", 0.62), ("defect", 0.5)]).await;
    show_and_keep(&stage, "1").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(drawn(&stage), "猫,defect image/jpeg 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_begins_anew_shows_what_was_drawn_before_once() {
    let fails = Script::fails();
    let stage = drawing_stage("en", &fails).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    show_and_keep(&stage, "1").await;
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    assert_eq!(drawn(&stage), "cat image/jpeg 0");
    // As if the node had died after the look was paid and before anything of it was kept.
    stage.sql("UPDATE inbox SET body = body #- '{parts,1,alt}'; DELETE FROM media WHERE name = 'found.jpg'");
    stage.skip_backoff();
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    // The eye is gone: what the second attempt kept is what the third one shows.
    let other = stage.another_node(&[("fake", &parrot())]).await;
    stage.skip_backoff();
    assert_eq!(other.run_turn(stage.claim().await).await, TurnOutcome::Answered);
    assert_eq!(drawn(&stage), "cat image/jpeg 1");
    assert_eq!(booked(&stage), "eye 1000000, fake 1000000");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_drawn_where_nobody_asked_for_it_or_nothing_could_be_seen() {
    for (params, sees) in [
        (json!({ "vision_model": "eye" }), &[("cat", 0.6)][..]),
        (json!({ "vision_model": "eye", "vision_annotate": false }), &[("cat", 0.6)][..]),
        (json!({ "vision_annotate": true }), &[("cat", 0.6)][..]),
        (json!({ "vision_model": "eye", "vision_annotate": true }), &[][..]),
    ] {
        let chat = parrot();
        let stage = stage_with("en", params, &chat).await;
        open_eye(&stage, sees).await;
        show_and_keep(&stage, "1").await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
        assert_eq!(stage.timeline().await.pop().unwrap().parts, []);
        assert_eq!(stage.sql("SELECT count(*) FROM media"), "1", "what the person sent, alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_in_the_conversations_language() {
    let chat = parrot();
    let stage = stage("zh", Some("eye"), &chat).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    show_and_keep(&stage, "1").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert!(stage.texts().await[1].ends_with("[image: 图中有：1 个猫（62%）。]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_begins_anew_does_not_look_again() {
    let chat = Script::fails();
    let stage = stage("en", Some("eye"), &chat).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    show_and_keep(&stage, "1").await;
    for _ in 0..2 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        stage.skip_backoff();
    }
    assert_eq!(stage.answer().await, TurnOutcome::Buried);
    assert_eq!(booked(&stage), "eye 1000000");
    assert_eq!(stage.wallet().await.0, units(99));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_was_paid_and_not_written_down_is_not_paid_again() {
    let chat = Script::fails();
    let stage = stage("en", Some("eye"), &chat).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    show_and_keep(&stage, "1").await;
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    // As if the node had died between the two.
    stage.sql("UPDATE inbox SET body = body #- '{parts,1,alt}'");
    stage.skip_backoff();
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    assert_eq!(
        stage.sql("SELECT body #>> '{parts,1,alt}' FROM inbox"),
        "The picture shows: 1 cat (62 %)."
    );
    assert_eq!(booked(&stage), "eye 1000000");
    assert_eq!(stage.wallet().await.0, units(99));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_is_absent_or_is_none_of_the_tenants_does_not_stop_the_turn() {
    for (model, open) in
        [("eye", Some(&[][..])), ("eye", None), ("other", Some(&[("cat", 0.6)][..]))]
    {
        let chat = parrot();
        let stage = stage("en", Some(model), &chat).await;
        if let Some(objects) = open {
            open_eye(&stage, objects).await;
        }
        show_and_keep(&stage, "1").await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
        let told = &stage.texts().await[1];
        assert_eq!(told, "What is this?\n\n[image: a picture that could not be looked at]");
        assert_eq!(booked(&stage), "fake 1000000");
        assert_eq!(stage.sql("SELECT body #>> '{parts,1,alt}' IS NULL FROM inbox"), "t");
        stage.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_whose_bytes_come_after_its_message_is_waited_for() {
    let chat = parrot();
    let stage = stage("en", Some("eye"), &chat).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    let (media, accepted) = show(&stage, "1").await;
    let claim = stage.claim().await;
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        keep(&stage, media, &accepted).await;
    };
    let (outcome, ()) = tokio::join!(stage.core.run_turn(claim), later);
    assert_eq!(outcome, TurnOutcome::Answered);
    assert!(stage.texts().await[1].contains("1 cat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assistant_without_an_eye_reads_the_message_as_it_came() {
    let chat = parrot();
    let stage = stage("en", None, &chat).await;
    open_eye(&stage, &[("cat", 0.62)]).await;
    show_and_keep(&stage, "1").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "What is this?\n\n[image: a.png]");
    assert_eq!(stage.wallet().await, (units(99), Micros::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_keeps_words_here_shows_no_picture_to_a_remote_model() {
    let chat = parrot();
    let routing = json!({ "rules": [{
        "name": "private",
        "when": [{ "signal": "personal_data", "any_of": ["card"] }],
        "targets": [{ "model": "fake" }], "local_only": true,
    }] });
    let tenant = tenant().models(&["fake", "eye"]).rates(PER_CALL).routing(routing);
    let tenant = tenant.params(json!({ "vision_model": "eye" })).locale("en");
    let stage = Stage::new(tenant, &[("fake", &chat)]).await;
    Eye::register_remote(&stage.core.plugins, "eye", &[("card", 0.9)]).await;
    let (picture, accepted) = show(&stage, "1").await;
    keep(&stage, picture, &accepted).await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let told = stage.texts().await[1].clone();
    assert!(told.contains("could not be looked at"), "{told}");
    let booked = stage.sql("SELECT string_agg(model, ' ') FROM usage_events");
    assert_eq!(booked, "fake", "nobody but the one that answers was asked");
}
