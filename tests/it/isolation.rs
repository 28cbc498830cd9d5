//! Every operation of the API, asked by whoever must not have it: another tenant's key and member, a
//! lower role, a visitor, a key that was revoked, and nobody. Every text that the tenant has is a
//! canary, and is looked for in answers, log lines, traces and Redis.
#![expect(clippy::print_stderr, reason = "a check says what it did")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::{
    collector::Collector,
    platform::{Platform, SLOW, Wanted},
    secrets::redis_contents,
};

mod estate;

const CANARY: &str = "canary-";
/// What tells that an operation takes a form.
const FORM: &str = "/requestBody/content/multipart~1form-data";
/// What the owner of a channel or of a sign-in page shows to everybody who has its address.
const PUBLIC: &[&str] = &[
    "assistants-greeting",
    "assistants-name",
    "channels-locale",
    "channels-name",
    "identity_providers-name",
];

/// Where it is written down that somebody signed out.
const RECORDED: &[&str] = &["audit_events", "audit_heads"];
/// Where a visitor, who may write to everybody's channel, leaves something.
const VISITED: &[&str] = &[
    "audit_events",
    "audit_heads",
    "contacts",
    "conversations",
    "holds",
    "identities",
    "inbox",
    "ledger_entries",
    "model_attempts",
    "outbox",
    "ratings",
    "route_decisions",
    "usage_events",
    "wallets",
];

struct Operation {
    method: Method,
    path: String,
    access: String,
    scope: String,
    body: Option<Value>,
    /// Takes a form with a file and the name of a model.
    form: bool,
    takes_key: bool,
}

