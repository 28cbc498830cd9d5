//! The reference for durable writes: Postgres' own `pgbench`, on the server under test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::postgres::Session;

/// Transactions per second of `clients` clients that each insert one row and commit, durably, for
/// so many seconds.
///
/// # Errors
/// If there is no pgbench, or the server does not commit durably.
pub fn one_row_per_commit(url: &str, clients: usize, seconds: u32) -> Result<f64> {
    let mut session = Session::connect(url)?;
    session.durable_commit(1)?;
    session.query(
        "CREATE TABLE IF NOT EXISTS public.bench_rows (id bigserial PRIMARY KEY, note text)",
    )?;
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), "INSERT INTO public.bench_rows (note) VALUES ('one row');\n")?;
    let output = Command::new(find()?)
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string()])
        .args(["-T", &seconds.to_string(), "-f"])
        .arg(script.path())
        .arg(url)
        .output()?;
    session.query("DROP TABLE public.bench_rows")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
    match rate.and_then(|rest| rest.split_whitespace().next()) {
        Some(rate) => rate.parse().context("a rate"),
        None => bail!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// On the path, or where distributions keep it.
fn find() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin/pgbench")).collect();
    places.sort();
    places.push(PathBuf::from("/usr/bin/pgbench"));
    places.into_iter().rev().find(|place| Path::exists(place)).context("pgbench is not installed")
}
