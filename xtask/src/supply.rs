//! What comes from outside: licences, known holes, npm's locks, secrets in the tree, and the list
//! of all of it.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, bail};

mod advisories;
mod crates;
mod licences;
mod npm;
mod sbom;
mod secrets;
mod waivers;

use waivers::Waivers;

/// `cargo xtask check supply`
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// A copy of the RustSec database; else the one below `~/.cache/qudao`, else the snapshot of the
    /// tree.
    #[arg(long)]
    advisories: Option<PathBuf>,
    /// Brings the copy below `~/.cache/qudao` up to date first.
    #[arg(long)]
    fetch: bool,
    /// Fails where the database cannot be fetched, or is older than half a year.
    #[arg(long)]
    strict: bool,
    /// Writes the database that was read to the snapshot of the tree.
    #[arg(long)]
    snapshot: bool,
}

/// Something that is wrong: what kind, about what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    kind: &'static str,
    /// A crate, a package or a file.
    about: String,
    /// An advisory, a licence, a rule.
    rule: String,
    detail: String,
    /// Whether it is in what is shipped.
    shipped: bool,
}

impl Finding {
    fn shown(&self) -> String {
        let place = if self.shipped { "" } else { " (not shipped)" };
        format!("{}: {}{place}: {}: {}", self.kind, self.about, self.rule, self.detail)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let root = crate::root();
    let lock = crates::Lock::read(&root.join("Cargo.lock"))?;
    let shipped = crates::shipped()?;
    let locks = npm::locks(&root)?;
    let database = advisories::Database::open(args)?;
    if args.snapshot {
        database.write(&root.join(advisories::SNAPSHOT))?;
    }
    let mut findings = licences::check(&shipped);
    findings.extend(database.check(&lock, &shipped)?);
    findings.extend(locks.iter().flat_map(npm::check));
    findings.extend(secrets::check(&root)?);
    let sbom = root.join("target/sbom.json");
    fs::write(&sbom, sbom::write(&lock, &shipped, &locks)?)
        .with_context(|| format!("writing {}", sbom.display()))?;
    let waivers = Waivers::read(&root.join(waivers::FILE))?;
    let left = waivers.apply(findings, &today());
    eprintln!(
        "supply: {} crates shipped of {} locked, {} npm packages, {} ({}); {} waived; {:.1} s",
        shipped.len(),
        lock.packages.len(),
        locks.iter().map(|lock| lock.packages.len()).sum::<usize>(),
        database.name,
        database.age(&today()),
        left.waived,
        began.elapsed().as_secs_f64(),
    );
    if args.strict && database.is_old(&today()) {
        bail!("the advisories are older than half a year: take `--fetch`, then `--snapshot`");
    }
    if !left.faults.is_empty() {
        bail!("{} faults:\n  {}", left.faults.len(), left.faults.join("\n  "));
    }
    Ok(())
}

/// As `2026-11-28`, by the calendar of UTC: dates in this form are in order as texts.
#[expect(clippy::disallowed_methods, reason = "a chore that is run has no clock to be given")]
fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}
