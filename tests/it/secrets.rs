//! Canaries: secrets and a person's words are planted in a real conversation, and looked for in
//! everything that the platform writes anywhere.
//!
//! | place | secrets | what people said |
//! |---|---|---|
//! | log lines (JSON, level debug), a plugin's own lines among them | never | never |
//! | traces at the collector | never | never |
//! | metrics | never | never |
//! | answers to errors | never | never |
//! | Redis: keys and values | never | never |
//! | Redis: what is published | never | the preview channels |
//! | Postgres (a dump) | never | `inbox`, `outbox`, `idempotency_records` |
//! | the operator's report of plugins | never | a provider's words, shortened |
//!
//! "What people said" includes telephone, mail and card in it.

use std::{
    collections::BTreeMap,
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::method};

use crate::{
    collector::Collector,
    platform::{MASTER_KEY, Platform, Wanted},
    visitor::Visitor,
};

const PROVIDER_KEY: &str = "sk-canary-8f2KQ0zzProviderKey42";
const TOTP: &str = "JBSWY3DPEHPK3PXPCANARY22";
const PHONE: &str = "+86 138 0013 8000";
const MAIL: &str = "canary.person@example.org";
const CARD: &str = "4111 1111 1111 1111";
const WORDS: &str = "canary-words-5b1d";

/// What a person writes, the same again from the model.
fn message(number: u32) -> String {
    format!("{WORDS} {number}: call {PHONE}, write to {MAIL}, pay with {CARD}, code {TOTP}")
}

