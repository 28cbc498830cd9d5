//! `qudao-conform`: tries an adapter as the platform, or a platform as a partner.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for a terminal"
)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use qudao_conform::{
    adapter::{self, Platform},
    case,
    client::Keys,
    partner::{self, Partner},
    report,
};
use qudao_pcp::{PrivateKey, Report, Role, Secret};
use serde_json::Value;

/// Tries whether an adapter, or a platform, conforms to the partner channel protocol, PCP/1.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Prints variables with new keys, for an adapter that is to be tried and for this kit.
    Keys,
}

#[derive(Clone, Copy, ValueEnum)]
enum As {
    /// Against an adapter: the kit is the platform.
    Adapter,
    /// Against a platform: the kit is a partner.
    Partner,
}

#[derive(Args)]
struct Run {
    /// What is tried.
    #[arg(long, value_enum, default_value = "adapter")]
    role: As,
    /// `demo.json` of a platform that was started with `serve --demo`.
    #[arg(long)]
    demo: Option<PathBuf>,
    /// The adapter's endpoint.
    #[arg(long, env = "PCP_ADAPTER_URL", default_value = "http://127.0.0.1:8098/pcp")]
    url: String,
    /// Where the adapter finds the kit, in the platform's place.
    #[arg(long, default_value = "127.0.0.1:8099")]
    listen: SocketAddr,
    /// The platform's address.
    #[arg(long)]
    base_url: Option<String>,
    /// The tenant, and a key of it that may set the channel's endpoint.
    #[arg(long)]
    tenant: Option<String>,
    #[arg(long, env = "QUDAO_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The channel.
    #[arg(long, env = "PCP_CHANNEL")]
    channel: Option<String>,
    /// Its bearer key.
    #[arg(long, env = "PCP_BEARER", hide_env_values = true)]
    bearer: Option<String>,
    /// Its signing secrets, the newest first, separated by spaces.
    #[arg(long, env = "PCP_SECRETS", hide_env_values = true)]
    secrets: Option<String>,
    /// The kit's own key, which signs the report.
    #[arg(long, env = "PCP_PRIVATE_KEY", hide_env_values = true)]
    private_key: Option<String>,
    /// Cases, or levels such as `S`; all if left out.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Longer than the other side waits for an answer, in seconds.
    #[arg(long)]
    silence_s: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the report as JUnit's XML.
    #[arg(long)]
    junit: Option<PathBuf>,
    /// Write the signed report, which lifts a channel out of the sandbox.
    #[arg(long)]
    sign: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Keys) => {
            print_keys();
            return ExitCode::SUCCESS;
        }
        None => run(&cli.run).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("qudao-conform: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn print_keys() {
    let private = PrivateKey::generate();
    let (one, other) = (Secret::generate().reveal(), Secret::generate().reveal());
    println!("export PCP_BASE_URL=http://127.0.0.1:8099");
    println!("export PCP_CHANNEL=chn_conform");
    println!("export PCP_BEARER=pck_test_conform");
    println!("export PCP_SECRETS='{one} {other}'");
    println!("export PCP_PUBLIC_KEY={}", private.public());
    println!("export PCP_PRIVATE_KEY={}", private.reveal());
}

fn need<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str> {
    value.with_context(|| format!("{name} is needed; see --help"))
}

impl Run {
    /// What `demo.json` says, in the form of the other options.
    fn with_demo(&self, demo: &Value) -> Result<partner::Config> {
        let told = |own: &Option<String>, pointer: &str| {
            let found = demo.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            own.clone().or(found).with_context(|| format!("{pointer} is not in the demo's file"))
        };
        let secrets = told(&self.secrets, "/partner/signing_secret")?;
        Ok(partner::Config {
            base: told(&self.base_url, "/base_url")?,
            tenant: told(&self.tenant, "/tenant_id")?,
            api_key: told(&self.api_key, "/api_key")?,
            keys: Keys {
                channel: told(&self.channel, "/partner/channel_id")?,
                bearer: told(&self.bearer, "/partner/bearer_key")?,
                secrets: parse_secrets(&secrets)?,
                private: self.private()?,
            },
            silence: Duration::from_secs(self.silence_s.unwrap_or(17)),
        })
    }

