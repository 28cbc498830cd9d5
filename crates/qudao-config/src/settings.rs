//! The sections. Field documentation becomes the JSON schema's, so it speaks to the operator.

use std::{net::SocketAddr, path::PathBuf};

use qudao_domain::{Currency, Micros};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Instance, Secret, instance::amount};

mod egress;
mod limits;
mod mail;
mod partner;
mod routing;

pub use egress::Egress;
pub use limits::Limits;
pub use mail::Mail;
pub use partner::Partner;
pub use routing::Routing;

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The directory of this instance: data, keys, logs, models. `QUDAO_HOME`.
    pub home: PathBuf,
    /// The HTTP server.
    pub server: Server,
    /// Postgres.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Backups of the private Postgres.
    pub backup: Backup,
    /// Where plugins are and whom to trust.
    pub plugins: Plugins,
    /// Where model files are.
    pub models: Models,
    /// Plugins with settings, and the models that they offer. When none is listed, Qudao runs one
    /// for each default model that was pulled, the echo plugin, and the openai plugin if
    /// `OPENAI_API_KEY` or `QUDAO_OPENAI_BASE_URL` is set.
    pub instances: Vec<Instance>,
    /// The job loops.
    pub worker: Worker,
    /// Bounds on what clients and models may use.
    pub limits: Limits,
    /// How models are watched, and left alone while they fail.
    pub routing: Routing,
    /// Requests to addresses that tenants choose.
    pub egress: Egress,
    /// Channels of partners, over the partner channel protocol.
    pub partner: Partner,
    /// Mails of the platform itself.
    pub mail: Mail,
    /// Whoever runs the platform.
    pub operator: Operator,
    /// What protects the secrets in the database.
    pub security: Security,
    /// What `serve --demo` makes.
    pub demo: Demo,
    /// What is logged, and how.
    pub log: Log,
    /// Traces and metrics.
    pub telemetry: Telemetry,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            home: PathBuf::from(".qudao"),
            server: Server::default(),
            database: Database::default(),
            redis: Redis::default(),
            backup: Backup::default(),
            plugins: Plugins::default(),
            models: Models::default(),
            instances: Vec::new(),
            worker: Worker::default(),
            limits: Limits::default(),
            routing: Routing::default(),
            egress: Egress::default(),
            partner: Partner::default(),
            mail: Mail::default(),
            operator: Operator::default(),
            security: Security::default(),
            demo: Demo::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// The HTTP server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where to listen; port 0 takes a free one. `QUDAO_BIND`.
    pub bind: SocketAddr,
    /// Where to serve `/metrics`; on `bind` when absent.
    pub metrics_bind: Option<SocketAddr>,
    /// What clients call this server, if they reach it through a proxy: `https://chat.example.com`.
    pub public_url: Option<String>,
    /// Seconds for which browsers are told to come by https only; 0 says nothing. Needs a `public_url`
    /// that begins with `https://`.
    pub hsts_s: u64,
    /// Threads that serve HTTP; 0 means one per processor.
    pub workers: usize,
    /// Seconds that replies under way get to finish when the process is told to stop.
    pub drain_timeout_s: u64,
    /// Connections at one time, per thread. What is over it waits to be accepted.
    pub connections_per_worker: usize,
    /// Connections at one time from one address to this node; 0 for no limit. A proxy on the same
    /// machine has no limit.
    pub connections_per_address: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Kibibytes of all headers of a request.
    pub header_kib: usize,
    /// Seconds for the head of a request to arrive.
    pub request_head_timeout_s: u64,
    /// Seconds for a whole body to arrive.
    pub request_body_timeout_s: u64,
    /// Seconds that an idle connection is kept.
    pub keep_alive_s: u64,
    /// Mebibytes of bodies that are held at the same time; what is over it is answered with 503.
    pub bodies_mib: usize,
    /// Seconds between two signs of life on an open chat.
    pub heartbeat_s: u64,
    /// Seconds of silence after which a socket is closed; more than `heartbeat_s`.
    pub socket_idle_s: u64,
    /// Seconds that a client who does not read is waited for.
    pub slow_client_s: u64,
    /// Kibibytes of one message on a socket.
    pub socket_message_kib: usize,
    /// Frames that wait for a slow reader of an event stream.
    pub outgoing_frames: usize,
    /// Messages of one socket that wait to be stored.
    pub waiting_messages: usize,
    /// Open chats (sockets and event streams) of one visitor on this node.
    pub chats_per_visitor: usize,
    /// Open chats of one tenant on this node.
    pub chats_per_tenant: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            metrics_bind: None,
            public_url: None,
            hsts_s: 0,
            workers: 0,
            drain_timeout_s: 20,
            connections_per_worker: 25_000,
            connections_per_address: 1024,
            headers: 64,
            header_kib: 32,
            request_head_timeout_s: 10,
            request_body_timeout_s: 30,
            keep_alive_s: 75,
            bodies_mib: 512,
            heartbeat_s: 15,
            socket_idle_s: 60,
            slow_client_s: 10,
            socket_message_kib: 128,
            outgoing_frames: 64,
            waiting_messages: 16,
            chats_per_visitor: 16,
            chats_per_tenant: 10_000,
        }
    }
}

