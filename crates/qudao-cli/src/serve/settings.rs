//! The operator's settings as each part wants them.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use qudao_channels::{letters::MailServer, partner::Courier};
use qudao_config::{
    DataClass, Instance, Limits, ModelKind, Placement, PluginTimeouts, Routing, Sandbox, Settings,
};
use qudao_core::{
    CoreSettings,
    channel::plan::MailSecurity,
    settings::{RateSettings, RoutingSettings, TurnSettings},
};
use qudao_domain::{key::SecretHash, routing::BreakerSettings};
use qudao_egress::{Egress, Limits as EgressLimits, Rules};
use qudao_pcp::PublicKey;
use qudao_plugin_host::{HostSettings, InstanceSettings, ModelEntry, Timeouts};
use qudao_server::{MetricsRender, ServerSettings};
use qudao_storage::{LimiterSettings, Rate, StoreSettings};
use qudao_telemetry::Kind;
use qudao_worker::WorkerSettings;
use serde_json::Value;

use crate::{catalogue, context::Context as Setup};

/// Installs the recorder of metrics, with every series that is known.
pub(super) fn metrics() -> anyhow::Result<PrometheusHandle> {
    let catalogue = catalogue::all();
    let mut recorder = PrometheusBuilder::new();
    for metric in catalogue.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let name = Matcher::Full(metric.name.to_owned());
        recorder = recorder.set_buckets_for_metric(name, metric.buckets())?;
    }
    let handle = recorder.install_recorder().context("starting the metrics")?;
    qudao_telemetry::register(&catalogue);
    Ok(handle)
}

/// What `/metrics` shows.
pub(super) fn render(metrics: &PrometheusHandle) -> MetricsRender {
    let handle = metrics.clone();
    Arc::new(move || handle.render())
}

pub(super) fn store(context: &Setup, url: &str) -> StoreSettings {
    let database = &context.settings.database;
    StoreSettings {
        max_connections: database.max_connections,
        acquire_timeout: millis(database.acquire_timeout_ms),
        statement_timeout: millis(database.statement_timeout_ms),
        lock_timeout: millis(database.lock_timeout_ms),
        ..StoreSettings::new(url)
    }
}

/// The client for addresses that tenants choose.
pub(super) fn egress(settings: &Settings) -> anyhow::Result<Egress> {
    let egress = &settings.egress;
    let rules = Rules::new(egress.allow_networks.clone(), egress.allow_http, egress.ports.clone())?;
    let limits = EgressLimits {
        connect: millis(egress.connect_timeout_ms),
        total: millis(egress.timeout_ms),
        body_bytes: egress.body_kib << 10,
    };
    Egress::new(rules, limits).context("setting up requests to tenants' addresses")
}

/// What reaches partners' endpoints: a little patience, a small answer.
pub(super) fn courier(settings: &Settings) -> anyhow::Result<Courier> {
    let egress = &settings.egress;
    let rules = Rules::new(egress.allow_networks.clone(), egress.allow_http, egress.ports.clone())?;
    let limits = EgressLimits {
        connect: millis(egress.connect_timeout_ms),
        total: secs(15),
        body_bytes: 64 << 10,
    };
    let client = |rules| Egress::new(rules, limits).context("setting up requests to partners");
    let this_machine = settings.partner.sandbox_this_machine;
    let sandbox = this_machine.then(|| client(rules.with_this_machine())).transpose()?;
    Ok(Courier { public: Some(client(rules)?), sandbox })
}

/// Whose conformance reports are believed.
pub(super) fn report_keys(settings: &Settings) -> anyhow::Result<Vec<PublicKey>> {
    let read = |text: &String| PublicKey::parse(text).context("reading partner.report_keys");
    settings.partner.report_keys.iter().map(read).collect()
}

/// The operator's mail server, if one is set.
pub(super) fn mail_server(settings: &Settings) -> anyhow::Result<Option<MailServer>> {
    let mail = &settings.mail;
    let (Some(text), Some(from)) = (&mail.url, &mail.from) else { return Ok(None) };
    let (scheme, _) = text.split_once("://").unwrap_or_default();
    let (security, port) = match scheme {
        "smtps" => (MailSecurity::Tls, 465),
        "smtp" => (MailSecurity::StartTls, 587),
        _ => (MailSecurity::Plain, 25),
    };
    let url = url::Url::parse(text).context("setting mail.url")?;
    let host = url.host_str().context("setting mail.url: it names no server")?.to_owned();
    if url.password().is_some() || !url.username().is_empty() {
        bail!("setting mail.url: name and password belong into mail.user and mail.password");
    }
    let password = match (&mail.password, &mail.password_file) {
        (Some(password), _) => Some(password.reveal().to_owned()),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("reading mail.password_file {}", file.display()))?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
        (None, None) => None,
    };
    let credentials = match (&mail.user, password) {
        (Some(user), Some(password)) => Some((user.clone(), password)),
        (None, None) => None,
        _ => bail!("mail.user and a password belong together"),
    };
    let port = url.port().unwrap_or(port);
    Ok(Some(MailServer { host, port, security, credentials, from: from.trim().to_owned() }))
}

