//! `qudao print`: what is generated from the code, for files that are kept in the repository.

use std::process::ExitCode;

use crate::{args::Printable, catalogue, terminal};

pub(crate) fn run(what: Printable) -> anyhow::Result<ExitCode> {
    let text = match what {
        Printable::Openapi => pretty(&serde_json::from_str(&qudao_server::openapi_json())?)?,
        Printable::ConfigSchema => pretty(&qudao_config::json_schema())?,
        Printable::Metrics => qudao_telemetry::reference_markdown(&catalogue::all()),
        Printable::Errors => qudao_server::reference_markdown(),
    };
    terminal::print(text.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn pretty(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}
