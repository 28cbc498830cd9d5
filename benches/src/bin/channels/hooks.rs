//! The time in which webhooks are acknowledged: a bot's update and a partner's event, at a rate.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, ensure};
use qudao_benches::{
    http,
    load::{self, Run},
    part::Running,
    platform::Platform,
};
use qudao_domain::{Clock as _, SystemClock};
use qudao_pcp::{Conversation, Event, Secret, Signer, VERSION, header, kind};
use serde_json::{Value, json};

use crate::{Args, ms, verdict};

const CONNECTIONS: usize = 64;
const ROUNDS: u32 = 3;
/// What one channel is sent per second, so that its own rates are not reached: a bot may send 30
/// messages a second, a partner 50 events.
const PER_CHANNEL: u32 = 20;
const GOAL: Duration = Duration::from_millis(100);
const PEOPLE: u32 = 400;

pub(crate) fn measure(args: &Args, platform: &Platform, sink: &Running) -> Result<()> {
    let channels = args.rate.div_ceil(PER_CHANNEL);
    let bots = Bots::make(platform, sink, channels)?;
    let partners = Partners::make(platform, channels)?;
    let bare = Running::start(&["hook", &platform.demo.database_url])?;
    let length = Duration::from_secs((args.length().as_secs() / u64::from(ROUNDS)).max(2));
    let address = platform.demo.base_url.trim_start_matches("http://").to_owned();
    let steady = |to: &str, length, request: &dyn Fn(u32) -> Vec<u8>| {
        load::steady(to, CONNECTIONS, args.rate, length, request)
    };
    // Pools, plans and caches are there before it counts.
    let warm = Duration::from_secs(2);
    steady(&address, warm, &|_| bots.request(&address))?;
    steady(&address, warm, &|_| partners.request(&address))?;
    let mut runs = [Run::default(), Run::default(), Run::default()];
    let [reference, telegram, partner] = &mut runs;
    for _ in 0..ROUNDS {
        let body = bots.update();
        reference
            .merge(steady(bare.address(), length, &|_| post(bare.address(), "/", &[], &body))?);
        telegram.merge(steady(&address, length, &|_| bots.request(&address))?);
        partner.merge(steady(&address, length, &|_| partners.request(&address))?);
    }
    println!("\nwebhooks, {} a second over {channels} channels each", args.rate);
    let of = |run: &Run, q| run.quantile(q, |sample| sample.whole);
    let [reference, telegram, partner] = &runs;
    println!(
        "  bare handler, one durable commit: p50 {:.1} ms, p99 {:.1} ms",
        ms(of(reference, 0.5)),
        ms(of(reference, 0.99))
    );
    for (name, run) in [("Telegram", telegram), ("PCP/1, signed", partner)] {
        ensure!(run.refused() == 0, "{name}: {} were refused", run.refused());
        println!(
            "  {name:<14} p50 {:>6.1} ms, p99 {:>6.1} ms = {:.1} x and {:.1} x; goal {:.0} ms: {}",
            ms(of(run, 0.5)),
            ms(of(run, 0.99)),
            of(run, 0.5).as_secs_f64() / of(reference, 0.5).as_secs_f64(),
            of(run, 0.99).as_secs_f64() / of(reference, 0.99).as_secs_f64(),
            ms(GOAL),
            verdict(of(run, 0.99) < GOAL)
        );
    }
    Ok(())
}