pub(super) fn core(settings: &Settings) -> CoreSettings {
    let Settings { limits, worker, .. } = settings;
    let turns = TurnSettings {
        lease: secs(worker.turn_lease_s),
        heartbeat: secs(worker.turn_heartbeat_s),
        hard_cap: secs(limits.turn_timeout_s),
        ready_wait: secs(worker.model_wait_s),
        patience: secs(worker.turn_patience_s),
        max_attempts: worker.turn_attempts,
        backoff: worker.turn_backoff_s.iter().copied().map(secs).collect(),
        history_messages: limits.history_messages,
        max_reply_tokens: limits.max_reply_tokens,
        ..TurnSettings::default()
    };
    let mut core = CoreSettings { turns, rates: rates(limits), ..CoreSettings::default() };
    core.public_url.clone_from(&settings.server.public_url);
    core.sends_mail = settings.mail.url.is_some();
    core.api.in_flight = limits.calls_in_flight;
    core.api.tenant_in_flight = match limits.tenant_calls_in_flight {
        0 => (limits.calls_in_flight * 3 / 4).max(1),
        most => most,
    };
    core.api.timeout = secs(limits.call_timeout_s);
    core.api.default_max_tokens = limits.default_max_tokens;
    core.api.settle.max_batch = limits.settle_batch;
    core.api.settle.timeout = secs(limits.settle_timeout_s);
    core.api.blocks.lease = secs(limits.block_lease_s);
    core.api.blocks.renew = core.api.blocks.lease / 3;
    core.backlog.tenant = limits.tenant_backlog;
    core.backlog.platform = limits.platform_backlog;
    core.routing = routing(&settings.routing);
    core
}

fn routing(routing: &Routing) -> RoutingSettings {
    let breaker = BreakerSettings {
        window: secs(routing.breaker_window_s),
        min_calls: routing.breaker_min_calls,
        failure_percent: routing.breaker_failure_percent,
        cooldown: secs(routing.breaker_open_s),
        probes: routing.breaker_probes,
    };
    RoutingSettings { breaker, judge_every: secs(routing.canary_judge_s) }
}

fn rates(limits: &Limits) -> RateSettings {
    // Whoever counts tokens may use a minute's at once.
    let tokens = |per_minute| Rate::per_minute(per_minute, per_minute);
    RateSettings {
        limiter: LimiterSettings {
            nodes: limits.nodes,
            patience: millis(limits.redis_patience_ms),
            rest: millis(limits.redis_rest_ms),
        },
        key: Rate::per_second(limits.requests_per_second, limits.burst),
        tenant: Rate::per_second(limits.tenant_requests_per_second, limits.tenant_burst),
        address: Rate::per_second(limits.address_requests_per_second, limits.address_request_burst),
        key_tokens: tokens(limits.key_tokens_per_minute),
        tenant_tokens: tokens(limits.tenant_tokens_per_minute),
        visitor: Rate::per_minute(limits.visitor_messages_per_minute, limits.visitor_burst),
        chat_address: Rate::per_minute(limits.address_messages_per_minute, limits.address_burst),
        assistant: Rate::per_minute(limits.assistant_messages_per_minute, limits.assistant_burst),
        tenant_messages: Rate::per_minute(
            limits.tenant_messages_per_minute,
            limits.tenant_message_burst,
        ),
        admin: Rate::per_minute(limits.admin_requests_per_minute, limits.admin_burst),
        admin_address: Rate::per_minute(
            limits.admin_address_requests_per_minute,
            limits.admin_address_burst,
        ),
        sign_in: Rate::per_minute(limits.sign_in_attempts_per_minute, limits.sign_in_burst),
        sign_in_address: Rate::per_minute(
            limits.address_sign_in_attempts_per_minute,
            limits.address_sign_in_burst,
        ),
    }
}

pub(super) fn worker(settings: &Settings) -> WorkerSettings {
    let worker = &settings.worker;
    let poll_max = millis(worker.poll_ms);
    WorkerSettings {
        turns_in_flight: worker.turns_in_flight,
        tenant_turns_in_flight: match worker.tenant_turns_in_flight {
            0 => (worker.turns_in_flight * 7 / 8).max(1),
            most => most,
        },
        deliveries_in_flight: worker.deliveries_in_flight,
        claim_batch: worker.claim_batch,
        poll_min: poll_max / 4,
        poll_max,
        delivery_lease: secs(worker.delivery_lease_s),
        delivery_backoff: worker.delivery_backoff_s.iter().copied().map(secs).collect(),
        sweep_every: secs(worker.sweep_s),
    }
}

