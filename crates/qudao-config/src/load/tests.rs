use std::fs;

use super::*;

fn from_text(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qudao.toml");
    fs::write(&file, text).unwrap();
    let variables =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(&file), variables).map(|loaded| loaded.settings)
}

fn refusal(text: &str, environment: &[(&str, &str)]) -> String {
    from_text(text, environment).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let settings = from_text("", &[]).unwrap();
    assert_eq!(settings.server.bind.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.home, Path::new(".qudao"));
    assert!(settings.database.url.is_none());
}

#[test]
fn the_environment_goes_over_the_file() {
    let text = "[server]\nbind = \"127.0.0.1:1000\"\nworkers = 3\n[limits]\nburst = 5\n";
    let environment = [
        ("QUDAO_BIND", "127.0.0.1:2000"),
        ("QUDAO__LIMITS__BURST", "7"),
        ("QUDAO__PLUGINS__ALLOW_UNSIGNED", "true"),
        ("QUDAO__PLUGINS__DIRS", "/a,/b"),
        ("DATABASE_URL", "postgres://somewhere/db"),
        ("UNRELATED", "x"),
    ];
    let settings = from_text(text, &environment).unwrap();
    assert_eq!(settings.server.bind.port(), 2000);
    assert_eq!((settings.server.workers, settings.limits.burst), (3, 7));
    assert!(settings.plugins.allow_unsigned);
    assert_eq!(settings.plugins.dirs, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(settings.database.url.unwrap().reveal(), "postgres://somewhere/db");
}

#[test]
fn an_empty_variable_is_no_variable() {
    let settings = from_text("", &[("DATABASE_URL", ""), ("QUDAO_BIND", "")]).unwrap();
    assert!(settings.database.url.is_none());
}

#[test]
fn a_key_that_does_not_exist_is_named() {
    for (text, key) in [
        ("[server]\nbnd = \"127.0.0.1:1\"\n", "bnd"),
        ("[sever]\n", "sever"),
        (
            "[[instances]]\nname = \"a\"\nplugin = \"b\"\nmodels = [{ name = \"m\", contxt = 1 }]\n",
            "contxt",
        ),
    ] {
        let refusal = refusal(text, &[]);
        assert!(refusal.contains(key), "{refusal}");
    }
    let refusal = refusal("", &[("QUDAO__SERVER__BND", "x")]);
    assert!(refusal.contains("server") && refusal.contains("bnd"), "{refusal}");
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_key() {
    for (text, key) in [
        ("[server]\nbind = \"nowhere\"\n", "server.bind"),
        ("[worker]\nclaim_batch = \"many\"\n", "worker.claim_batch"),
        ("[demo]\ncredits = \"lots\"\n", "demo.credits"),
        ("[log]\nformat = \"xml\"\n", "log.format"),
    ] {
        let refusal = refusal(text, &[]);
        assert!(refusal.starts_with(&format!("setting {key}: ")), "{refusal}");
    }
    let refusal = refusal("", &[("QUDAO_BIND", "nowhere")]);
    assert!(refusal.starts_with("setting server.bind: "), "{refusal}");
}

#[test]
fn every_value_out_of_bounds_is_reported_at_once() {
    let text = "[worker]\nclaim_batch = 0\n[limits]\nburst = 0\naddress_burst = 0\n[database]\nurl = \"mysql://x\"\n\
                [telemetry]\notlp_endpoint = \"collector:4317\"\nsample_ratio = 1.5\n";
    let Err(ConfigError::Values(problems)) = from_text(text, &[]) else { panic!("refused") };
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "database.url",
            "worker.claim_batch",
            "limits.burst",
            "limits.address_burst",
            "telemetry.otlp_endpoint",
            "telemetry.sample_ratio",
        ]
    );
}

#[test]
fn a_bound_that_makes_no_sense_is_refused_with_its_key() {
    for key in [
        "server.connections_per_worker",
        "server.headers",
        "server.bodies_mib",
        "server.chats_per_visitor",
        "database.acquire_timeout_ms",
        "worker.turn_attempts",
        "worker.delivery_lease_s",
        "limits.nodes",
        "limits.calls_in_flight",
        "limits.tenant_backlog",
        "limits.settle_batch",
        "routing.breaker_window_s",
        "routing.breaker_min_calls",
        "routing.breaker_failure_percent",
        "routing.breaker_open_s",
        "routing.breaker_probes",
        "routing.canary_judge_s",
    ] {
        let (section, name) = key.split_once('.').unwrap();
        let refusal = refusal(&format!("[{section}]\n{name} = 0\n"), &[]);
        assert!(refusal.contains(&format!("setting {key}: must be from ")), "{refusal}");
    }
    // Where 0 means no limit or a share, it is taken.
    for key in [
        "server.connections_per_address",
        "worker.tenant_turns_in_flight",
        "limits.tenant_requests_per_second",
        "limits.key_tokens_per_minute",
        "limits.admin_requests_per_minute",
        "limits.tenant_calls_in_flight",
    ] {
        let (section, name) = key.split_once('.').unwrap();
        from_text(&format!("[{section}]\n{name} = 0\n"), &[]).unwrap();
    }
    let refused = refusal("[worker]\nturn_backoff_s = [1, 0]\n", &[]);
    assert!(refused.contains("worker.turn_backoff_s"), "{refused}");
    let refused = refusal("[routing]\nbreaker_failure_percent = 101\n", &[]);
    let told = "setting routing.breaker_failure_percent: must be from 1 to 100";
    assert!(refused.contains(told), "{refused}");
    let refused = refusal("[worker]\nturn_lease_s = 10\n", &[]);
    assert!(refused.contains("worker.turn_heartbeat_s: must be less"), "{refused}");
    let refused = refusal("[limits]\ntenant_backlog = 5000\nplatform_backlog = 100\n", &[]);
    assert!(refused.contains("limits.tenant_backlog: must be at most"), "{refused}");
}

