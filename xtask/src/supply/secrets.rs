//! Keys and tokens in the tree.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use regex::Regex;

use super::Finding;

/// Files above this are no texts of ours, in bytes.
const BYTES_MAX: u64 = 4 << 20;

/// A name, and how such a thing is written. In pieces, so that this file holds none.
const PATTERNS: &[(&str, &str)] = &[
    ("private-key", concat!("-----BEGIN ", r"(?:[A-Z]+ )*", "PRIVATE KEY")),
    ("openai-key", r"\bsk-[A-Za-z0-9_-]{20,}"),
    ("qudao-key", r"\bqk_(?:live|test)_[0-9a-f]{32}_[A-Za-z0-9_-]{20,}"),
    ("qudao-operator-key", r"\bqo_[A-Za-z0-9_-]{43}"),
    ("aws-key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})"),
    ("gitlab-token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("google-key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("slack-token", r"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
    ("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("hub-token", r"\bhf_[A-Za-z0-9]{30,}\b"),
    ("bot-token", r"\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b"),
    ("signed-token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
];

/// Every line of a tracked file that looks like a secret.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let patterns = patterns()?;
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("running git ls-files")?;
    let mut findings = Vec::new();
    for name in String::from_utf8(output.stdout)?.split_terminator('\0') {
        let path = root.join(name);
        let small = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() < BYTES_MAX);
        // What is no text is a picture, or the snapshot of the advisories.
        if small && let Ok(text) = fs::read_to_string(&path) {
            examine(name, &text, &patterns, &mut findings);
        }
    }
    Ok(findings)
}

fn patterns() -> Result<Vec<(&'static str, Regex)>> {
    PATTERNS.iter().map(|(name, pattern)| Ok((*name, Regex::new(pattern)?))).collect()
}

fn examine(
    file: &str,
    text: &str,
    patterns: &[(&'static str, Regex)],
    findings: &mut Vec<Finding>,
) {
    for (name, pattern) in patterns {
        for found in pattern.find_iter(text) {
            let line = text[..found.start()].matches('\n').count() + 1;
            // Enough to find it, and not enough to use it.
            let shown: String = found.as_str().chars().take(8).collect();
            findings.push(Finding {
                kind: "secret",
                about: file.to_owned(),
                rule: (*name).to_owned(),
                detail: format!("line {line}: {shown}…"),
                shipped: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_secret_is_reported_with_its_line_and_without_itself() {
        let x = |count| "x1Y2".repeat(count);
        let planted = [
            ("private-key", ["-----BEGIN OPENSSH ", "PRIVATE KEY-----"].concat()),
            ("openai-key", format!("sk-{}", x(8))),
            ("qudao-key", format!("qk_live_{}_{}", "0a".repeat(16), x(6))),
            ("qudao-operator-key", format!("qo_{}abc", x(10))),
            ("aws-key", format!("AKIA{}", "ABCD".repeat(4))),
            ("github-token", format!("ghp_{}", x(9))),
            ("gitlab-token", format!("glpat-{}", x(5))),
            ("google-key", format!("AIza{}abc", x(8))),
            ("slack-token", format!("xoxb-{}", x(6))),
            ("npm-token", format!("npm_{}", x(9))),
            ("hub-token", format!("hf_{}", x(9))),
            ("bot-token", format!("123456789:{}abc", x(8))),
            ("signed-token", format!("eyJ{0}.eyJ{0}.{0}", x(4))),
        ];
        assert_eq!(planted.len(), PATTERNS.len());
        for (rule, secret) in planted {
            let mut findings = Vec::new();
            examine(
                "a.rs",
                &format!("one\nlet key = \"{secret}\";"),
                &patterns().unwrap(),
                &mut findings,
            );
            let [finding] = findings.as_slice() else { panic!("{rule}: {findings:?}") };
            assert_eq!(finding.rule, rule);
            assert!(finding.detail.starts_with("line 2: "), "{}", finding.detail);
            assert!(!finding.shown().contains(&secret), "{}", finding.shown());
        }
    }

    #[test]
    fn words_that_only_look_like_it_are_not() {
        let text = "task-management-of-the-whole-node, qk_live_…, sk-…, 12:34:56, AKIA";
        let mut findings = Vec::new();
        examine("a.md", text, &patterns().unwrap(), &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
    }
}
