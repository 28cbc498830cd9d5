use std::{collections::BTreeSet, fs, path::Path};

use super::*;

/// The metrics that are named in the lines of a folder's code that `wanted` takes.
fn named_in(folder: &Path, wanted: fn(&str) -> bool, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            named_in(&path, wanted, found);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.ends_with("tests.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| wanted(line)) {
                let names = line.split("\"qudao_").skip(1).filter_map(|rest| rest.split_once('"'));
                let names = names.map(|(name, _)| name).filter(|name| is_metric(name));
                found.extend(names.map(|name| format!("qudao_{name}")));
            }
        }
    }
}

/// Roles of the database and crates begin with the same letters.
fn is_metric(rest: &str) -> bool {
    const OTHERS: &[&str] = &["app", "claim", "admin", "sha256", "plugin_entry", "pg_stat"];
    !rest.contains(|letter: char| {
        !letter.is_ascii_lowercase() && letter != '_' && !letter.is_ascii_digit()
    }) && !OTHERS.contains(&rest)
}

#[test]
fn every_metric_in_the_code_is_in_the_catalogue_once_and_the_other_way_round() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut counted = BTreeSet::new();
    for entry in fs::read_dir(crates).unwrap().flatten() {
        let counts = |line: &str| !line.contains("Metric::");
        named_in(&entry.path().join("src"), counts, &mut counted);
    }
    let named: BTreeSet<_> = all().iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(named.len(), all().len(), "a name is listed twice");
    let unlisted: Vec<_> = counted.difference(&named).collect();
    assert!(unlisted.is_empty(), "not in any METRICS list: {unlisted:?}");
    let unused: Vec<_> = named.difference(&counted).collect();
    assert!(unused.is_empty(), "in a METRICS list, and nothing counts it: {unused:?}");
}

#[test]
fn names_say_their_kind_and_unit_as_prometheus_wants_it() {
    use qudao_telemetry::{Kind, Unit};
    for Metric { name, kind, unit, meaning, .. } in all() {
        let total = name.ends_with("_total");
        assert_eq!(kind == Kind::Counter, total, "{name}");
        let base = name.trim_end_matches("_total").trim_end_matches("_max");
        let says = match unit {
            Unit::Seconds => base.ends_with("_seconds"),
            Unit::Bytes => base.ends_with("_bytes"),
            Unit::Micros => base.ends_with("_micros"),
            Unit::Count => !["_seconds", "_bytes", "_micros"].iter().any(|end| base.ends_with(end)),
        };
        assert!(says, "{name} counts {}", unit.as_str());
        assert!(!meaning.is_empty() && !meaning.ends_with('.'), "{name}");
    }
}

#[test]
fn no_label_can_hold_an_id() {
    const OPEN: &[&str] = &["model", "plugin_instance", "endpoint", "method", "status"];
    for metric in all() {
        for label in metric.labels {
            assert!(
                !label.values.is_empty() || OPEN.contains(&label.name),
                "{}: {} takes any value",
                metric.name,
                label.name
            );
        }
    }
}