/// Postgres.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/name`; a private Postgres is started when absent. A
    /// primary and its standbys are parted by commas, `@one:5432,two:5432/name`: the one that
    /// accepts writes is used, and followed when another is promoted. `DATABASE_URL`.
    pub url: Option<Secret>,
    /// The most connections of this node.
    pub max_connections: u32,
    /// Milliseconds that a free connection is waited for; then the request is answered with 503.
    pub acquire_timeout_ms: u64,
    /// Milliseconds that a statement may run.
    pub statement_timeout_ms: u64,
    /// Milliseconds that a statement may wait for a row that another transaction holds.
    pub lock_timeout_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 16,
            acquire_timeout_ms: 2000,
            statement_timeout_ms: 5000,
            lock_timeout_ms: 2000,
        }
    }
}

/// Backups of the private Postgres.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// The folder of backups. When it is set, the private Postgres archives its log there while it
    /// runs, and `qudao backup` and `qudao restore` use it without `--to` and `--from`.
    pub dir: Option<PathBuf>,
    /// Seconds after which what was written is archived at the latest.
    pub archive_timeout_s: u64,
}

impl Default for Backup {
    fn default() -> Self {
        Self { dir: None, archive_timeout_s: 60 }
    }
}

/// Redis.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port/number`, or the servers of a cluster,
    /// `redis-cluster://one:6379,two:6379`; a private Redis is started when absent. `REDIS_URL`.
    pub url: Option<Secret>,
}

/// Where plugins are and whom to trust.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Directories that hold a directory per plugin. When empty: `plugins` in the home,
    /// `dist/plugins` of the source tree, and `../share/qudao/plugins` beside the program.
    pub dirs: Vec<PathBuf>,
    /// The program that runs a plugin in a process of its own; beside this program when absent.
    pub host_binary: Option<PathBuf>,
    /// Public keys, 64 hexadecimal digits each, whose signature on a manifest is accepted. The key
    /// that the shipped plugins were signed with (`signer.pub` beside them) is accepted as well.
    pub trusted_keys: Vec<String>,
    /// Whether plugins without a signature run. A wrong signature is refused all the same.
    pub allow_unsigned: bool,
    /// Whether the process of a plugin is kept from files, sockets and system calls that its
    /// manifest does not declare.
    pub sandbox: Sandbox,
    /// Ids of plugins that may be older than what has run here before, or have lost the signature
    /// that they had.
    pub allow_downgrade: Vec<String>,
}

/// Whether the process of a plugin is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// It is, or does not start: the kernel must offer Landlock and seccomp, and `inproc` is
    /// refused.
    Required,
    /// By whatever the kernel offers; `qudao doctor` says what that is.
    #[default]
    BestEffort,
    /// It is not.
    Off,
}

/// Where model files are.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Where pulled models are kept; `models` in the home when absent.
    pub dir: Option<PathBuf>,
    /// The catalogue that `qudao model pull` reads; `config/models.toml` or the built-in one when
    /// absent.
    pub catalogue: Option<PathBuf>,
}

