//! The platform's own copies of files, on every channel that takes them: what is uploaded where, and how
//! an answer becomes the message that shows it.

use qudao_core::channel::{
    adapter::{ChannelAdapter, FailureReason, Outcome},
    config::ChannelConfig,
    plan::{FormContent, HttpPlan, OwnFile, Plan, Upload},
};
use qudao_domain::message::{Media, Message, Part};
use serde_json::{Value, json};

use crate::{
    fixture::{config, response, sent, sent_json},
    {discord::Discord, feishu::Feishu, matrix::Matrix, meta::Meta, slack::Slack},
};

fn picture() -> Message {
    let media = Media {
        upload_id: Some("upl_1".to_owned()),
        mime: Some("image/png".to_owned()),
        size: Some(9),
        name: Some("a b.png".to_owned()),
        caption: Some("Look".to_owned()),
        ..Media::default()
    };
    Message { parts: vec![Part::Image(media)], reply_to: None }
}

fn first(adapter: &dyn ChannelAdapter, config: &ChannelConfig, thread: &str) -> HttpPlan {
    sent(adapter, config, thread, &picture(), None).remove(0)
}

/// What follows on an answer.
fn next(
    adapter: &dyn ChannelAdapter,
    config: &ChannelConfig,
    plan: &HttpPlan,
    answer: &Value,
) -> HttpPlan {
    let outcome = adapter.classify(config, &Plan::Http(plan.clone()), &response(200, answer));
    let Outcome::Then(mut plans) = outcome else { panic!("{outcome:?}") };
    let Some(Plan::Http(plan)) = plans.pop().filter(|_| plans.is_empty()) else { panic!() };
    plan
}

