//! What the alert rules and the dashboard name is there, from the first second.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::{Duration, Instant},
};

use promql_parser::{
    label::MatchOp,
    parser::{self, Expr, VectorSelector},
    util::{ExprVisitor, walk_expr},
};
use serde_json::Value;

use crate::{
    platform::{Platform, workspace},
    visitor::Visitor,
};

/// Labels whose values come with the traffic, or from Prometheus itself.
const OPEN: &[&str] = &["status", "instance", "job"];

#[derive(Default)]
struct Selectors(Vec<VectorSelector>);

impl ExprVisitor for Selectors {
    type Error = ();

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::VectorSelector(selector) => self.0.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.0.push(matrix.vs.clone()),
            _ => {}
        }
        Ok(true)
    }
}

fn selectors(expression: &str) -> Vec<VectorSelector> {
    let plain = expression.replace("$__rate_interval", "5m");
    let parsed = parser::parse(&plain);
    let mut found = Selectors::default();
    walk_expr(&mut found, &parsed.unwrap_or_else(|error| panic!("{expression}: {error}"))).unwrap();
    found.0
}

fn alerts() -> Vec<serde_yaml_ng::Value> {
    let text = fs::read_to_string(workspace().join("deploy/prometheus/alerts.yml")).unwrap();
    let rules: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap().clone()).collect()
}

fn dashboard_expressions() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("deploy/grafana/qudao.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The labels of every series, by name.
fn series(page: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        found.entry(name.to_owned()).or_default().push(labels.trim_end_matches('}').to_owned());
    }
    found
}

/// The value of one series, 0 if it is not there.
pub(crate) async fn value(platform: &Platform, series: &str) -> f64 {
    let page = platform.metrics().await;
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn every_series_that_an_alert_or_a_panel_asks_for_exists_on_a_fresh_platform() {
    let platform = Platform::start().await;
    let present = series(&platform.metrics().await);
    let rules = alerts();
    let asked = rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let mut asked_names = BTreeSet::new();
    for expression in asked.chain(dashboard_expressions()) {
        let selectors = selectors(&expression);
        assert!(!selectors.is_empty(), "{expression} asks for nothing");
        for selector in selectors {
            let name = selector.name.clone().unwrap();
            if name == "up" {
                continue;
            }
            let known = present.get(&name);
            let known = known.unwrap_or_else(|| panic!("{expression}: there is no {name}"));
            for matcher in &selector.matchers.matchers {
                if matcher.op != MatchOp::Equal || OPEN.contains(&matcher.name.as_str()) {
                    continue;
                }
                let wanted = format!("{}=\"{}\"", matcher.name, matcher.value);
                let has = known.iter().any(|labels| labels.split(',').any(|label| label == wanted));
                assert!(has, "{expression}: no {name} has {wanted}");
            }
            asked_names.insert(name);
        }
    }
    // Who adds a metric and never looks at it has not added anything.
    let base = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let asked_names: BTreeSet<_> = asked_names.iter().map(|name| base(name)).collect();
    let unseen: Vec<_> = present.keys().filter(|name| !asked_names.contains(&base(name))).collect();
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

#[tokio::test]
async fn the_reference_page_lists_what_a_platform_with_traffic_shows_and_nothing_else() {
    let platform = Platform::start().await;
    let mut visitor = Visitor::arrive(&platform).await;
    visitor.say("m1", "one two three").await;
    assert_eq!(visitor.reply().await["text"], "one two three");
    // A turn is counted after its answer went out.
    let begun = Instant::now();
    while value(&platform, "qudao_turns_total{outcome=\"answered\"}").await <= 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the turn is not counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = platform.metrics().await;
    let described: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            format!("`{name}` | {kind}")
        })
        .collect();
    let reference = fs::read_to_string(workspace().join("docs/metrics.md")).unwrap();
    let listed: BTreeSet<_> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `qudao_"))
        .map(|line| {
            let mut cells = line.split(" | ");
            format!("`qudao_{} | {}", cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    assert_eq!(described, listed);
    let tenant = platform.text("tenant_id").trim_start_matches("ten_");
    assert!(!page.contains(tenant), "a label holds an id");
}

#[test]
fn every_alert_says_what_it_means_and_the_guide_what_to_do() {
    let guide = fs::read_to_string(workspace().join("docs/operator.md")).unwrap();
    let rules = alerts();
    assert!(30 < rules.len());
    let mut names = BTreeSet::new();
    for rule in &rules {
        let text = |value: &serde_yaml_ng::Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&rule["alert"]);
        assert!(names.insert(name.clone()), "{name} is there twice");
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        let patience = text(&rule["for"]);
        let number = patience.strip_suffix('m').and_then(|minutes| minutes.parse::<u32>().ok());
        assert!(number.is_some(), "{name}: for {patience}");
        for about in ["summary", "description"] {
            assert!(!text(&rule["annotations"][about]).is_empty(), "{name} has no {about}");
        }
        let runbook = format!("docs/operator.md#{}", name.to_lowercase());
        assert_eq!(text(&rule["annotations"]["runbook"]), runbook);
        let heading = format!("\n#### {name}\n");
        assert!(guide.contains(&heading), "docs/operator.md has no heading {name}");
    }
}

#[test]
fn the_rules_are_what_prometheus_takes_and_the_example_loads_them() {
    let folder = workspace().join("deploy/prometheus");
    let text = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
    let example: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(example["rule_files"][0], "alerts.yml");
    assert_eq!(example["scrape_configs"][0]["job_name"], "qudao");
    for rule in alerts() {
        let keys: Vec<_> =
            rule.as_mapping().unwrap().keys().filter_map(|key| key.as_str()).collect();
        assert_eq!(keys, ["alert", "expr", "for", "labels", "annotations"]);
    }
    // Where Prometheus is installed, it has the last word.
    let checked = Command::new("promtool")
        .arg("check")
        .arg("config")
        .arg(folder.join("prometheus.yml"))
        .output();
    if let Ok(output) = checked {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
