//! The metrics of this crate: how the plugins and their models are.

use std::{sync::atomic::Ordering, time::Duration};

use metrics::{counter, gauge};
use qudao_telemetry::{Label, Metric, Unit};

use crate::{CallError, PluginHost, instance::Instance};

const INSTANCE: Label = Label { name: "plugin_instance", values: &[] };
const STATES: &[&str] = &["loading", "ready", "degraded", "failed", "quarantined"];

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::gauge("qudao_plugin_state", "1 at the state that the instance is in; `quarantined` is the breaker that opens after five crashes within a minute")
        .by(&[INSTANCE, Label { name: "state", values: STATES }]),
    Metric::gauge("qudao_model_ready", "1 if the model takes calls on this node")
        .by(&[Label { name: "model", values: &[] }]),
    Metric::gauge("qudao_plugin_generation", "Which start of the instance serves; 0 for none").by(&[INSTANCE]),
    Metric::counter("qudao_plugin_starts_total", "Starts of the instance: the first, those after a crash, and reloads").by(&[INSTANCE]),
    Metric::gauge("qudao_plugin_start_seconds", "How long the last start took until the instance was ready")
        .in_unit(Unit::Seconds).by(&[INSTANCE]),
    Metric::counter("qudao_plugin_crashes_total", "Ends of the plugin's process that nobody asked for, and starts that failed after one").by(&[INSTANCE]),
    Metric::counter("qudao_plugin_violations_total", "Events of the plugin that broke the rules of the ABI").by(&[INSTANCE]),
    Metric::gauge("qudao_plugin_in_flight", "Calls that occupy a place of the instance").by(&[INSTANCE]),
    Metric::gauge("qudao_plugin_in_flight_max", "How many places the instance has; a call beyond them is refused as `overloaded`").by(&[INSTANCE]),
    Metric::gauge("qudao_plugin_retries_waiting", "Calls that a crash took away and that wait to be made again").by(&[INSTANCE]),
    Metric::gauge("qudao_plugin_memory_bytes", "Resident memory of the plugin's process; 0 where it runs in this one")
        .in_unit(Unit::Bytes).by(&[INSTANCE]),
    Metric::counter("qudao_model_errors_total", "Calls of a model that ended without an answer, by what kind of failure")
        .by(&[INSTANCE, Label { name: "class", values: CLASSES }]),
];

/// Every [`CallError::class`].
const CLASSES: &[&str] = &[
    "unknown_model",
    "not_ready",
    "overloaded",
    "poison",
    "crashed",
    "timeout",
    "provider_auth",
    "provider_unknown_model",
    "provider_rate_limited",
    "provider_unavailable",
    "provider_bad_request",
    "provider_timeout",
    "provider_content_filter",
    "provider_overloaded",
    "provider_internal",
    "protocol",
    "cancelled",
];

pub(crate) fn count_error(instance: &str, error: &CallError) {
    let labels = [("plugin_instance", instance.to_owned()), ("class", error.class().to_owned())];
    counter!("qudao_model_errors_total", &labels).increment(1);
}

/// Makes the series of an instance, at zero.
pub(crate) fn register_errors(instance: &str) {
    for class in CLASSES {
        let labels = [("plugin_instance", instance.to_owned()), ("class", (*class).to_owned())];
        counter!("qudao_model_errors_total", &labels).increment(0);
    }
}

pub(crate) fn started(instance: &str, took: Duration) {
    gauge!("qudao_plugin_start_seconds", "plugin_instance" => instance.to_owned()).set(took);
}

impl PluginHost {
    /// Tells the gauges how the instances and models are.
    pub fn watch(&self) {
        for instance in self.0.instances() {
            tell(&instance);
            let ready = f64::from(u8::from(instance.serves()));
            for entry in &instance.settings.models {
                gauge!("qudao_model_ready", "model" => entry.name.clone()).set(ready);
            }
        }
    }
}

fn tell(instance: &Instance) {
    let name = &instance.settings.name;
    let word = instance.state().as_str();
    for state in STATES {
        let labels = [("plugin_instance", name.clone()), ("state", (*state).to_owned())];
        gauge!("qudao_plugin_state", &labels).set(f64::from(u8::from(*state == word)));
    }
    let current = instance.current();
    let memory = current
        .as_ref()
        .and_then(|generation| generation.child())
        .map_or(0.0, |child| resident_bytes(child.pid()));
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let set = |metric: &'static str, number: u64| {
        gauge!(metric, "plugin_instance" => name.clone()).set(number as f64);
    };
    let count = |metric: &'static str, number: u64| {
        counter!(metric, "plugin_instance" => name.clone()).absolute(number);
    };
    let places = instance.terms().max_concurrency;
    set("qudao_plugin_generation", current.map_or(0, |generation| generation.number));
    set("qudao_plugin_in_flight", instance.slots.taken() as u64);
    set("qudao_plugin_in_flight_max", u64::from(places));
    set("qudao_plugin_retries_waiting", instance.waiting() as u64);
    count("qudao_plugin_starts_total", instance.starts());
    count("qudao_plugin_crashes_total", instance.crashes.load(Ordering::Relaxed));
    count("qudao_plugin_violations_total", instance.violations.load(Ordering::Relaxed));
    gauge!("qudao_plugin_memory_bytes", "plugin_instance" => name.clone()).set(memory);
    // Made with the first look, so that a start that never succeeds shows too.
    gauge!("qudao_plugin_start_seconds", "plugin_instance" => name.clone()).increment(0.0);
}

/// What a process has in memory; 0 when it is gone.
fn resident_bytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}
