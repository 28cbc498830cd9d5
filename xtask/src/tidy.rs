//! Ceilings and habits that prose does not hold: see `ARCHITECTURE.md`, "Habits".

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use syn::{spanned::Spanned as _, visit::Visit};

/// Lines of a function, its signature and braces included.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file outside its test module.
const FILE_LINES_MAX: usize = 500;
/// Functions that may be longer, and why.
const LONG_BY_DESIGN: &[(&str, &str)] =
    // Every endpoint in one list is worth more than a short function.
    &[("crates/qudao-server/src/lib.rs", "endpoints")];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];
/// Where `unsafe` may stand: the C boundary, the plugin that misbehaves on purpose, and the one file
/// that enters functions compiled for an instruction set which it has found.
const UNSAFE_ROOTS: &[&str] = &[
    "crates/qudao-plugin-api/",
    "crates/qudao-plugin-host/",
    "plugins/candle-llm/src/tiles/x86.rs",
    "plugins/rogue/",
];

pub(crate) fn run() -> Result<()> {
    let mut faults = Vec::new();
    for path in tracked_rust_files()? {
        let text = fs::read_to_string(crate::root().join(&path))?;
        examine(&path, &text, &mut faults);
    }
    if !faults.is_empty() {
        bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(())
}

fn tracked_rust_files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(crate::root())
        .output()
        .context("running git ls-files")?;
    let listing = String::from_utf8(output.stdout)?;
    Ok(listing
        .lines()
        .map(PathBuf::from)
        .filter(|path| crate::root().join(path).exists())
        .collect())
}

fn examine(path: &Path, text: &str, faults: &mut Vec<String>) {
    let shown = path.display().to_string();
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) || stem.ends_with("_v2") {
        faults.push(format!("{shown}: the name says nothing; name the file after its content"));
    }
    let is_root = matches!(stem, "lib" | "main") && shown.contains("src/");
    if is_root && !text.trim_start().starts_with("//!") {
        faults.push(format!("{shown}: a crate begins with a `//!` sentence"));
    }
    if is_test_file(&shown) {
        return;
    }
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return faults.push(format!("{shown}: {error}")),
    };
    let mut visitor = Visitor { path: &shown, faults, test_lines: 0 };
    visitor.visit_file(&file);
    let test_lines = visitor.test_lines;
    let lines = text.lines().count() - test_lines;
    if FILE_LINES_MAX < lines {
        faults.push(format!("{shown}: {lines} lines outside tests, at most {FILE_LINES_MAX}"));
    }
}

/// Tests read like stories and may be as long as the story is.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/")
}

struct Visitor<'a> {
    path: &'a str,
    faults: &'a mut Vec<String>,
    test_lines: usize,
}

impl Visitor<'_> {
    fn function(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line - span.start().line + 1;
        let by_design =
            LONG_BY_DESIGN.iter().any(|(path, long)| *path == self.path && name == long);
        if FUNCTION_LINES_MAX < lines && !by_design {
            let line = span.start().line;
            self.faults.push(format!(
                "{}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}",
                self.path
            ));
        }
    }

    fn unsafe_at(&mut self, span: proc_macro2::Span) {
        if !UNSAFE_ROOTS.iter().any(|root| self.path.starts_with(root)) {
            let line = span.start().line;
            self.faults.push(format!("{}:{line}: unsafe outside the plugin boundary", self.path));
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let gated = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test")
        });
        if gated {
            let span = item.span();
            self.test_lines += span.end().line - span.start().line + 1;
            return;
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, item.block.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, item.block.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        self.unsafe_at(expression.span());
        syn::visit::visit_expr_unsafe(self, expression);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::examine;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        examine(Path::new(path), text, &mut faults);
        faults
    }

    #[test]
    fn a_function_over_the_ceiling_is_reported_with_its_line() {
        let text = format!("//! A crate.\nfn long() {{\n{}}}\n", "    let _ = 1;\n".repeat(69));
        assert_eq!(
            faults("crates/x/src/lib.rs", &text),
            ["crates/x/src/lib.rs:2: fn long has 71 lines, at most 70"]
        );
    }

    #[test]
    fn lines_of_the_test_module_do_not_count() {
        let body = "    // line\n".repeat(600);
        let text = format!("fn short() {{}}\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert!(faults("crates/x/src/name.rs", &text).is_empty());
    }

    #[test]
    fn unsafe_outside_the_boundary_and_empty_names_are_reported() {
        assert_eq!(faults("crates/qudao-core/src/a.rs", "fn f() { unsafe {} }").len(), 1);
        assert!(faults("crates/qudao-plugin-host/src/a.rs", "fn f() { unsafe {} }").is_empty());
        assert_eq!(faults("crates/x/src/utils.rs", "").len(), 1);
        assert_eq!(faults("crates/x/src/lib.rs", "fn f() {}").len(), 1);
    }
}
