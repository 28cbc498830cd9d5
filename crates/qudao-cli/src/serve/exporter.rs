//! Sends the spans that ended to a collector, as OTLP over HTTP.
//!
//! A collector that is slow or gone costs spans and nothing else: they are taken from a bounded
//! queue whose other end never waits, and each try has a limit.

use std::time::Duration;

use anyhow::Context as _;
use metrics::{counter, gauge};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use qudao_config::Telemetry;
use qudao_domain::NodeId;
use qudao_telemetry::{FinishedSpan, Recorder, SpanQueue};
use tokio::{task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::args::Role;

mod otlp;

/// Spans of one request to the collector.
const BATCH: usize = 512;
/// How long spans gather before they are sent.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last spans may take at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// The task that sends.
pub(super) struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// From now on spans are recorded and sent; `None` if no collector is set.
    pub(super) fn start(
        settings: &Telemetry,
        node: NodeId,
        role: Role,
    ) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let mut sender = sender(endpoint).context("setting telemetry.otlp_endpoint")?;
        sender.set_resource(&resource(node, role));
        let recorder = Recorder { share: settings.sample_ratio, queue: settings.queue_spans };
        let Some(spans) = qudao_telemetry::install(recorder) else { return Ok(None) };
        gauge!("qudao_traces_enabled").set(1);
        let stop = CancellationToken::new();
        let line = Line { sender, spans, batch: Vec::with_capacity(BATCH), takes: true };
        // Awaited by `flush`.
        let task = TaskTracker::new().spawn(line.run(stop.clone()));
        Ok(Some(Self { stop, task }))
    }

    /// Sends what is left, for a moment at most.
    pub(super) async fn flush(self) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if time::timeout(FAREWELL, self.task).await.is_err() {
            abort.abort();
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

fn sender(endpoint: &str) -> anyhow::Result<SpanExporter> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .timeout(PATIENCE)
        .build()?;
    let base = endpoint.trim_end_matches('/');
    let endpoint =
        if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
    let sender = SpanExporter::builder().with_http().with_http_client(client);
    Ok(sender.with_endpoint(endpoint).with_timeout(PATIENCE).build()?)
}

/// Who sends. `OTEL_RESOURCE_ATTRIBUTES` adds to it.
fn resource(node: NodeId, role: Role) -> Resource {
    Resource::builder()
        .with_service_name("qudao")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.to_string()),
            KeyValue::new("qudao.role", format!("{role:?}").to_lowercase()),
        ])
        .build()
}

/// The way from the queue to the collector.
struct Line {
    sender: SpanExporter,
    spans: SpanQueue,
    batch: Vec<FinishedSpan>,
    /// Whether the collector took the last batch: a change is logged, not each failure.
    takes: bool,
}

impl Line {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = time::sleep(PAUSE) => {}
            }
            while self.gather() {
                tokio::select! {
                    biased;
                    () = self.send() => {}
                    () = stop.cancelled() => break,
                }
                if stop.is_cancelled() {
                    break;
                }
            }
        }
        self.spans.close();
        // One that was interrupted is sent once more; the collector knows spans by their ids.
        while !self.batch.is_empty() || self.gather() {
            self.send().await;
        }
    }

    /// Fills the batch with what is there. Whether that is anything.
    fn gather(&mut self) -> bool {
        while self.batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            self.batch.push(span);
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more")]
        gauge!("qudao_spans_waiting").set(self.spans.len() as f64);
        !self.batch.is_empty()
    }

    async fn send(&mut self) {
        let spans: Vec<_> = self.batch.iter().cloned().map(otlp::span).collect();
        let sent = time::timeout(PATIENCE, self.sender.export(spans)).await;
        let number = self.batch.len() as u64;
        self.batch.clear();
        let takes = matches!(sent, Ok(Ok(())));
        if takes {
            counter!("qudao_spans_exported_total").increment(number);
        } else {
            counter!("qudao_spans_dropped_total", "why" => "export_failed").increment(number);
        }
        match (self.takes, takes) {
            (true, false) => tracing::warn!("the collector takes no spans: they are dropped"),
            (false, true) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        self.takes = takes;
    }
}
