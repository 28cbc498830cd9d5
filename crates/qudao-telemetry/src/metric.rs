//! The catalogue: every metric that a crate counts has an entry in the list of its crate, and
//! every series whose labels are known is there, at zero, from the first second.

use std::fmt::Write as _;

/// What kind of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts anew with the process.
    Counter,
    /// A present value.
    Gauge,
    /// Counts in buckets, with `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// As Prometheus says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What the numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Time.
    Seconds,
    /// Memory.
    Bytes,
    /// Millionths of a unit of currency.
    Micros,
}

impl Unit {
    /// As the reference says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Micros => "micros",
        }
    }
}

/// A label and its values.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values there can be; empty where they come from the settings, such as names of models.
    /// Never an id, never anything that a client chooses.
    pub values: &'static [&'static str],
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind of series.
    pub kind: Kind,
    /// What the numbers count.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it means, in a sentence or two without a full stop.
    pub meaning: &'static str,
}

impl Metric {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, meaning: &'static str) -> Self {
        Self { name, kind: Kind::Counter, unit: Unit::Count, labels: &[], meaning }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, meaning: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, unit: Unit::Count, labels: &[], meaning }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, unit: Unit, meaning: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, unit, labels: &[], meaning }
    }

    /// The same in another unit.
    #[must_use]
    pub const fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// The same with labels.
    #[must_use]
    pub const fn by(mut self, labels: &'static [Label]) -> Self {
        self.labels = labels;
        self
    }

    /// The buckets of a histogram.
    #[must_use]
    pub const fn buckets(&self) -> &'static [f64] {
        match self.unit {
            Unit::Seconds => &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                60.0, 300.0,
            ],
            Unit::Count => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
            Unit::Bytes => &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8],
            Unit::Micros => &[1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8],
        }
    }

    /// Every combination of values of its labels; none where some come from the settings.
    fn series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            all = all
                .iter()
                .flat_map(|before| {
                    label.values.iter().map(move |value| {
                        let mut labels: Vec<_> = before.clone();
                        labels.push((label.name, *value));
                        labels
                    })
                })
                .collect();
        }
        all
    }
}

/// Describes the metrics to the recorder, and makes every series whose labels are known.
pub fn register(metrics: &[Metric]) {
    for metric in metrics {
        let name = metric.name;
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(name, metric.meaning),
            Kind::Gauge => metrics::describe_gauge!(name, metric.meaning),
            Kind::Histogram => metrics::describe_histogram!(name, metric.meaning),
        }
        for labels in metric.series() {
            match metric.kind {
                Kind::Counter => metrics::counter!(name, &labels).increment(0),
                Kind::Gauge => metrics::gauge!(name, &labels).increment(0.0),
                // Its handle alone makes the series.
                Kind::Histogram => drop(metrics::histogram!(name, &labels)),
            }
        }
    }
}

/// The reference page.
#[must_use]
pub fn reference_markdown(metrics: &[Metric]) -> String {
    let mut page = String::from(HEAD);
    let mut sorted: Vec<_> = metrics.iter().collect();
    sorted.sort_by_key(|metric| metric.name);
    for metric in sorted {
        let labels: Vec<_> = metric.labels.iter().map(describe).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("; ") };
        let Metric { name, kind, unit, meaning, .. } = metric;
        let (kind, unit) = (kind.as_str(), unit.as_str());
        let _ = writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {meaning}. |");
    }
    page
}

fn describe(label: &Label) -> String {
    if label.values.is_empty() {
        return format!("`{}`", label.name);
    }
    format!("`{}`: {}", label.name, label.values.join(", "))
}

const HEAD: &str = "\
# Metrics

<!-- Written from the `METRICS` lists of the crates; change them there. -->

What `/metrics` shows, in Prometheus' text format. Every series whose labels are listed with their
values is there from the first second, at zero; where a label has no values here, they are the names
in this node's settings (models, instances, endpoints). No label holds an id or what a client sent.

A counter starts at zero with each process. Gauges that describe the database or the machine are read
every `telemetry.sample_every_s` seconds; those of the database say the same on every node that
reaches it, so take `max`, not `sum`, over nodes.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_a_series_for_every_combination_of_known_values() {
        const METRIC: Metric = Metric::counter("c", "counts").by(&[
            Label { name: "a", values: &["1", "2"] },
            Label { name: "b", values: &["x", "y"] },
        ]);
        let series = METRIC.series();
        assert_eq!(series.len(), 4);
        assert!(series.contains(&vec![("a", "2"), ("b", "x")]));
        const OPEN: Metric = METRIC.by(&[Label { name: "model", values: &[] }]);
        assert!(OPEN.series().is_empty());
    }
}
