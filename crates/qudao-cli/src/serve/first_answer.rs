//! What a person who starts the demo sees: where to click, what to type, and a first answer.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use qudao_core::{ApiEvent, ApiRequest, Core};
use qudao_domain::key::ApiKey;
use qudao_plugin_api::wire::ChatRequest;
use qudao_plugin_host::ModelState;
use serde_json::json;

use super::demo::Demo;
use crate::terminal::{print, print_part, seconds};

const QUESTION: &str = "Say hello in one short sentence.";
/// For a model of some gigabytes on a slow disk.
const LOAD_LIMIT: Duration = Duration::from_secs(600);
const ANSWER_TOKENS: u32 = 48;

/// Prints the demo's doors at once, and the answer of `model` when it is ready, in the background.
pub(super) fn show(core: Arc<Core>, demo: &Demo, model: Option<String>) {
    let Demo { base_url, api_key, chat_url, console_url, operator_key, .. } = demo;
    let Some(model) = model else { return };
    let body = json!({
        "model": model,
        "stream": true,
        "messages": [{ "role": "user", "content": "你好！" }],
    });
    print("");
    print(&format!("  chat page      {chat_url}"));
    print(&format!("  console        {console_url}"));
    print(&format!("  API reference  {base_url}/docs"));
    print(&format!("  API key        {api_key}"));
    print(&format!("  operator key   {operator_key}"));
    print("");
    print("  first call:");
    print(&format!("  curl -N {base_url}/v1/chat/completions \\"));
    print(&format!(
        "    -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\"
    ));
    print(&format!("    -d '{body}'"));
    print("");
    let key = api_key.clone();
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        if let Err(error) = answer(&core, &key, &model).await {
            print(&format!("  {model} did not answer: {error:#}"));
        }
    });
}

async fn answer(core: &Arc<Core>, key: &str, model: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    wait_until_ready(core, model).await?;
    let loaded = begun.elapsed();
    let key = ApiKey::parse(key).context("the demo's key")?;
    let principal = core
        .authenticate(&key, Ipv4Addr::LOCALHOST.into())
        .await?
        .context("the demo's key is not known")?;
    let chat: ChatRequest = serde_json::from_value(json!({
        "schema": "qudao.chat.v1",
        "model": model,
        "messages": [{ "role": "user", "content": QUESTION }],
        "params": { "max_tokens": ANSWER_TOKENS },
    }))?;
    let request = ApiRequest {
        ask: chat.into(),
        choices: None,
        stream: true,
        trace: qudao_core::Trace::NONE,
        address: None,
        slot: None,
    };
    let asked = Instant::now();
    let mut reply = core.api_call(&principal, request).await?;
    print(&format!("  > {QUESTION}"));
    print_part(&format!("  {model}: "));
    let mut first = None;
    while let Some(event) = reply.next().await {
        match event? {
            ApiEvent::Delta { text, .. } => {
                first.get_or_insert_with(|| asked.elapsed());
                print_part(&text.replace('\n', "\n  "));
            }
            ApiEvent::Data(_) => {}
            ApiEvent::End { usage, charge, .. } => {
                print("");
                print(&format!(
                    "  ready: model loaded {}, first token {}, {} tokens in {}, charged {charge}",
                    seconds(loaded),
                    seconds(first.unwrap_or_default()),
                    usage.output_tokens,
                    seconds(asked.elapsed()),
                ));
            }
        }
    }
    Ok(())
}

async fn wait_until_ready(core: &Core, model: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let Some(report) = core.plugins.model(model) else { bail!("no plugin offers it") };
        match report.state {
            ModelState::Ready => return Ok(()),
            ModelState::Failed { reason } | ModelState::Quarantined { reason } => bail!("{reason}"),
            _ => {}
        }
        if core.tasks.is_closed() {
            bail!("Qudao is stopping");
        }
        if LOAD_LIMIT < begun.elapsed() {
            bail!("still loading after {}", seconds(LOAD_LIMIT));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