/// Somebody who asks.
struct Asker {
    name: &'static str,
    headers: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Tally {
    asked: usize,
    by_status: BTreeMap<(&'static str, u16), usize>,
    leaks: Vec<String>,
    wrong: Vec<String>,
}

struct Probe {
    platform: Platform,
    collector: Collector,
    http: Client,
    /// The ids of the tenant that must stay closed, by the parameter that names them.
    ids: BTreeMap<String, String>,
    viewer_scopes: BTreeSet<String>,
}

impl Probe {
    async fn start() -> Self {
        let collector = Collector::start().await;
        let environment = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
            ("QUDAO_LOG", "debug,hyper=info,h2=info".to_owned()),
        ];
        // What the tenant set aside for calls does not return, or is renewed, while somebody compares.
        let settings = format!("[limits]\nblock_lease_s = 600\n{SLOW}");
        let wanted = Wanted { settings, environment, ..Wanted::default() };
        let platform = Platform::start_with(wanted).await;
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(Duration::from_secs(20)).build().unwrap();
        Self { platform, collector, http, ids: BTreeMap::new(), viewer_scopes: BTreeSet::new() }
    }

    async fn operations(&self) -> Vec<Operation> {
        let text = self.http.get(self.platform.url("/openapi.json")).send().await.unwrap();
        let document: Value = serde_json::from_str(&text.text().await.unwrap()).unwrap();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let text = |field: &str| operation[field].as_str().unwrap_or_default().to_owned();
                let example = operation.pointer("/requestBody/content/application~1json/example");
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                operations.push(Operation {
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.clone(),
                    access: text("x-qudao-access"),
                    scope: text("x-qudao-scope"),
                    body: example.cloned(),
                    form: operation.pointer(FORM).is_some(),
                    takes_key: parameters.iter().any(|one| one["name"] == "Idempotency-Key"),
                });
            }
        }
        operations
    }

    fn path(&self, operation: &Operation, tenant: &str) -> String {
        let mut path = operation.path.clone();
        if ["/deliveries", "/partner-"].iter().any(|of| path.contains(of)) {
            path = path.replace("{channel_id}", "{partner_channel_id}");
        }
        for (name, id) in &self.ids {
            let id = if name == "tenant_id" { &self.ids[tenant] } else { id };
            path = path.replace(&format!("{{{name}}}"), id);
        }
        assert!(!path.contains('{'), "{path} names something that the probe has no id for");
        path
    }

    /// An example body, with the tenant's own ids in place of the example's.
    fn body(&self, operation: &Operation) -> Option<Value> {
        let mut body = operation.body.clone()?;
        for (name, id) in &self.ids {
            if body.get(name).is_some() {
                body[name] = id.clone().into();
            }
        }
        Some(body)
    }

    /// A sound that the tenant's own model is to write down.
    fn form(&self) -> String {
        let part = |name: &str, value: &str| {
            format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        part("file", "OggS") + &part("model", &self.ids["model"]) + "--b--\r\n"
    }

    async fn ask(&self, operation: &Operation, path: &str, asker: &Asker) -> (u16, String) {
        let mut request = self.http.request(operation.method.clone(), self.platform.url(path));
        for (name, value) in &asker.headers {
            request = request.header(*name, value);
        }
        if operation.takes_key {
            request = request.header("idempotency-key", format!("{}{path}", asker.name));
        }
        if let Some(body) = self.body(operation) {
            request = request.json(&body);
        }
        if operation.form {
            let kind = "multipart/form-data; boundary=b";
            request = request.header("content-type", kind).body(self.form());
        }
        let mut response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let mut text = format!("{:?}", response.headers());
        // A stream has no end: what it says at once is what it says of the past.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let chunk = tokio::time::timeout(Duration::from_millis(700), response.chunk()).await;
            match chunk {
                Ok(Ok(Some(chunk))) => text.push_str(&String::from_utf8_lossy(&chunk)),
                _ => break,
            }
        }
        (status, text)
    }

    async fn round(
        &self,
        operations: &[Operation],
        asker: &Asker,
        tenant: &str,
        tally: &mut Tally,
    ) {
        for operation in operations {
            let path = self.path(operation, tenant);
            let (status, text) = self.ask(operation, &path, asker).await;
            tally.asked += 1;
            *tally.by_status.entry((asker.name, status)).or_default() += 1;
            let shown = format!("{} {path} by {}: {status}", operation.method, asker.name);
            let own_path = tenant == "rival";
            if !self.may_be(operation, asker.name, status, own_path) {
                tally.wrong.push(shown.clone());
            }
            let allowed = asker.name == "lower role"
                && (self.viewer_scopes.contains(&operation.scope) || operation.access == "member");
            for found in text.split(CANARY).skip(1) {
                let column: Vec<_> = found.splitn(3, '-').take(2).collect();
                let public = matches!(operation.access.as_str(), "public" | "visitor" | "widget")
                    && PUBLIC.contains(&column.join("-").as_str());
                if !allowed && !public {
                    let told: String = found.chars().take(40).collect();
                    tally.leaks.push(format!("{shown} told {CANARY}{told}"));
                }
            }
        }
    }

    /// Whether this answer is one that this asker may get. Doors that are open to everybody may
    /// answer as they like, short of failing.
    fn may_be(&self, operation: &Operation, asker: &str, status: u16, own_path: bool) -> bool {
        let key = asker == "rival's key";
        match (operation.access.as_str(), asker) {
            (_, _) if 500 <= status => false,
            ("public", _) => true,
            ("visitor", "visitor") => true,
            ("widget", "widget token") => true,
            (_, "nobody" | "visitor" | "revoked key" | "widget token") => status == 401,
            ("visitor" | "widget" | "partner", _) => status == 401,
            ("tenant", "rival's key" | "rival's owner") => {
                // Within their own tenant they may do as they like, short of reaching ours.
                status == 404
                    || (own_path && !operation.path.contains("_id}/") && status < 500)
                    || (own_path
                        && matches!(
                            status,
                            200 | 201 | 204 | 400 | 402 | 403 | 404 | 409 | 422 | 429
                        ))
            }
            ("tenant", "lower role") => {
                self.viewer_scopes.contains(&operation.scope) || status == 403
            }
            ("operator", _) => status == 403,
            ("key", _) if key => true,
            ("key", _) => status == 401,
            ("member", _) if key => status == 403,
            ("member", _) => true,
            _ => false,
        }
    }

    async fn search_elsewhere(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |place: &str, text: &str| {
            if let Some(at) = text.find(CANARY) {
                let told: String = text[at..].chars().take(60).collect();
                found.push(format!("{place}: {told}"));
            }
        };
        look("log", &self.platform.log());
        look("traces", &String::from_utf8_lossy(&self.collector.raw().await));
        look("metrics", &self.platform.metrics().await);
        let redis = redis_contents(&self.platform);
        assert!(!redis.trim().is_empty(), "Redis holds the rates at least");
        look("keys and values of Redis", &redis);
        found
    }
}

