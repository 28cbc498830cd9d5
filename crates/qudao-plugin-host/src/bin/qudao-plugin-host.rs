//! The child in which a plugin runs: see `qudao_plugin_host::child`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if qudao_plugin_host::child::main() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
