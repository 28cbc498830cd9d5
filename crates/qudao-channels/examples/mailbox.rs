//! A mailbox's channel by itself: fetches over IMAP, reads, answers over SMTP, so that a mail server
//! and a person in another language can be put on the other side. One JSON object a line in, one a
//! line out; see `tests/peers/mail`.
//!
//! ```json
//! {"op": "fetch", "settings": {}, "secrets": {}, "cursor": null}
//! {"op": "answer", "settings": {}, "secrets": {}, "event": 0, "text": "**Hi**"}
//! {"op": "probe", "settings": {}, "secrets": {}}
//! ```
//!
//! `event` counts the messages that were fetched so far. Servers on this machine may be dialled.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, Write as _},
};

use anyhow::{Context as _, Result, bail};
use qudao_channels::email::{Dialer, Email, imap::MailPoller, smtp};
use qudao_core::channel::{
    adapter::{Answered, ChannelAdapter as _, Outgoing},
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::Plan,
};
use qudao_domain::{
    ChannelId, Clock as _, SystemClock, TenantId,
    message::{Message, TextFormat},
};
use qudao_egress::Rules;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Call {
    op: String,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    secrets: BTreeMap<String, Vec<String>>,
    cursor: Option<Value>,
    #[serde(default)]
    event: usize,
    #[serde(default)]
    text: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let local = "127.0.0.0/8".parse().context("a network")?;
    let dialer = Dialer::new(Rules::new(vec![local], false, vec![443])?)?;
    let mut heard = Vec::new();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let call: Call = serde_json::from_str(&line?).context("a line that is no call")?;
        writeln!(out, "{}", answer(&dialer, call, &mut heard).await?)?;
        out.flush()?;
    }
    Ok(())
}

async fn answer(dialer: &Dialer, call: Call, heard: &mut Vec<Event>) -> Result<Value> {
    let now = SystemClock.now();
    let config = ChannelConfig {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        channel_id: ChannelId::from_uuid(uuid::Uuid::nil()),
        locale: "en".to_owned(),
        settings: call.settings,
        secrets: call.secrets,
        account: None,
        inbound_url: String::new(),
    };
    match call.op.as_str() {
        "fetch" => {
            let poller = MailPoller::new(dialer.clone());
            let polled = match poller.fetch(&config, call.cursor.as_ref(), now).await {
                Ok(polled) => polled,
                Err(error) => return Ok(json!({ "error": error })),
            };
            let shown: Vec<_> = polled.events.iter().map(event_json).collect();
            heard.extend(polled.events);
            Ok(json!({ "events": shown, "cursor": polled.cursor }))
        }
        "answer" => {
            let event = heard.get(call.event).context("no such event")?;
            let message = Message::text(TextFormat::Markdown, call.text);
            let answered = Answered { external_id: &event.id, raw: &event.raw, at: now };
            let out = Outgoing {
                id: "out_00000000000000000000000000000001",
                piece: 0,
                thread: &event.thread.external_id,
                message: &message,
                answered: Some(answered),
                preview_id: None,
                now,
            };
            let plans = Email.render(&config, &out)?;
            let [plan @ Plan::Mail(mail)] = plans.as_slice() else { bail!("no mail") };
            let response = smtp::send(dialer, mail).await;
            let outcome = Email.classify(&config, plan, &response);
            Ok(json!({
                "message_id": mail.message_id, "response": response.excerpt(),
                "outcome": format!("{outcome:?}"),
            }))
        }
        "probe" => {
            let poller = MailPoller::new(dialer.clone());
            let faults = [smtp::probe(dialer, &config).await, poller.probe(&config).await];
            let faults: Vec<_> = faults.into_iter().filter_map(Result::err).collect();
            Ok(json!({ "faults": faults }))
        }
        other => bail!("there is no op called {other}"),
    }
}

fn event_json(event: &Event) -> Value {
    let (what, words) = match &event.body {
        EventBody::Message { message, .. } => ("message", message.to_text()),
        EventBody::Unknown { kind } => ("unknown", kind.clone()),
        EventBody::Unreachable => ("unreachable", String::new()),
        other => ("other", format!("{other:?}")),
    };
    json!({
        "id": event.id, "thread": event.thread.external_id, "sender": event.sender,
        "what": what, "words": words,
    })
}
