//! Reading and checking: defaults, then the file, then the environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat, Map};
use qudao_domain::Micros;

use crate::{
    Instance, ModelKind, Settings,
    settings::{Egress, Mail, Telemetry},
};

mod bounds;

/// Variables with a name of their own. The rest are `QUDAO__SECTION__KEY`.
const NAMED: &[(&str, &str)] = &[
    ("QUDAO_HOME", "home"),
    ("QUDAO_BIND", "server.bind"),
    ("QUDAO_METRICS_BIND", "server.metrics_bind"),
    ("QUDAO_PUBLIC_URL", "server.public_url"),
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("QUDAO_OPERATOR_KEY", "operator.key"),
    ("QUDAO_MASTER_KEY", "security.master_key"),
    ("QUDAO_MAIL_URL", "mail.url"),
    ("QUDAO_MAIL_PASSWORD", "mail.password"),
    ("QUDAO_LOG", "log.filter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
];
const FILE_VARIABLE: &str = "QUDAO_CONFIG";
const USUAL_FILE: &str = "config/qudao.toml";
const SEPARATOR: &str = "__";
const PREFIX: &str = "QUDAO__";
/// Lists that a variable may give, parted by commas. Lists of tables belong in the file.
const LISTS: &[&str] = &[
    "plugins.dirs",
    "plugins.trusted_keys",
    "plugins.allow_downgrade",
    "worker.turn_backoff_s",
    "worker.delivery_backoff_s",
    "egress.allow_networks",
    "egress.ports",
];

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `QUDAO_CONFIG` or `--config` names a file that cannot be read, or it is not TOML.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that does not exist or a value of the wrong type.
    #[error("setting {key}: {reason}")]
    Key {
        /// The key, such as `server.bind`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Values that are of the right type and cannot be used.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Values(Vec<Problem>),
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `worker.claim_batch`.
    pub key: String,
    /// What is wrong with its value.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting {}: {}", self.key, self.reason)
    }
}

/// Settings and where they came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file, if there was one.
    pub file: Option<PathBuf>,
}

/// Reads the settings: `file`, else `$QUDAO_CONFIG`, else `config/qudao.toml` if it exists; the
/// variables of `environment` over it.
///
/// # Errors
/// A [`ConfigError`] that names the file or the key.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut variables: BTreeMap<String, String> = environment.into_iter().collect();
    // An empty variable is as good as none: that is how shells and compose files unset things.
    variables.retain(|_, value| !value.is_empty());
    let file = match (file, variables.get(FILE_VARIABLE)) {
        (Some(file), _) => Some(file.to_owned()),
        (None, Some(file)) => Some(PathBuf::from(file)),
        (None, None) => Some(PathBuf::from(USUAL_FILE)).filter(|file| file.is_file()),
    };
    let mut builder = Config::builder();
    if let Some(file) = &file {
        builder = builder.add_source(read(file)?);
    }
    let prefixed: Map<String, String> = variables
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut source = Environment::with_prefix("QUDAO")
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .try_parsing(true)
        .list_separator(",");
    for list in LISTS {
        source = source.with_list_parse_key(list);
    }
    builder = builder.add_source(source.source(Some(prefixed)));
    for (name, key) in NAMED {
        if let Some(value) = variables.get(*name) {
            builder = builder
                .set_override(*key, value.as_str())
                .map_err(|error| key_error(key, &error.to_string()))?;
        }
    }
    let config = builder.build().map_err(|error| key_error("?", &error.to_string()))?;
    let settings: Settings = serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        key_error(&path, &reason(&error.into_inner()))
    })?;
    let problems = check(&settings);
    if problems.is_empty() {
        Ok(Loaded { settings, file })
    } else {
        Err(ConfigError::Values(problems))
    }
}

fn read(file: &Path) -> Result<File<config::FileSourceString, FileFormat>, ConfigError> {
    let refused = |reason: String| ConfigError::File { file: file.to_owned(), reason };
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    let source = File::from_str(&text, FileFormat::Toml);
    // Parsed here once, so that a syntax error is reported as the file's.
    Config::builder()
        .add_source(source.clone())
        .build()
        .map_err(|error| refused(error.to_string()))?;
    Ok(source)
}

fn key_error(key: &str, reason: &str) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), reason: reason.to_owned() }
}