pub(super) fn server(settings: &Settings, operator_key: SecretHash) -> ServerSettings {
    let Settings { server: from, limits, .. } = settings;
    let mut server = ServerSettings::new(from.bind, operator_key);
    server.public_url.clone_from(&from.public_url);
    server.metrics_bind = from.metrics_bind;
    server.workers = match from.workers {
        0 => available_parallelism().map_or(2, usize::from),
        workers => workers,
    };
    server.drain_timeout = secs(from.drain_timeout_s);
    server.hsts = (from.hsts_s != 0).then(|| secs(from.hsts_s));
    server.limits = qudao_server::Limits {
        body_bytes: limits.body_kib * 1024,
        completion_body_bytes: limits.completion_body_kib * 1024,
        bodies_bytes: from.bodies_mib * 1024 * 1024,
        headers: from.headers,
        header_bytes: from.header_kib * 1024,
        connections_per_worker: from.connections_per_worker,
        connections_per_address: from.connections_per_address,
        request_head_timeout: secs(from.request_head_timeout_s),
        request_body_timeout: secs(from.request_body_timeout_s),
        keep_alive: secs(from.keep_alive_s),
        heartbeat: secs(from.heartbeat_s),
        socket_idle_timeout: secs(from.socket_idle_s),
        slow_client_timeout: secs(from.slow_client_s),
        socket_message_bytes: from.socket_message_kib * 1024,
        outgoing_frames: from.outgoing_frames,
        waiting_messages: from.waiting_messages,
        chats_per_visitor: from.chats_per_visitor,
        chats_per_tenant: from.chats_per_tenant,
        ..qudao_server::Limits::default()
    };
    server
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Plugins of the operator's directories, and of those that came with this program.
pub(crate) fn plugin_host(context: &Setup, instances: &[Instance]) -> anyhow::Result<HostSettings> {
    let plugins = &context.settings.plugins;
    let host_binary = match &plugins.host_binary {
        Some(path) => path.clone(),
        None => Setup::program_dir().unwrap_or_default().join("qudao-plugin-host"),
    };
    Ok(HostSettings {
        plugin_dirs: context.plugin_dirs(),
        state_dir: context.home.join("plugins-state"),
        host_binary,
        trusted_keys: context.trusted_keys()?,
        allow_unsigned: plugins.allow_unsigned,
        sandbox: match plugins.sandbox {
            Sandbox::Required => qudao_plugin_host::Sandbox::Required,
            Sandbox::BestEffort => qudao_plugin_host::Sandbox::BestEffort,
            Sandbox::Off => qudao_plugin_host::Sandbox::Off,
        },
        allow_downgrade: plugins.allow_downgrade.clone(),
        instances: instances.iter().map(instance).collect(),
    })
}

fn instance(from: &Instance) -> InstanceSettings {
    InstanceSettings {
        name: from.name.clone(),
        plugin: from.plugin.clone(),
        placement: match from.placement {
            Placement::Process => qudao_plugin_host::Placement::Process,
            Placement::Inproc => qudao_plugin_host::Placement::Inproc,
        },
        models: from.models.iter().map(model).collect(),
        config: Value::Object(from.config.clone().into_iter().collect()),
        max_concurrency: from.max_concurrency.unwrap_or(0),
        timeouts: timeouts(&from.timeouts),
        env: from.env.clone(),
    }
}

fn timeouts(from: &PluginTimeouts) -> Timeouts {
    Timeouts {
        load: from.load_s.map(secs),
        first_token: from.first_token_s.map(secs),
        inter_token: from.inter_token_s.map(secs),
        total: from.total_s.map(secs),
        cancel_grace: from.cancel_grace_s.map(secs),
        drain: from.drain_s.map(secs),
    }
}

fn model(from: &qudao_config::Model) -> ModelEntry {
    ModelEntry {
        name: from.name.clone(),
        upstream: from.upstream.clone(),
        kind: match from.kind {
            ModelKind::Chat => qudao_plugin_host::ModelKind::Chat,
            ModelKind::Embed => qudao_plugin_host::ModelKind::Embed,
            ModelKind::Classify => qudao_plugin_host::ModelKind::Classify,
            ModelKind::Detect => qudao_plugin_host::ModelKind::Detect,
            ModelKind::Transcribe => qudao_plugin_host::ModelKind::Transcribe,
        },
        context_tokens: from.context_tokens,
        max_output_tokens: from.max_output_tokens,
        data_class: match from.data_class {
            DataClass::Local => qudao_plugin_host::DataClass::Local,
            DataClass::Remote => qudao_plugin_host::DataClass::Remote,
        },
    }
}

#[cfg(test)]
mod tests;
