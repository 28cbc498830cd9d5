//! Memory of a process, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// What of a process lies in memory, in kibibytes.
///
/// # Errors
/// When the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().next().context("a number")?.parse().context("a number")
}