#[tokio::test]
async fn isolation_no_operation_tells_or_changes_anything_of_another_tenant() {
    let mut probe = Probe::start().await;
    let askers = probe.furnish().await;
    let operations = probe.operations().await;
    // Every list and every thing answers its owner: a probe of what is not there proves nothing.
    let planted = probe.plant();
    assert!(40 <= planted, "{planted} columns are canaries");
    let owner = Asker {
        name: "operator",
        headers: vec![("authorization", format!("Bearer {}", probe.platform.text("operator_key")))],
    };
    let mut seen = BTreeSet::new();
    for operation in operations.iter().filter(|o| o.method == Method::GET && o.access == "tenant") {
        let path = probe.path(operation, "tenant_id");
        let (status, text) = probe.ask(operation, &path, &owner).await;
        assert!(status == 200, "{path}: {status} {text}");
        seen.extend(text.contains(CANARY).then(|| operation.path.clone()));
    }
    assert!(12 <= seen.len(), "the owner's own answers hold canaries: {seen:?}");

    let before = probe.fingerprint(RECORDED);
    let before_visit = probe.fingerprint(VISITED);
    let logged = probe.platform.log().len();
    let mut tally = Tally::default();
    let (signs_out, others): (Vec<_>, Vec<_>) = operations
        .into_iter()
        .partition(|operation| operation.method == Method::DELETE && operation.access == "member");
    for asker in &askers {
        if asker.name == "visitor" {
            assert_eq!(probe.fingerprint(RECORDED), before, "something of the tenant was changed");
        }
        probe.round(&others, asker, "tenant_id", &mut tally).await;
        if asker.name.starts_with("rival") {
            // Their own tenant in the path, ours in all other places.
            probe.round(&others, asker, "rival", &mut tally).await;
        }
        probe.round(&signs_out, asker, "tenant_id", &mut tally).await;
    }
    let elsewhere = probe.search_elsewhere().await;
    eprintln!(
        "{} operations x {} askers, {} requests; {planted} columns of canaries; {} leaks; \
         {} wrong answers; {} bytes of log searched",
        others.len() + signs_out.len(),
        askers.len(),
        tally.asked,
        tally.leaks.len() + elsewhere.len(),
        tally.wrong.len(),
        probe.platform.log().len() - logged,
    );
    for ((name, status), count) in &tally.by_status {
        eprintln!("  {name:<14} {status} x {count}");
    }
    assert_eq!(tally.leaks, Vec::<String>::new());
    assert_eq!(tally.wrong, Vec::<String>::new());
    assert_eq!(elsewhere, Vec::<String>::new());
    let after_visit = probe.fingerprint(VISITED);
    assert_eq!(after_visit, before_visit, "a visitor changed more than their own conversation");
    how_long_a_stranger_waits(&probe, &askers[0]).await;
}

/// Another tenant's id is answered like one that nobody has, in the same words. The times are shown.
async fn how_long_a_stranger_waits(probe: &Probe, rival: &Asker) {
    let unknown = "ten_00000000000070008000000000000000";
    let mut times = [Vec::new(), Vec::new()];
    let mut words = [String::new(), String::new()];
    for _ in 0..200 {
        let tenants = [probe.ids["tenant_id"].as_str(), unknown];
        for ((times, words), tenant) in times.iter_mut().zip(&mut words).zip(tenants) {
            let url = probe.platform.url(&format!("/v1/tenants/{tenant}/assistants"));
            let mut request = probe.http.get(url);
            for (name, value) in &rival.headers {
                request = request.header(*name, value);
            }
            let begun = Instant::now();
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            let mut body: Value = response.json().await.unwrap();
            times.push(begun.elapsed());
            body["request_id"] = Value::Null;
            *words = body.to_string();
        }
    }
    assert_eq!(words[0], words[1]);
    let [theirs, nobodys] = times.map(|mut times| {
        times.sort();
        times[100]
    });
    eprintln!("median time to refuse another tenant's id {theirs:?}, an unknown one {nobodys:?}");
}