    fn private(&self) -> Result<PrivateKey> {
        match &self.private_key {
            Some(text) => PrivateKey::parse(text).context("reading the private key"),
            None => Ok(PrivateKey::generate()),
        }
    }
}

fn parse_secrets(text: &str) -> Result<Vec<Secret>> {
    let all: Result<Vec<_>, _> = text.split_whitespace().map(Secret::parse).collect();
    let all = all.context("reading the secrets")?;
    if all.is_empty() {
        bail!("a signing secret is needed")
    }
    Ok(all)
}

async fn run(options: &Run) -> Result<bool> {
    let told = |case: &qudao_pcp::CaseReport| {
        if !options.json {
            println!("{}", report::line(case));
        }
    };
    let (role, keys, cases) = match options.role {
        As::Adapter => {
            let keys = Keys {
                channel: need(options.channel.as_deref(), "--channel")?.to_owned(),
                bearer: need(options.bearer.as_deref(), "--bearer")?.to_owned(),
                secrets: parse_secrets(need(options.secrets.as_deref(), "--secrets")?)?,
                private: options.private()?,
            };
            let config = adapter::Config {
                url: options.url.clone(),
                listen: options.listen,
                keys: keys.clone(),
                silence: Duration::from_secs(options.silence_s.unwrap_or(12)),
            };
            let platform = Platform::start(config).await?;
            platform.wait_for_adapter().await?;
            let cases = case::run(&options.only, told, |id| {
                let platform = platform.clone();
                async move { platform.run(id).await }
            });
            (Role::Adapter, keys, cases.await)
        }
        As::Partner => {
            let demo = match &options.demo {
                Some(path) => {
                    let text = fs::read_to_string(path).context("reading the demo's file")?;
                    serde_json::from_str(&text).context("reading the demo's file")?
                }
                None => Value::Null,
            };
            let config = options.with_demo(&demo)?;
            let keys = config.keys.clone();
            let partner = Partner::start(config).await?;
            let cases = case::run(&options.only, told, |id| {
                let partner = partner.clone();
                async move { partner.run(id).await }
            });
            let cases = cases.await;
            if let Some(path) = &options.demo {
                remember(path, demo, partner.newest_secret())?;
            }
            (Role::Partner, keys, cases)
        }
    };
    let report = Report {
        kit: concat!("qudao-conform ", env!("CARGO_PKG_VERSION")).to_owned(),
        pcp_version: qudao_pcp::VERSION.to_owned(),
        role,
        channel: keys.channel.clone(),
        at: Timestamp::now(),
        cases,
    };
    write(options, &report, &keys)?;
    Ok(report.is_green())
}

/// The cases rotate the channel's secret, and an old one does not stay valid for ever.
fn remember(path: &Path, mut demo: Value, secret: Option<String>) -> Result<()> {
    let Some(kept) = demo.pointer_mut("/partner/signing_secret") else { return Ok(()) };
    let Some(secret) = secret.filter(|secret| *kept != secret.as_str()) else { return Ok(()) };
    *kept = secret.into();
    let text = serde_json::to_string_pretty(&demo)?;
    fs::write(path, format!("{text}\n")).context("writing the demo's file")
}

fn write(options: &Run, report: &Report, keys: &Keys) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("{}", report::summary(report));
    }
    if let Some(path) = &options.junit {
        fs::write(path, report::junit(report)).context("writing the JUnit report")?;
    }
    if let Some(path) = &options.sign {
        let signed = serde_json::to_string_pretty(&report.sign(&keys.private))?;
        fs::write(path, signed).context("writing the signed report")?;
    }
    Ok(())
}