#[test]
fn a_list_of_waits_may_come_from_the_environment() {
    let waits = [("QUDAO__WORKER__TURN_BACKOFF_S", "1,5,25")];
    assert_eq!(from_text("", &waits).unwrap().worker.turn_backoff_s, [1, 5, 25]);
}

#[test]
fn browsers_are_told_to_come_by_https_only_where_that_is_how_they_come() {
    for url in ["", "public_url = \"http://chat.example.com\""] {
        let refused = refusal(&format!("[server]\nhsts_s = 86400\n{url}\n"), &[]);
        assert!(refused.contains("setting server.hsts_s"), "{refused}");
    }
    let served = "[server]\nhsts_s = 86400\npublic_url = \"https://chat.example.com\"\n";
    assert_eq!(from_text(served, &[]).unwrap().server.hsts_s, 86_400);
}

#[test]
fn rules_for_outgoing_requests_that_allow_everything_or_nothing_are_refused() {
    for (text, key) in [
        ("allow_networks = [\"0.0.0.0/0\"]", "egress.allow_networks"),
        ("allow_networks = [\"10.1.0.0/16\", \"::/0\"]", "egress.allow_networks"),
        ("allow_networks = [\"models.internal\"]", "egress.allow_networks"),
        ("ports = []", "egress.ports"),
        ("ports = [0]", "egress.ports"),
        ("ports = [65536]", "egress.ports"),
        ("allow_http = true", "egress.allow_http"),
    ] {
        let refused = refusal(&format!("[egress]\n{text}\n"), &[]);
        assert!(refused.contains(&format!("setting {key}")), "{text}: {refused}");
    }
    let lists = [
        ("QUDAO__EGRESS__ALLOW_NETWORKS", "10.1.0.0/16,fd00:1::/64"),
        ("QUDAO__EGRESS__PORTS", "443,80"),
        ("QUDAO__EGRESS__ALLOW_HTTP", "true"),
    ];
    let egress = from_text("", &lists).unwrap().egress;
    assert_eq!((egress.allow_networks.len(), egress.ports), (2, vec![443, 80]));
}

#[test]
fn a_secret_shows_neither_in_a_refusal_nor_in_debug_output() {
    let refused = refusal("", &[("QUDAO_OPERATOR_KEY", "hunter2")]);
    assert!(refused.contains("operator.key") && !refused.contains("hunter2"), "{refused}");
    let settings = from_text("", &[("DATABASE_URL", "postgres://u:hunter2@h/db")]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_file_that_was_asked_for_must_exist_and_be_toml() {
    let error = load(Some(Path::new("/nowhere/qudao.toml")), []).unwrap_err().to_string();
    assert!(error.contains("/nowhere/qudao.toml"), "{error}");
    let error = refusal("[server\n", &[]);
    assert!(error.contains("qudao.toml"), "{error}");
}

#[test]
fn instances_are_checked_with_their_place_in_the_list() {
    let text = r#"
[[instances]]
name = "one"
plugin = "echo"
models = [{ name = "m" }, { name = "m", max_output_tokens = 9000 }, { name = "ear", kind = "transcribe", context_tokens = 120 }]

[[instances]]
name = "one"
plugin = "echo"
models = [{ name = "n", prices = [{ currency = "CNY", input_per_mtok = "-1" }] }]
"#;
    let Err(ConfigError::Values(problems)) = from_text(text, &[]) else { panic!("refused") };
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "instances[0].models[1].name",
            "instances[0].models[1].max_output_tokens",
            "instances[1].name",
            "instances[1].models[0].prices[0]",
        ]
    );
}

#[test]
fn prices_are_exact() {
    let text = r#"
[[instances]]
name = "remote"
plugin = "openai"
config = { base_url = "https://api.example.com/v1", retries = 2 }
models = [{ name = "m", prices = [{ currency = "USD", input_per_mtok = "0.15", output_per_mtok = "0.6" }] }]
"#;
    let settings = from_text(text, &[]).unwrap();
    let instance = &settings.instances[0];
    let price = &instance.models[0].prices[0];
    assert_eq!((price.input_per_mtok.get(), price.output_per_mtok.get()), (150_000, 600_000));
    assert_eq!(instance.config["retries"], 2);
}

#[test]
fn the_documented_file_holds_every_key_with_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/qudao.toml");
    let text = fs::read_to_string(&file).unwrap();
    // Commented lines of the form `#key = value` are the optional keys.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let written: toml::Table = toml::from_str(&all).unwrap();
    from_text(&all, &[]).unwrap();
    let schema = json_schema();
    for (section, keys) in schema_keys(&schema) {
        let table = match section.as_str() {
            "" => &written,
            section => written[section].as_table().unwrap(),
        };
        for key in keys {
            assert!(table.contains_key(&key), "config/qudao.toml lacks {section}.{key}");
        }
    }
    assert_eq!(
        format!("{:?}", from_text(&text, &[]).unwrap()),
        format!("{:?}", from_text("", &[]).unwrap())
    );
}

/// The keys of each section, from the schema.
fn schema_keys(schema: &serde_json::Value) -> Vec<(String, Vec<String>)> {
    let keys = |object: &serde_json::Value| -> Vec<String> {
        object["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let mut sections = vec![(String::new(), keys(schema))];
    for section in keys(schema) {
        let title = section[..1].to_uppercase() + &section[1..];
        let definition = &schema["$defs"][title];
        if definition["properties"].is_object() {
            sections.push((section, keys(definition)));
        }
    }
    sections
}
