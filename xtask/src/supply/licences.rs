//! Under which licences others' work may be shipped.

use super::{Finding, crates::Shipped};

/// Permissive ones: they ask for their text and a name, not for our source.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Those that may build what is shipped, and are not in it.
const ALLOWED_TOOLS: &[&str] = &["BlueOak-1.0.0", "CC-BY-4.0", "MPL-2.0", "Python-2.0"];

/// Every crate whose licence is none of these.
pub(super) fn check(shipped: &Shipped) -> Vec<Finding> {
    let unknown = shipped.iter().filter(|(_, licence)| !is_allowed(licence, true));
    unknown
        .map(|((name, version), licence)| Finding {
            kind: "licence",
            about: format!("{name} {version}"),
            rule: if licence.is_empty() { "none".to_owned() } else { licence.clone() },
            detail: "is not among the licences that we may ship".to_owned(),
            shipped: true,
        })
        .collect()
}

/// Whether an SPDX expression can be fulfilled with allowed licences alone.
pub(super) fn is_allowed(expression: &str, shipped: bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let allowed = either(&mut words, shipped);
    words.is_empty() && allowed == Some(true)
}

/// `a OR b`, from the end of `words`; `None` when it is no expression.
fn either(words: &mut Vec<&str>, shipped: bool) -> Option<bool> {
    let mut allowed = both(words, shipped)?;
    while words.last() == Some(&"OR") {
        words.pop();
        allowed |= both(words, shipped)?;
    }
    Some(allowed)
}

fn both(words: &mut Vec<&str>, shipped: bool) -> Option<bool> {
    let mut allowed = one(words, shipped)?;
    while words.last() == Some(&"AND") {
        words.pop();
        allowed &= one(words, shipped)?;
    }
    Some(allowed)
}

fn one(words: &mut Vec<&str>, shipped: bool) -> Option<bool> {
    let word = words.pop()?;
    if word == "(" {
        let allowed = either(words, shipped)?;
        return (words.pop()? == ")").then_some(allowed);
    }
    let mut licence = word.to_owned();
    if words.last() == Some(&"WITH") {
        words.pop();
        licence = format!("{licence} WITH {}", words.pop()?);
    }
    let listed = |list: &[&str]| list.contains(&licence.as_str());
    Some(listed(ALLOWED) || !shipped && listed(ALLOWED_TOOLS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_reads_them() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
            "ISC AND (Apache-2.0 OR ISC)",
        ] {
            assert!(is_allowed(allowed, true), "{allowed}");
        }
        for refused in [
            "",
            "GPL-3.0",
            "AGPL-3.0-or-later",
            "MIT AND GPL-3.0",
            "(MIT OR GPL-3.0) AND LGPL-2.1",
            "GPL-3.0 WITH LLVM-exception",
            "MPL-2.0",
            "SEE LICENSE IN LICENSE",
            "MIT OR",
            "(MIT",
            "MIT MIT",
        ] {
            assert!(!is_allowed(refused, true), "{refused}");
        }
        assert!(is_allowed("MPL-2.0", false), "a tool that builds is not shipped");
    }

    #[test]
    fn a_planted_crate_of_another_licence_is_reported() {
        let crates = [("good", "MIT"), ("copyleft", "GPL-3.0-only"), ("unsaid", "")];
        let shipped = crates
            .map(|(name, licence)| ((name.to_owned(), "1.0.0".to_owned()), licence.to_owned()));
        let found = check(&Shipped::from(shipped));
        let about: Vec<_> = found.iter().map(|f| (f.about.as_str(), f.rule.as_str())).collect();
        assert_eq!(about, [("copyleft 1.0.0", "GPL-3.0-only"), ("unsaid 1.0.0", "none")]);
    }
}
