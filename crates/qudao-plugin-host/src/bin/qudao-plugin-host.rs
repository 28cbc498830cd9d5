//! The child in which a plugin runs: see `qudao_plugin_host::child`.

use std::process::ExitCode;

/// An exchange that is made for a plugin is many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if qudao_plugin_host::child::main() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
