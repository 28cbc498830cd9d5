//! What is let pass, why, and until when.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::Finding;

pub(super) const FILE: &str = "deploy/supply/waivers.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waivers {
    #[serde(default, rename = "waiver")]
    waivers: Vec<Waiver>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiver {
    kind: String,
    /// A crate or package with or without its version, or a file.
    about: String,
    rule: String,
    /// Holds for what is not shipped only.
    #[serde(default)]
    unshipped_only: bool,
    reason: String,
    /// The last day, as `2027-01-31`.
    until: String,
}

/// What the waivers leave.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) faults: Vec<String>,
    pub(super) waived: usize,
}

impl Waivers {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let all: Self = toml::from_str(text)?;
        for waiver in &all.waivers {
            let dated = waiver.until.parse::<jiff::civil::Date>().is_ok();
            if !dated || waiver.reason.trim().len() < 10 {
                bail!("the waiver of {} needs a reason, and a day until when", waiver.about);
            }
        }
        Ok(all)
    }

    /// Lets pass what has a waiver. One that has run out, or lets nothing pass, is a fault itself.
    pub(super) fn apply(&self, findings: Vec<Finding>, today: &str) -> Left {
        let mut left = Left::default();
        let mut used = vec![false; self.waivers.len()];
        for finding in findings {
            let found = self.waivers.iter().position(|waiver| waiver.covers(&finding));
            let Some(at) = found else {
                left.faults.push(finding.shown());
                continue;
            };
            used[at] = true;
            if self.waivers[at].until.as_str() < today {
                let until = &self.waivers[at].until;
                left.faults.push(format!("{} (waived until {until})", finding.shown()));
            } else {
                left.waived += 1;
            }
        }
        let idle = self.waivers.iter().zip(used).filter(|(_, used)| !used);
        left.faults.extend(idle.map(|(waiver, _)| {
            let Waiver { kind, about, rule, .. } = waiver;
            format!("waiver: {kind} {about} {rule}: lets nothing pass any more; take it out")
        }));
        left
    }
}

impl Waiver {
    fn covers(&self, finding: &Finding) -> bool {
        let named = finding.about == self.about
            || finding.about.split(' ').next() == Some(self.about.as_str());
        let placed = !self.unshipped_only || !finding.shipped;
        finding.kind == self.kind && named && finding.rule == self.rule && placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIVER: &str = r#"
[[waiver]]
kind = "advisory"
about = "holey"
rule = "RUSTSEC-2099-0001"
unshipped_only = true
reason = "a tool of the benchmarks, which never see a stranger's bytes"
until = "2099-06-30"
"#;

    fn finding(shipped: bool) -> Finding {
        Finding {
            kind: "advisory",
            about: "holey 1.0.0".to_owned(),
            rule: "RUSTSEC-2099-0001".to_owned(),
            detail: "vulnerable".to_owned(),
            shipped,
        }
    }

    #[test]
    fn a_waiver_holds_until_its_last_day_and_for_what_it_names() {
        let waivers = Waivers::parse(WAIVER).unwrap();
        let faults = |shipped, today: &str| waivers.apply(vec![finding(shipped)], today).faults;
        assert!(faults(false, "2099-06-30").is_empty());
        assert!(faults(false, "2099-07-01")[0].contains("waived until 2099-06-30"));
        // Once it is shipped after all, the waiver is of no use.
        assert_eq!(faults(true, "2099-06-30").len(), 2);
    }

    #[test]
    fn a_waiver_without_a_use_a_reason_or_a_day_is_a_fault() {
        let idle = Waivers::parse(WAIVER).unwrap().apply(Vec::new(), "2099-01-01");
        assert!(idle.faults[0].contains("lets nothing pass"), "{:?}", idle.faults);
        assert!(Waivers::parse(&WAIVER.replace("2099-06-30", "never")).is_err());
        let mute =
            WAIVER.replace("a tool of the benchmarks, which never see a stranger's bytes", "");
        assert!(Waivers::parse(&mute).is_err());
    }
}
