//! Deliveries to a partner's endpoint that answers at once: how many a second go out when all wait
//! for the one before, and when they are of many conversations.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use qudao_benches::{http::call, part::Running, platform::Platform, postgres::Session};
use qudao_domain::{Clock as _, SystemClock};
use qudao_egress::{Egress, Limits, Rules};
use qudao_pcp::{EventId, Secret, Signer, header};
use serde_json::json;

use crate::Args;

/// As many as the platform has under way.
const AT_ONCE: usize = 64;
const LANES: usize = 256;
const DRAIN: Duration = Duration::from_secs(180);
const BODY: &str = r#"{"spec":"pcp/1","id":"evt_0000000000000000","type":"message.created","time":"2026-11-28T12:00:00Z","data":{"message":{"id":"msg_0","role":"assistant","parts":[{"type":"text","text":"We open at nine."}]}}}"#;

pub(crate) fn measure(args: &Args, platform: &Platform, sink: &Running) -> Result<()> {
    let mut lanes = Lanes::make(platform, sink)?;
    let (one, many) = (args.of(2000), args.of(10_000));
    lanes.run(args.of(500), LANES)?;
    let (direct_one, direct_many) = (direct(sink, one, 1)?, direct(sink, many, AT_ONCE)?);
    let (ours_one, ours_many) = (lanes.run(one, 1)?, lanes.run(many, LANES)?);
    println!("\ndeliveries to an endpoint that answers at once");
    let line = |what: &str, ours: f64, direct: f64| {
        println!(
            "  {what:<34} {ours:>6.0}/s = {:.2} x the {direct:.0}/s of its client alone",
            ours / direct
        );
    };
    line("one lane", ours_one, direct_one);
    line(&format!("{LANES} lanes, {AT_ONCE} under way"), ours_many, direct_many);
    Ok(())
}

/// The platform's client, signing, and nothing else.
fn direct(sink: &Running, count: usize, at_once: usize) -> Result<f64> {
    let (_, port) = sink.address().rsplit_once(':').context("a port")?;
    let rules = Rules::new(vec!["127.0.0.0/8".parse()?], true, vec![port.parse()?])?;
    let client = Egress::new(rules, Limits::default())?;
    let url = client.url(&format!("{}/events", sink.base))?;
    let signer = Signer { secrets: vec![Secret::generate()], private_keys: Vec::new() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begun = Instant::now();
    let (client, url, signer) = (&client, &url, &signer);
    let posts = (0..count).map(|_| async move {
        let (id, now) = (EventId::generate(), SystemClock.now());
        let mut headers = HeaderMap::new();
        let signature = signer.sign(&id, now, BODY.as_bytes())?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ID, HeaderValue::from_str(id.as_str())?);
        headers.insert(header::TIMESTAMP, HeaderValue::from(now.as_second()));
        headers.insert(header::SIGNATURE, HeaderValue::from_str(&signature)?);
        let answer = client.request(Method::POST, url, headers, Some(BODY.into())).await?;
        ensure!(answer.status().is_success(), "the sink answered {}", answer.status());
        Ok(())
    });
    runtime.block_on(async move {
        let mut answers = stream::iter(posts).buffer_unordered(at_once);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        anyhow::Ok(())
    })?;
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// The log of the demo's partner channel, whose endpoint is the sink.
struct Lanes {
    database: Session,
    channel: String,
    runs: usize,
}

impl Lanes {
    fn make(platform: &Platform, sink: &Running) -> Result<Self> {
        let demo = &platform.demo;
        let partner = demo.partner.as_ref().context("the demo has a partner")?;
        let path = format!(
            "/v1/tenants/{}/channels/{}/partner-endpoint",
            demo.tenant_id, partner.channel_id
        );
        let body = json!({ "endpoint_url": format!("{}/events", sink.base) });
        call(&demo.base_url, ("PUT", &path), &demo.api_key, Some(&body))?;
        let path = format!("/v1/pcp/channels/{}/endpoint:verify", partner.channel_id);
        call(&demo.base_url, ("POST", &path), &partner.bearer_key, None)?;
        let channel = partner.channel_id.trim_start_matches("chn_").to_owned();
        Ok(Self { database: Session::connect(&demo.database_url)?, channel, runs: 0 })
    }

    /// Puts so many events into the log, of so many conversations, and returns how many a second
    /// were delivered from the first to the last.
    fn run(&mut self, count: usize, lanes: usize) -> Result<f64> {
        self.runs += 1;
        let (run, channel) = (self.runs, &self.channel);
        self.database.query(&format!(
            "WITH log AS (UPDATE partner_channels SET last_cursor = last_cursor + {count} \
                          WHERE channel_id = '{channel}' \
                          RETURNING tenant_id, channel_id, last_cursor - {count} AS before) \
             INSERT INTO partner_events \
                 (tenant_id, channel_id, cursor, event_id, kind, thread, seq, body) \
             SELECT tenant_id, channel_id, before + n, 'evt_bench_{run}_' || n, 'message.created', \
                    'run{run}-' || n % {lanes}, n, convert_to('{BODY}', 'UTF8') \
             FROM log, generate_series(1, {count}) n"
        ))?;
        let of_run = format!("channel_id = '{channel}' AND thread LIKE 'run{run}-%'");
        let begun = Instant::now();
        let open = format!(
            "SELECT count(*) FROM partner_events WHERE {of_run} AND state IN ('ready', 'sending')"
        );
        while self.database.query(&open)?.as_deref() != Some("0") {
            ensure!(begun.elapsed() < DRAIN, "deliveries are left over after {DRAIN:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let early = self.database.query(&format!(
            "SELECT count(*) FROM (SELECT done_at < lag(done_at) OVER \
                 (PARTITION BY thread ORDER BY cursor) AS early FROM partner_events WHERE {of_run}) e \
             WHERE early"
        ))?;
        ensure!(early.as_deref() == Some("0"), "{early:?} came before the one before them");
        let rate = self.database.query(&format!(
            "SELECT (count(*) - 1) / extract(epoch FROM max(done_at) - min(done_at)) \
             FROM partner_events WHERE {of_run} AND state = 'done' AND attempts = 1"
        ))?;
        rate.context("a rate")?.parse().context("a rate")
    }
}