/// A form's fields in order; of a file its name.
fn fields(plan: &HttpPlan) -> Vec<(String, String)> {
    let Some(Upload::Form(parts)) = &plan.upload else { panic!("no form") };
    let shown = |content: &FormContent| match content {
        FormContent::Text(text) | FormContent::Json(text) => text.clone(),
        FormContent::File(file) => file.name.clone(),
    };
    parts.iter().map(|part| (part.name.clone(), shown(&part.content))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn raw(plan: &HttpPlan) -> &OwnFile {
    let Some(Upload::Raw(file)) = &plan.upload else { panic!("no file") };
    file
}

#[test]
fn slack_is_asked_for_a_place_then_given_the_bytes_then_told_to_show_them() {
    let config = config(json!({}), &[("bot_token", &["xoxb-1"])]);
    let place = first(&Slack, &config, "C1/17.5");
    assert_eq!(place.url, "https://slack.com/api/files.getUploadURLExternal");
    assert_eq!(place.body, b"filename=a+b.png&length=9");
    let told = |address: &str| json!({ "ok": true, "upload_url": address, "file_id": "F1" });
    let bytes = next(&Slack, &config, &place, &told("https://files.slack.com/upload/v1/x"));
    assert_eq!(bytes.url, "https://files.slack.com/upload/v1/x");
    assert_eq!(raw(&bytes).upload_id, "upl_1");
    assert!(bytes.headers.iter().all(|(name, _)| name != "authorization"));
    let show = next(&Slack, &config, &bytes, &json!({}));
    assert!(show.url.ends_with("/files.completeUploadExternal"));
    assert_eq!(
        sent_json(&show),
        json!({ "files": [{ "id": "F1", "title": "a b.png" }], "channel_id": "C1",
                "thread_ts": "17.5", "initial_comment": "Look" })
    );
    let says = |plan: &HttpPlan, status, body: Value| {
        Slack.classify(&config, &Plan::Http(plan.clone()), &response(status, &body))
    };
    assert_eq!(says(&show, 200, json!({ "ok": true })), Outcome::Sent { external_id: None });
    assert!(matches!(says(&bytes, 500, json!({})), Outcome::Retry { .. }));
    let elsewhere = says(&place, 200, told("https://evil.example/x"));
    assert!(
        matches!(elsewhere, Outcome::Failed(failure) if failure.reason == FailureReason::ProviderError)
    );
    let words = next(&Slack, &config, &place, &json!({ "ok": false, "error": "missing_scope" }));
    assert_eq!(sent_json(&words)["text"], "[a b.png]\nLook");
    assert_eq!(sent_json(&words)["thread_ts"], "17.5");
}

#[test]
fn discord_takes_the_file_beside_the_message() {
    let config = config(json!({ "application_id": "900" }), &[("bot_token", &["b.o.t"])]);
    let plan = first(&Discord, &config, "55");
    let fields = fields(&plan);
    assert_eq!(
        (&*fields[0].0, &*fields[1].0, &*fields[1].1),
        ("payload_json", "files[0]", "a b.png")
    );
    let body: Value = serde_json::from_str(&fields[0].1).unwrap();
    assert_eq!(body["content"], "Look");
    assert_eq!(body["attachments"], json!([{ "id": 0, "filename": "a b.png" }]));
    assert!(plan.headers.iter().all(|(name, _)| name != "content-type"));
    let sent = json!({ "id": "77" });
    let outcome = Discord.classify(&config, &Plan::Http(plan), &response(200, &sent));
    assert_eq!(outcome, Outcome::Sent { external_id: Some("77".to_owned()) });
}

#[test]
fn whatsapp_keeps_the_file_and_shows_it_by_its_id() {
    let secrets: &[(&str, &[&str])] = &[("access_token", &["EAAG"])];
    let config = config(json!({ "phone_number_id": "1061" }), secrets);
    let upload = first(&Meta::Whatsapp, &config, "1061/4917");
    assert!(upload.url.ends_with("/1061/media"), "{}", upload.url);
    let expected = [("messaging_product", "whatsapp"), ("type", "image/png"), ("file", "a b.png")];
    assert_eq!(fields(&upload), pairs(&expected));
    let show = next(&Meta::Whatsapp, &config, &upload, &json!({ "id": "m1" }));
    assert_eq!(sent_json(&show)["image"], json!({ "id": "m1", "caption": "Look" }));
    let error = json!({ "error": { "code": 190, "message": "x" } });
    let outcome = Meta::Whatsapp.classify(&config, &Plan::Http(upload), &response(401, &error));
    assert!(matches!(outcome, Outcome::Failed(failure) if failure.reason == FailureReason::Auth));
}

#[test]
fn feishu_gives_a_key_that_the_message_names() {
    let config = config(json!({ "app_id": "cli_a1" }), &[("app_secret", &["s"])]);
    let upload = first(&Feishu, &config, "oc_1");
    assert!(upload.url.ends_with("/open-apis/im/v1/images"), "{}", upload.url);
    assert_eq!(fields(&upload), pairs(&[("image_type", "message"), ("image", "a b.png")]));
    let answer = json!({ "code": 0, "data": { "image_key": "img_1" } });
    let show = next(&Feishu, &config, &upload, &answer);
    let body = sent_json(&show);
    assert_eq!(
        (&body["msg_type"], &body["content"]),
        (&json!("image"), &json!("{\"image_key\":\"img_1\"}"))
    );
    // Words beside a picture come after it.
    assert_eq!(sent(&Feishu, &config, "oc_1", &picture(), None).len(), 2);
}

#[test]
fn matrix_gives_an_address_that_the_event_names() {
    let settings = json!({ "homeserver_url": "https://hs.example/", "user_id": "@ai:hs.example" });
    let config = config(settings, &[("as_token", &["as-token-long-and-random"])]);
    let upload = first(&Matrix, &config, "!room:hs.example");
    let base = "https://hs.example/_matrix/media/v3/upload?user_id=%40ai%3Ahs.example";
    assert_eq!(upload.url, format!("{base}&filename=a%20b.png"));
    assert_eq!(raw(&upload).mime, "image/png");
    let answer = json!({ "content_uri": "mxc://hs.example/1" });
    let show = next(&Matrix, &config, &upload, &answer);
    let body = sent_json(&show);
    assert_eq!((&body["msgtype"], &body["url"]), (&json!("m.image"), &json!("mxc://hs.example/1")));
    assert_eq!((&body["body"], &body["filename"]), (&json!("Look"), &json!("a b.png")));
}

/// Only what the platform has a copy of is uploaded: an address is a link where it was one.
#[test]
fn a_file_without_a_copy_is_a_link_as_before() {
    let config = config(json!({}), &[("bot_token", &["xoxb-1"]), ("as_token", &["a"])]);
    let media = Media { url: Some("https://a.example/x.pdf".to_owned()), ..Media::default() };
    let message = Message { parts: vec![Part::File(media)], reply_to: None };
    let adapters: [(&dyn ChannelAdapter, &str); 3] =
        [(&Slack, "C1"), (&Discord, "55"), (&Matrix, "!room:hs.example")];
    for (adapter, thread) in adapters {
        let plans = sent(adapter, &config, thread, &message, None);
        assert_eq!(plans.len(), 1);
        assert!(plans[0].upload.is_none());
        assert!(sent_json(&plans[0]).to_string().contains("https://a.example/x.pdf"));
    }
}