fn post(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n",
        body.len(),
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// Makes a channel of the demo's tenant and returns its id.
fn channel(platform: &Platform, kind: &str, settings: &Value, secrets: &Value) -> Result<String> {
    let demo = &platform.demo;
    let path = format!("/v1/tenants/{}/channels", demo.tenant_id);
    let body = json!({ "name": "Bench", "kind": kind, "assistant_id": demo.assistant_id,
                       "settings": settings, "secrets": secrets });
    let made = http::call(&demo.base_url, ("POST", &path), &demo.api_key, Some(&body))?;
    Ok(made["id"].as_str().context("a channel's id")?.to_owned())
}

/// Bots, each with the address and the secret that Telegram was told.
struct Bots {
    hooks: Vec<(String, String)>,
    sent: Cell<u32>,
}

impl Bots {
    fn make(platform: &Platform, sink: &Running, count: u32) -> Result<Self> {
        let demo = &platform.demo;
        let settings = json!({ "receive": "webhook", "api_url": sink.base });
        for number in 0..count {
            let secrets = json!({ "bot_token": format!("{}:AAbench", 100 + number) });
            let id = channel(platform, "telegram", &settings, &secrets)?;
            let path = format!("/v1/tenants/{}/channels/{id}/connect", demo.tenant_id);
            http::call(&demo.base_url, ("POST", &path), &demo.api_key, None)?;
        }
        let told = http::call(&sink.base, ("GET", "/hooks"), "", None)?;
        let mut hooks: Vec<(String, String)> = serde_json::from_value(told)?;
        for (url, _) in &mut hooks {
            *url = url.trim_start_matches(&demo.base_url).to_owned();
        }
        ensure!(hooks.len() == usize::try_from(count)?, "{} bots connected", hooks.len());
        Ok(Self { hooks, sent: Cell::new(0) })
    }

    fn update(&self) -> String {
        let number = self.sent.replace(self.sent.get() + 1);
        let chat = 1000 + number % PEOPLE;
        json!({ "update_id": number, "message": {
            "message_id": number, "date": SystemClock.now().as_second(),
            "text": "when do you open tomorrow",
            "from": { "id": chat, "first_name": "Ada", "language_code": "en" },
            "chat": { "id": chat, "type": "private" } } })
        .to_string()
    }

    fn request(&self, address: &str) -> Vec<u8> {
        let body = self.update();
        let which = self.sent.get() as usize % self.hooks.len();
        let (path, secret) = &self.hooks[which];
        post(address, path, &[("x-telegram-bot-api-secret-token", secret)], &body)
    }
}

/// A channel of a partner's.
struct Partner {
    id: String,
    bearer: String,
    signer: Signer,
}

struct Partners {
    all: Vec<Partner>,
    sent: Cell<u32>,
}

impl Partners {
    /// Out of the sandbox, as after a green report, so that messages take the way of all messages.
    fn make(platform: &Platform, count: u32) -> Result<Self> {
        let demo = &platform.demo;
        let mut all = Vec::new();
        for _ in 0..count {
            let id = channel(platform, "partner", &json!({}), &json!({}))?;
            let path = format!("/v1/tenants/{}/channels/{id}/partner-keys", demo.tenant_id);
            let keys = http::call(&demo.base_url, ("POST", &path), &demo.api_key, None)?;
            let text = |name: &str| keys[name].as_str().context("a key").map(str::to_owned);
            let secret = Secret::parse(&text("signing_secret")?)?;
            let signer = Signer { secrets: vec![secret], private_keys: Vec::new() };
            all.push(Partner { id, bearer: text("bearer_key")?, signer });
        }
        let mut database = qudao_benches::postgres::Session::connect(&demo.database_url)?;
        database.query("UPDATE partner_channels SET sandbox = false, live_at = now()")?;
        Ok(Self { all, sent: Cell::new(0) })
    }

    fn request(&self, address: &str) -> Vec<u8> {
        let number = self.sent.replace(self.sent.get() + 1);
        let partner = &self.all[number as usize % self.all.len()];
        let now = SystemClock.now();
        let data = json!({ "message": { "external_id": format!("m{number}"),
            "parts": [{ "type": "text", "text": "when do you open tomorrow" }] } });
        let mut event = Event::new(kind::MESSAGE_CREATED, now, data);
        event.conversation = Some(Conversation {
            external_id: format!("room{}", number % PEOPLE),
            ..Conversation::default()
        });
        let body = String::from_utf8(event.to_bytes()).unwrap_or_default();
        let signature = partner.signer.sign(&event.id, now, body.as_bytes()).unwrap_or_default();
        let bearer = format!("Bearer {}", partner.bearer);
        let at = now.as_second().to_string();
        let headers = [
            ("authorization", bearer.as_str()),
            (header::VERSION, VERSION),
            (header::ID, event.id.as_str()),
            (header::TIMESTAMP, &at),
            (header::SIGNATURE, &signature),
        ];
        post(address, &format!("/v1/pcp/channels/{}/events", partner.id), &headers, &body)
    }
}