/// The job loops.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Turns that run at the same time on this node.
    pub turns_in_flight: usize,
    /// Deliveries that run at the same time on this node.
    pub deliveries_in_flight: usize,
    /// Rows that one look at the queue takes at most.
    pub claim_batch: u32,
    /// Milliseconds between two looks at an empty queue when no hint comes.
    pub poll_ms: u64,
    /// Turns of one tenant among them, so that no tenant has them all; 0 for seven eighths.
    pub tenant_turns_in_flight: usize,
    /// Seconds after which another node takes over a turn of which nothing was heard.
    pub turn_lease_s: u64,
    /// Seconds between two signs of life of a turn; less than `turn_lease_s`.
    pub turn_heartbeat_s: u64,
    /// How often a turn is tried before it is given up.
    pub turn_attempts: u32,
    /// Seconds before the second, third, … attempt, at most; the real wait is drawn below it.
    pub turn_backoff_s: Vec<u64>,
    /// Seconds that a turn waits for a model that is still loading.
    pub model_wait_s: u64,
    /// Seconds for which a busy model, or credits that others have set aside, cost a turn no
    /// attempt.
    pub turn_patience_s: u64,
    /// Seconds that a delivery may take.
    pub delivery_lease_s: u64,
    /// Seconds before the second, third, … try of a delivery, at most. What fails once more is
    /// buried.
    pub delivery_backoff_s: Vec<u64>,
    /// Seconds between two looks for what dead nodes left.
    pub sweep_s: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            turns_in_flight: 64,
            deliveries_in_flight: 64,
            claim_batch: 32,
            poll_ms: 200,
            tenant_turns_in_flight: 0,
            turn_lease_s: 30,
            turn_heartbeat_s: 10,
            turn_attempts: 3,
            turn_backoff_s: vec![2, 10, 60],
            model_wait_s: 60,
            turn_patience_s: 900,
            delivery_lease_s: 30,
            delivery_backoff_s: vec![5, 30, 120, 600, 1800, 7200],
            sweep_s: 10,
        }
    }
}

/// Whoever runs the platform.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// The key of the admin API, `qo_` and 43 characters. When absent, one is made at the first
    /// start and kept in the home as `operator_key`. `QUDAO_OPERATOR_KEY`.
    pub key: Option<Secret>,
}

/// What protects the secrets in the database: a master key that is never there. Give every node the
/// same. When neither is set, one is made at the first start and kept in the home as `master.key`;
/// no backup holds it, and without it the secrets of a restored database do not open.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// 32 bytes in base64 (`openssl rand -base64 32`); several, parted by commas, while they are
    /// being exchanged, the new one first. `QUDAO_MASTER_KEY`.
    pub master_key: Option<Secret>,
    /// A file with such keys, one on each line; looked at when `master_key` is absent, and read
    /// again when a node needs a key that it does not have yet.
    pub master_key_file: Option<PathBuf>,
}

/// What `serve --demo` makes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Demo {
    /// The model that answers first; the best local one that is there when absent.
    pub model: Option<String>,
    /// Three capital letters.
    #[schemars(with = "String")]
    pub currency: Currency,
    /// What the demo tenant is given to spend, as a decimal number in quotes.
    #[serde(with = "amount")]
    #[schemars(with = "String")]
    pub credits: Micros,
}

impl Default for Demo {
    fn default() -> Self {
        Self {
            model: None,
            currency: Currency::CNY,
            credits: Micros::new(100 * Micros::UNIT.get()),
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Levels, as `info` or `info,qudao_core=debug`. `QUDAO_LOG`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info,actix_server=warn,sqlx=warn".to_owned() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Pretty,
    /// An object per line.
    Json,
}

/// Traces and metrics.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Where traces go: a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`. No
    /// trace is recorded when absent. Headers for it are given as `OTEL_EXPORTER_OTLP_HEADERS`.
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that is recorded, from 0 to 1; the same on every node, or traces have
    /// gaps. A request that brings a `traceparent` says itself whether it is.
    pub sample_ratio: f64,
    /// Spans that may wait for the collector. What comes when there is no room is dropped and
    /// counted.
    pub queue_spans: usize,
    /// Seconds between two readings of the gauges that describe the database and the machine.
    pub sample_every_s: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0, queue_spans: 8192, sample_every_s: 5 }
    }
}
