//! Every metric of the platform: the lists of the crates, and those of the process itself.

use qudao_telemetry::{Label, Metric, Unit};

/// Those of the process.
const METRICS: &[Metric] = &[
    Metric::gauge("qudao_build_info", "1, with the version of this program")
        .by(&[Label { name: "version", values: &[env!("CARGO_PKG_VERSION")] }]),
    Metric::gauge("qudao_process_uptime_seconds", "How long this process has run").in_unit(Unit::Seconds),
    Metric::gauge("qudao_process_cpu_seconds", "Processor time that this process has used, without its children")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_process_resident_bytes", "Resident memory of this process, without its children")
        .in_unit(Unit::Bytes),
    Metric::gauge("qudao_process_open_fds", "File descriptors that this process has open"),
    Metric::gauge("qudao_process_fds_max", "How many file descriptors it may have open"),
    Metric::gauge("qudao_process_threads", "Threads of this process"),
    Metric::gauge("qudao_backup_configured", "1 if a folder of backups is set (`backup.dir`)"),
    Metric::gauge("qudao_backups", "Complete backups in that folder"),
    Metric::gauge("qudao_backup_age_seconds", "How long ago the newest of them was begun; 0 if there is none")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_traces_enabled", "1 if traces are sent to a collector"),
    Metric::counter("qudao_spans_exported_total", "Spans that the collector took"),
    Metric::counter("qudao_spans_dropped_total", "Spans that were dropped: no room in the queue, ended after the exporter, or not taken by the collector")
        .by(&[Label { name: "why", values: &["queue_full", "closed", "export_failed"] }]),
    Metric::gauge("qudao_spans_waiting", "Spans that wait for the collector"),
];

/// Every metric.
pub(crate) fn all() -> Vec<Metric> {
    [
        METRICS,
        qudao_storage::METRICS,
        qudao_plugin_host::METRICS,
        qudao_egress::METRICS,
        qudao_channels::letters::METRICS,
        qudao_channels::partner::METRICS,
        qudao_core::METRICS,
        qudao_channels::METRICS,
        qudao_server::METRICS,
        qudao_worker::METRICS,
    ]
    .concat()
}

#[cfg(test)]
mod tests;
