//! The operator's settings as each part wants them.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use qudao_config::{DataClass, Instance, ModelKind, Placement, Settings};
use qudao_core::CoreSettings;
use qudao_domain::key::SecretHash;
use qudao_plugin_host::{HostSettings, InstanceSettings, ModelEntry, Timeouts};
use qudao_server::{MetricsRender, ServerSettings};
use qudao_storage::StoreSettings;
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
    let max_connections = context.settings.database.max_connections;
    StoreSettings { max_connections, ..StoreSettings::new(url) }
}

pub(super) fn core(settings: &Settings) -> CoreSettings {
    let limits = &settings.limits;
    let mut core = CoreSettings::default();
    core.turns.hard_cap = Duration::from_secs(limits.turn_timeout_s);
    core.turns.history_messages = limits.history_messages;
    core.turns.max_reply_tokens = limits.max_reply_tokens;
    core.api.requests_per_second = Some(limits.requests_per_second).filter(|rate| 0 < *rate);
    core.api.burst = limits.burst;
    core.api.timeout = Duration::from_secs(limits.call_timeout_s);
    core.api.default_max_tokens = limits.default_max_tokens;
    core
}

pub(super) fn worker(settings: &Settings) -> WorkerSettings {
    let worker = &settings.worker;
    let poll_max = Duration::from_millis(worker.poll_ms);
    WorkerSettings {
        turns_in_flight: worker.turns_in_flight,
        deliveries_in_flight: worker.deliveries_in_flight,
        claim_batch: worker.claim_batch,
        poll_min: poll_max / 4,
        poll_max,
        ..WorkerSettings::default()
    }
}

pub(super) fn server(settings: &Settings, operator_key: SecretHash) -> ServerSettings {
    let mut server = ServerSettings::new(settings.server.bind, operator_key);
    server.metrics_bind = settings.server.metrics_bind;
    server.workers = match settings.server.workers {
        0 => available_parallelism().map_or(2, usize::from),
        workers => workers,
    };
    server.drain_timeout = Duration::from_secs(settings.server.drain_timeout_s);
    let limits = &settings.limits;
    server.limits.visitor_messages_per_minute = limits.visitor_messages_per_minute;
    server.limits.visitor_burst = limits.visitor_burst;
    server.limits.address_messages_per_minute = limits.address_messages_per_minute;
    server.limits.address_burst = limits.address_burst;
    server.limits.body_bytes = limits.body_kib * 1024;
    server.limits.completion_body_bytes = limits.completion_body_kib * 1024;
    server
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
        timeouts: Timeouts::default(),
        env: from.env.clone(),
    }
}

fn model(from: &qudao_config::Model) -> ModelEntry {
    ModelEntry {
        name: from.name.clone(),
        upstream: from.upstream.clone(),
        kind: match from.kind {
            ModelKind::Chat => qudao_plugin_host::ModelKind::Chat,
        },
        context_tokens: from.context_tokens,
        max_output_tokens: from.max_output_tokens,
        data_class: match from.data_class {
            DataClass::Local => qudao_plugin_host::DataClass::Local,
            DataClass::Remote => qudao_plugin_host::DataClass::Remote,
        },
    }
}
