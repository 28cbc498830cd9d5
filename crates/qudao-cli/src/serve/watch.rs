//! Reads what no event tells, every few seconds, into the gauges: queues, connections, plugins,
//! backups, and the process itself.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use qudao_config::Settings;
use qudao_core::Core;
use tokio::{task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The task that reads.
pub(super) struct Watch {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Watcher {
    core: Arc<Core>,
    metrics: PrometheusHandle,
    backups: Option<PathBuf>,
    started: Instant,
    /// Whether the last reading of the database succeeded: a change is logged, not each failure.
    reads: bool,
}

impl Watch {
    /// Reads once, so that nobody sees a node without its numbers, and then again and again.
    pub(super) async fn start(
        core: Arc<Core>,
        metrics: PrometheusHandle,
        settings: &Settings,
    ) -> Self {
        let backups = settings.backup.dir.clone();
        let started = Instant::now();
        let mut watcher = Watcher { core, metrics, backups, started, reads: true };
        watcher.look().await;
        let stop = CancellationToken::new();
        let every = Duration::from_secs(settings.telemetry.sample_every_s);
        // Awaited by `stop`.
        let task = TaskTracker::new().spawn(watcher.run(every, stop.clone()));
        Self { stop, task }
    }

    /// Ends it: the database is about to be closed.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Watcher {
    async fn run(mut self, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(every) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    async fn look(&mut self) {
        // Observations of histograms gather in memory until somebody sorts them into buckets.
        self.metrics.run_upkeep();
        gauge!("qudao_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        gauge!("qudao_process_uptime_seconds").set(self.started.elapsed());
        tell_process();
        self.tell_backups();
        self.core.watch();
        self.core.plugins.watch();
        let (read, ()) = tokio::join!(self.core.store.watch(), self.core.bus.watch());
        match (self.reads, &read) {
            (true, Err(error)) => tracing::warn!(%error, "the depths of the queues are not read"),
            (false, Ok(())) => tracing::info!("the depths of the queues are read again"),
            _ => {}
        }
        self.reads = read.is_ok();
    }

    fn tell_backups(&self) {
        gauge!("qudao_backup_configured").set(f64::from(u8::from(self.backups.is_some())));
        let Some(dir) = &self.backups else { return };
        let times = qudao_services::backup_times(dir);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        gauge!("qudao_backups").set(times.len() as f64);
        let now = self.core.clock.now();
        let age = times.last().map_or(0.0, |at| now.duration_since(*at).as_secs_f64());
        gauge!("qudao_backup_age_seconds").set(age);
    }
}

fn tell_process() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    gauge!("qudao_process_resident_bytes").set(number("VmRSS:") * 1024.0);
    gauge!("qudao_process_threads").set(number("Threads:"));
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    #[expect(clippy::cast_precision_loss, reason = "gauges need no more")]
    {
        gauge!("qudao_process_open_fds").set(open as f64);
        if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            gauge!("qudao_process_fds_max").set(most as f64);
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds =
                |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            let used = seconds(usage.user_time()) + seconds(usage.system_time());
            gauge!("qudao_process_cpu_seconds").set(used);
        }
    }
}