/// The reason alone: the key is told beside it.
fn reason(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("is {unexpected}, expected {expected}")
        }
        config::ConfigError::At { error, .. } => reason(error),
        other => other.to_string(),
    }
}

/// The settings' JSON schema.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Settings).to_value()
}

fn check(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut require = |holds: bool, key: &str, reason: &str| {
        if !holds {
            problems.push(Problem { key: key.to_owned(), reason: reason.to_owned() });
        }
    };
    let Settings { server, database, redis, backup, plugins, operator, demo, .. } = settings;
    require(!settings.home.as_os_str().is_empty(), "home", "must not be empty");
    require(server.workers <= 1024, "server.workers", "must be at most 1024");
    require(
        (1..=3600).contains(&server.drain_timeout_s),
        "server.drain_timeout_s",
        "must be from 1 to 3600",
    );
    let http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    require(
        server.public_url.as_ref().is_none_or(http),
        "server.public_url",
        "must begin with http:// or https://",
    );
    let https = server.public_url.as_ref().is_some_and(|url| url.starts_with("https://"));
    require(
        server.hsts_s == 0 || https,
        "server.hsts_s",
        "needs a server.public_url that begins with https://",
    );
    let begins = |url: &Option<crate::Secret>, schemes: &[&str]| {
        url.as_ref().is_none_or(|url| schemes.iter().any(|scheme| url.reveal().starts_with(scheme)))
    };
    require(
        begins(&database.url, &["postgres://", "postgresql://"]),
        "database.url",
        "must begin with postgres:// or postgresql://",
    );
    require(
        begins(&redis.url, &["redis://", "redis-cluster://", "unix://", "redis+unix://"]),
        "redis.url",
        "must begin with redis://, redis-cluster:// or unix://",
    );
    require(
        (2..=1000).contains(&database.max_connections),
        "database.max_connections",
        "must be from 2 to 1000",
    );
    require(
        (1..=86_400).contains(&backup.archive_timeout_s),
        "backup.archive_timeout_s",
        "must be from 1 to 86400",
    );
    let is_key = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    require(
        plugins.trusted_keys.iter().all(is_key),
        "plugins.trusted_keys",
        "each key must be 64 hexadecimal digits",
    );
    require(
        operator.key.as_ref().is_none_or(|key| is_operator_key(key.reveal())),
        "operator.key",
        "must be qo_ and 43 letters, digits, - or _",
    );
    require(Micros::ZERO < demo.credits, "demo.credits", "must be more than nothing");
    problems.extend(bounds::check(settings));
    problems.extend(check_egress(&settings.egress));
    problems.extend(check_mail(&settings.mail));
    problems.extend(check_telemetry(&settings.telemetry));
    problems.extend(check_instances(&settings.instances));
    problems
}

fn check_mail(mail: &Mail) -> Vec<Problem> {
    let schemes = ["smtps://", "smtp://", "smtp+plain://"];
    let known = |url: &String| schemes.iter().any(|scheme| url.starts_with(scheme));
    let rules = [
        (
            mail.url.as_ref().is_none_or(known),
            "mail.url",
            "must begin with smtps://, smtp:// or smtp+plain://",
        ),
        (
            mail.url.is_none() || mail.from.as_ref().is_some_and(|from| from.contains('@')),
            "mail.from",
            "must be an address such as no-reply@example.com where mail.url is set",
        ),
    ];
    let broken = rules.into_iter().filter(|(holds, ..)| !holds);
    let problem =
        |key: &str, reason: &str| Problem { key: key.to_owned(), reason: reason.to_owned() };
    broken.map(|(_, key, reason)| problem(key, reason)).collect()
}

fn check_egress(egress: &Egress) -> Vec<Problem> {
    let Egress { allow_networks, allow_http, ports, .. } = egress;
    let rules = [
        (
            allow_networks.iter().all(|network| network.prefix_len() > 0),
            "egress.allow_networks",
            "must not hold every address; name the networks that are meant",
        ),
        (
            !ports.is_empty() && !ports.contains(&0),
            "egress.ports",
            "must name at least one port, and none is 0",
        ),
        (
            !allow_http || ports.iter().any(|port| !matches!(port, 443 | 8443)),
            "egress.allow_http",
            "needs a port beside 443 and 8443 in egress.ports, such as 80",
        ),
    ];
    let broken = rules.into_iter().filter(|(holds, ..)| !holds);
    broken
        .map(|(_, key, reason)| Problem { key: key.to_owned(), reason: reason.to_owned() })
        .collect()
}

