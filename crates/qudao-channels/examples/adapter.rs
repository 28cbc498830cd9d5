//! An adapter by itself, for programs in other languages to hold against it: one JSON object a line
//! in, one a line out.
//!
//! ```json
//! {"kind": "line", "op": "parse", "settings": {}, "secrets": {"channel_secret": ["…"]},
//!  "now": "2026-11-28T12:00:00Z",
//!  "request": {"method": "POST", "tail": "", "query": "", "headers": {"x": "y"}, "body": "…"}}
//! ```
//!
//! `body_base64` may stand for `body`. `parse` answers `{"events": […], "answer": {…}}` or
//! `{"reject": "…"}`; `render` takes `{"thread": "…", "message": {"parts": […]}}` and answers
//! `{"plans": […]}`; `passive` takes both `request` and `message`; `classify` takes `plan_purpose`
//! and `response` and answers `{"outcome": "…"}`. `connect`, `token`, `typing`, `fetch` (of an
//! `external_id`) and `preview` (of a `text`, and of the `preview_id` from the second time on) answer
//! `{"plans": […]}` too. `id` is the outbox id.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, Write as _},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{Answer, ChannelAdapter, Outgoing, Preview, RawRequest},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    ChannelId, Clock as _, SystemClock, TenantId,
    message::{Media, Message},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Call {
    kind: String,
    op: String,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    secrets: BTreeMap<String, Vec<String>>,
    account: Option<String>,
    #[serde(default)]
    inbound_url: String,
    now: Option<Timestamp>,
    request: Option<Request>,
    #[serde(default = "outbox_id")]
    id: String,
    #[serde(default)]
    thread: String,
    message: Option<Message>,
    #[serde(default)]
    plan_purpose: String,
    response: Option<Response>,
    #[serde(default)]
    external_id: String,
    #[serde(default)]
    text: String,
    preview_id: Option<String>,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default = "post")]
    method: String,
    #[serde(default)]
    tail: String,
    #[serde(default)]
    query: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    body_base64: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

fn outbox_id() -> String {
    "out_00000000000000000000000000000001".to_owned()
}

fn post() -> String {
    "POST".to_owned()
}

fn main() -> Result<()> {
    let adapters = qudao_channels::adapters();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let call: Call = serde_json::from_str(&line?).context("a line that is no call")?;
        let adapter = adapters.iter().find(|one| one.manifest().kind.as_str() == call.kind);
        let adapter = adapter.with_context(|| format!("no adapter is called {}", call.kind))?;
        writeln!(out, "{}", answer(adapter.as_ref(), call)?)?;
        out.flush()?;
    }
    Ok(())
}

fn answer(adapter: &dyn ChannelAdapter, call: Call) -> Result<Value> {
    let now = call.now.unwrap_or_else(|| SystemClock.now());
    let config = ChannelConfig {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        channel_id: ChannelId::from_uuid(uuid::Uuid::nil()),
        locale: "en".to_owned(),
        settings: call.settings,
        secrets: call.secrets,
        account: call.account,
        inbound_url: call.inbound_url,
    };
    let request = call.request.map(raw_request).transpose()?;
    let message = call.message.unwrap_or_default();
    let out = Outgoing {
        id: &call.id,
        piece: 0,
        thread: &call.thread,
        message: &message,
        answered: None,
        preview_id: call.preview_id.as_deref(),
        now,
    };
    match call.op.as_str() {
        "parse" => {
            let request = request.context("parse needs a request")?;
            Ok(parsed_json(adapter, &config, &request, now))
        }
        "render" => Ok(match adapter.render(&config, &out) {
            Ok(plans) => json!({ "plans": plans.iter().map(plan_json).collect::<Vec<_>>() }),
            Err(failure) => json!({ "failure": failure.to_string() }),
        }),
        "passive" => {
            let request = request.context("passive needs a request")?;
            let answer = adapter.passive_answer(&config, &request, &out, now);
            Ok(json!({ "answer": answer.as_ref().map(answer_json) }))
        }
        "classify" => {
            let response = call.response.context("classify needs a response")?;
            let purpose: &'static str = Box::leak(call.plan_purpose.into_boxed_str());
            let plan = Plan::Http(HttpPlan::get(purpose, ""));
            let outcome = adapter.classify(&config, &plan, &raw_response(response)?);
            Ok(json!({ "outcome": format!("{outcome:?}") }))
        }
        "connect" => Ok(requests_json(adapter.connect(&config))),
        "token" => Ok(requests_json(adapter.token(&config))),
        "typing" => Ok(requests_json(adapter.typing(&config, &call.thread))),
        "fetch" => {
            let media = Media { external_id: Some(call.external_id), ..Media::default() };
            Ok(requests_json(adapter.fetch(&config, &media)))
        }
        "preview" => {
            let message_id = call.preview_id.as_deref();
            let preview = Preview { draft: 1, text: &call.text, message_id };
            Ok(requests_json(adapter.preview(&config, &call.thread, &preview)))
        }
        other => bail!("there is no op called {other}"),
    }
}

fn header_map(headers: BTreeMap<String, String>) -> Result<http::HeaderMap> {
    let pairs = headers.into_iter().map(|(name, value)| {
        Ok((http::HeaderName::try_from(name)?, http::HeaderValue::try_from(value)?))
    });
    pairs.collect()
}

fn raw_request(request: Request) -> Result<RawRequest> {
    let body = match request.body_base64 {
        Some(body) => STANDARD.decode(body)?,
        None => request.body.into_bytes(),
    };
    Ok(RawRequest {
        method: request.method,
        tail: request.tail,
        query: request.query,
        headers: header_map(request.headers)?,
        body,
    })
}

fn raw_response(response: Response) -> Result<RawResponse> {
    let body = response.body.into_bytes();
    Ok(RawResponse { status: response.status, headers: header_map(response.headers)?, body })
}

fn answer_json(answer: &Answer) -> Value {
    json!({
        "status": answer.status, "content_type": answer.content_type,
        "body": String::from_utf8_lossy(&answer.body),
    })
}

fn parsed_json(
    adapter: &dyn ChannelAdapter,
    config: &ChannelConfig,
    request: &RawRequest,
    now: Timestamp,
) -> Value {
    match adapter.verify_and_parse(config, request, now) {
        Ok(parsed) => {
            let events: Vec<_> = parsed
                        .events
                        .iter()
                        .map(|event| {
                            json!({
                                "id": event.id, "thread": event.thread.external_id,
                                "group": event.thread.group, "sender": event.sender,
                                "body": format!("{:?}", event.body),
                                "acknowledge":
                                    adapter.acknowledge(config, event).map(Plan::Http).as_ref().map(plan_json),
                            })
                        })
                        .collect();
            json!({ "events": events, "answer": answer_json(&parsed.answer) })
        }
        Err(reject) => json!({ "reject": reject.to_string() }),
    }
}

fn requests_json(plans: impl IntoIterator<Item = HttpPlan>) -> Value {
    let plans: Vec<_> = plans.into_iter().map(|plan| plan_json(&Plan::Http(plan))).collect();
    json!({ "plans": plans })
}

fn plan_json(plan: &Plan) -> Value {
    match plan {
        Plan::Http(plan) => json!({
            "method": plan.method, "url": plan.url, "headers": plan.headers,
            "purpose": plan.purpose, "body": String::from_utf8_lossy(&plan.body),
            "body_base64": STANDARD.encode(&plan.body),
        }),
        Plan::Mail(mail) => json!({
            "from": mail.from, "to": mail.to, "message": String::from_utf8_lossy(&mail.message),
        }),
        Plan::Passive => json!("passive"),
    }
}