/// Repeats in its answers, and above all in its refusals, everything that it was sent.
async fn indiscreet_provider() -> MockServer {
    let server = MockServer::start().await;
    let answer = |request: &Request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let said = body["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
        let key = request.headers["authorization"].to_str().unwrap().to_owned();
        let quote = format!("refused for {key}: {said}");
        let refusal = |status: u16, kind: &str| {
            let error = json!({ "message": quote, "type": kind, "code": kind });
            ResponseTemplate::new(status).set_body_json(json!({ "error": error }))
        };
        match body["model"].as_str().unwrap() {
            "refuses" => refusal(400, "invalid_request_error"),
            "locks" => refusal(401, "invalid_api_key"),
            "breaks" => refusal(500, "server_error"),
            _ => ResponseTemplate::new(200).set_body_json(json!({
                "id": "c1", "object": "chat.completion", "created": 1, "model": "remote",
                "choices": [{ "index": 0, "finish_reason": "stop",
                    "message": { "role": "assistant", "content": format!("you said {said}") } }],
                "usage": { "prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16 },
            })),
        }
    };
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    server
}

/// Everything that anybody says to Redis.
struct Monitor {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Monitor {
    fn start(platform: &Platform) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let out: File = file.reopen().unwrap();
        let mut command = redis_cli(platform);
        let child = command.arg("monitor").stdout(out).stderr(Stdio::null()).spawn().unwrap();
        Self { child, file }
    }

    fn stop(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        String::from_utf8_lossy(&std::fs::read(self.file.path()).unwrap()).into_owned()
    }
}

fn redis_cli(platform: &Platform) -> Command {
    let url = platform.redis_url();
    let mut command = Command::new("redis-cli");
    match url.split_once("unix://") {
        Some((_, path)) => command.arg("-s").arg(path.split('?').next().unwrap()),
        None => command.arg("-u").arg(url),
    };
    command
}

fn redis(platform: &Platform, words: &[&str]) -> String {
    let output = redis_cli(platform).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every key with its value.
pub(crate) fn redis_contents(platform: &Platform) -> String {
    let keys = redis(platform, &["--scan"]);
    let mut contents = String::new();
    for key in keys.lines() {
        let read: &[&str] = match redis(platform, &["type", key]).trim() {
            "string" => &["get", key],
            "hash" => &["hgetall", key],
            "list" => &["lrange", key, "0", "-1"],
            "set" => &["smembers", key],
            "zset" => &["zrange", key, "0", "-1"],
            "stream" => &["xrange", key, "-", "+"],
            "none" => continue,
            other => panic!("{key} is a {other}"),
        };
        contents += &format!("{key}\n{}\n", redis(platform, read));
    }
    contents
}

/// The rows of each table.
fn dump(platform: &Platform) -> BTreeMap<String, String> {
    let url = platform.told("database_url");
    let output = Command::new("pg_dump").args(["--data-only", "--dbname", &url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut tables = BTreeMap::new();
    for part in text.split("\nCOPY ").skip(1) {
        let (head, rows) = part.split_once('\n').unwrap();
        let name = head.split([' ', '(']).next().unwrap().trim_start_matches("public.");
        let rows = rows.split("\n\\.").next().unwrap();
        tables.insert(name.to_owned(), rows.to_owned());
    }
    tables
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// In plain, and as bytes show in a dump.
fn holds(text: &str, canary: &str) -> bool {
    text.contains(canary) || text.contains(&hex(canary))
}

fn assert_none(place: &str, text: &str, canaries: &[&str]) {
    assert!(!text.trim().is_empty(), "{place} holds nothing, so this proves nothing");
    for canary in canaries {
        if let Some(at) = text.find(canary).or_else(|| text.find(&hex(canary))) {
            let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
            let line: String = text[from..].lines().next().unwrap().chars().take(600).collect();
            panic!("{place} hold {canary}:\n{line}");
        }
    }
}

/// Calls that are refused, and what they were answered.
async fn provoke(platform: &Platform) -> String {
    let mut answers = String::new();
    for (number, model) in ["locks", "breaks", "unknown", "refuses"].into_iter().enumerate() {
        let text = message(100 + u32::try_from(number).unwrap());
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": text }] });
        let (status, answer) =
            platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await;
        assert!(!status.is_success(), "{answer}");
        // What the provider says of a bad request is the caller's own affair.
        if model != "refuses" {
            answers += &format!("{status} {answer}\n");
        }
    }
    let tenant = platform.text("tenant_id");
    let wrong = json!({ "name": message(1).repeat(9), "models": [] });
    for key in [platform.text("api_key"), "qk_live_nobody", "qo_nobody"] {
        let path = format!("/v1/tenants/{tenant}/routes");
        let (status, answer) =
            platform.send(Method::POST, &path, key, &[], Some(wrong.clone())).await;
        assert!(status.is_client_error(), "{answer}");
        answers += &format!("{status} {answer}\n");
    }
    answers
}

#[tokio::test]
async fn planted_secrets_and_words_are_found_nowhere_but_where_they_belong() {
    let (provider, collector) = (indiscreet_provider().await, Collector::start().await);
    let mut settings = format!(
        "[[instances]]\nname = \"openai\"\nplugin = \"openai\"\n\
         config = {{ base_url = \"{}/v1\", api_key = \"{PROVIDER_KEY}\" }}\n",
        provider.uri()
    );
    for model in ["remote", "refuses", "locks", "breaks"] {
        settings += &format!(
            "[[instances.models]]\nname = \"{model}\"\ndata_class = \"remote\"\n\
             prices = [{{ currency = \"CNY\", input_per_mtok = \"2.00\", output_per_mtok = \"8.00\" }}]\n"
        );
    }
    let environment = vec![
        ("QUDAO__DEMO__MODEL", "remote".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("QUDAO_LOG", "debug,hyper=info,h2=info".to_owned()),
        ("QUDAO__LOG__FORMAT", "json".to_owned()),
        ("QUDAO__WORKER__TURN_ATTEMPTS", "2".to_owned()),
        ("QUDAO__WORKER__TURN_BACKOFF_S", "1,1".to_owned()),
    ];
    let platform =
        Platform::start_with(Wanted { settings, environment, ..Wanted::default() }).await;
    let monitor = Monitor::start(&platform);

    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", &message(1)).await;
    assert!(visitor.reply().await["text"].as_str().unwrap().contains(TOTP));
    let call = json!({
        "model": "remote", "messages": [{ "role": "user", "content": message(2) }],
    });
    let tenant = platform.text("tenant_id").to_owned();
    let models = json!({ "name": "all", "models": ["refuses", "locks", "breaks", "remote"] });
    let path = format!("/v1/tenants/{tenant}/routes");
    assert_eq!(platform.tenant(Method::POST, &path, Some(models)).await.0, StatusCode::CREATED);
    let once = [("Idempotency-Key", "canary-call")];
    let key = platform.text("api_key").to_owned();
    let answer = platform.send(Method::POST, "/v1/chat/completions", &key, &once, Some(call)).await;
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    let new = json!({ "name": "second", "scopes": ["chat"] });
    let once = [("Idempotency-Key", "canary-key")];
    let path = format!("/v1/tenants/{tenant}/api-keys");
    let (status, made) = platform.send(Method::POST, &path, &key, &once, Some(new)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let second = made["key"].as_str().unwrap().to_owned();

    let refusals = provoke(&platform).await;
    // A turn that fails until it is given up.
    platform.sql("UPDATE routes SET models = '{refuses,breaks,locks}'");
    visitor.say("m2", &message(3)).await;
    visitor.reply().await;
    // And a database that refuses what is written into it.
    platform.sql(
        "ALTER TABLE inbox ADD CONSTRAINT canary CHECK (body ->> 'text' NOT LIKE '%refused row%') \
         NOT VALID",
    );
    visitor.say("m3", &format!("{} refused row", message(4))).await;
    tokio::time::sleep(Duration::from_secs(7)).await;

    let (status, plugins) = platform.operator(Method::GET, "/v1/plugins", None).await;
    assert_eq!(status, StatusCode::OK);
    let (spans, metrics) = (collector.raw().await, platform.metrics().await);
    let spans = String::from_utf8_lossy(&spans).into_owned();
    let (contents, said) = (redis_contents(&platform), monitor.stop());
    let log = platform.log();
    let log: Vec<_> = log.lines().filter(|line| line.starts_with('{')).collect();
    let log = log.join("\n");
    assert!(log.contains("a turn failed"), "{log}");
    let operator = platform.text("operator_key").to_owned();
    let secrets = [PROVIDER_KEY, &key, &second, &operator, MASTER_KEY, &visitor.token];
    let people = [WORDS, PHONE, MAIL, CARD, TOTP];
    let everything = [secrets.as_slice(), &people].concat();

    assert_none("the log lines", &log, &everything);
    assert_none("the traces", &spans, &everything);
    assert_none("the metrics", &metrics, &everything);
    assert_none("the refusals", &refusals, &everything);
    assert_none("the keys and values of Redis", &format!("(read) {contents}"), &everything);
    let published = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("\"publish\"") || line.contains("\"spublish\"")
    };
    let (previews, commands): (Vec<_>, Vec<_>) = said.lines().partition(published);
    assert_none("the commands to Redis", &commands.join("\n"), &everything);
    assert_none("the previews", &previews.join("\n"), &secrets);
    let report = plugins.to_string();
    assert_none("the report of plugins", &report, &[secrets.as_slice(), &people[1..]].concat());
    assert!(
        report.contains("refused for Bearer [key]") && report.contains("code <key>"),
        "the operator reads why: {report}"
    );
    for (table, rows) in dump(&platform) {
        let told = people.iter().any(|canary| holds(&rows, canary));
        let may = ["inbox", "outbox", "idempotency_records"].contains(&table.as_str());
        assert_eq!(told, may, "{table} {rows}");
        assert_none("the dump", &format!("{table}\n{rows}"), &secrets);
    }
}