fn check_telemetry(telemetry: &Telemetry) -> Vec<Problem> {
    let Telemetry { otlp_endpoint, sample_ratio, queue_spans, sample_every_s } = telemetry;
    let http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    let rules = [
        (
            otlp_endpoint.as_ref().is_none_or(http),
            "telemetry.otlp_endpoint",
            "must begin with http:// or https://",
        ),
        ((0.0..=1.0).contains(sample_ratio), "telemetry.sample_ratio", "must be from 0 to 1"),
        (
            (1..=1_000_000).contains(queue_spans),
            "telemetry.queue_spans",
            "must be from 1 to 1000000",
        ),
        ((1..=300).contains(sample_every_s), "telemetry.sample_every_s", "must be from 1 to 300"),
    ];
    let broken = rules.into_iter().filter(|(holds, ..)| !holds);
    broken
        .map(|(_, key, reason)| Problem { key: key.to_owned(), reason: reason.to_owned() })
        .collect()
}

/// Whether a text has the form of an operator key.
pub fn is_operator_key(text: &str) -> bool {
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.strip_prefix("qo_").is_some_and(|rest| rest.len() == 43 && rest.bytes().all(url_safe))
}

fn check_instances(instances: &[Instance]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |key: String, reason: String| problems.push(Problem { key, reason });
    let (mut names, mut models) = (BTreeSet::new(), BTreeSet::new());
    for (index, instance) in instances.iter().enumerate() {
        let at = format!("instances[{index}]");
        if !is_name(&instance.name) {
            refuse(format!("{at}.name"), NAME_RULE.to_owned());
        }
        if !names.insert(&instance.name) {
            refuse(
                format!("{at}.name"),
                format!("{} is the name of another instance", instance.name),
            );
        }
        if instance.max_concurrency == Some(0) {
            refuse(format!("{at}.max_concurrency"), "must be at least 1".to_owned());
        }
        let times = &instance.timeouts;
        for (name, value) in [
            ("load_s", times.load_s),
            ("first_token_s", times.first_token_s),
            ("inter_token_s", times.inter_token_s),
            ("total_s", times.total_s),
            ("cancel_grace_s", times.cancel_grace_s),
            ("drain_s", times.drain_s),
        ] {
            if value.is_some_and(|value| !(1..=86_400).contains(&value)) {
                refuse(format!("{at}.timeouts.{name}"), "must be from 1 to 86400".to_owned());
            }
        }
        if instance.models.is_empty() {
            refuse(format!("{at}.models"), "must name at least one model".to_owned());
        }
        for (index, model) in instance.models.iter().enumerate() {
            let at = format!("{at}.models[{index}]");
            if !is_name(&model.name) {
                refuse(format!("{at}.name"), NAME_RULE.to_owned());
            }
            if !models.insert(&model.name) {
                refuse(format!("{at}.name"), format!("{} is offered twice", model.name));
            }
            // The others do not write: what they may read is all that bounds them.
            let writes = model.kind == ModelKind::Chat;
            if writes && !(1..model.context_tokens).contains(&model.max_output_tokens) {
                let reason = "must be at least 1 and less than context_tokens".to_owned();
                refuse(format!("{at}.max_output_tokens"), reason);
            }
            if model.context_tokens == 0 {
                refuse(format!("{at}.context_tokens"), "must be at least 1".to_owned());
            }
            let mut currencies = BTreeSet::new();
            for (index, price) in model.prices.iter().enumerate() {
                let at = format!("{at}.prices[{index}]");
                if !currencies.insert(price.currency) {
                    refuse(format!("{at}.currency"), format!("{} is priced twice", price.currency));
                }
                let amounts = [price.input_per_mtok, price.output_per_mtok, price.per_call];
                if amounts.iter().any(|amount| *amount < Micros::ZERO) {
                    refuse(at, "must not be negative".to_owned());
                }
            }
        }
    }
    problems
}

const NAME_RULE: &str = "must be 1 to 120 letters, digits or any of . _ - : /";

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
    (1..=120).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
