//! What people and scripts read: results on standard output, progress and failures on standard
//! error, so that a pipe gets results only.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use qudao_config::ConfigError;
use qudao_services::ServicesError;

/// Something was wrong with the command line or the settings.
pub(crate) const USAGE: u8 = 2;
/// A program that is needed is not installed.
pub(crate) const MISSING: u8 = 3;

/// A line of a result. A closed pipe is not an error: nobody wants to know any more.
pub(crate) fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A result for programs.
pub(crate) fn print_json(value: &serde_json::Value) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Part of a line of a result, shown at once.
pub(crate) fn print_part(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A line of progress.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether a person watches the progress.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Says why the command failed, the cause after the context, and chooses the exit code.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    say(&format!("qudao: {error:#}"));
    for cause in error.chain() {
        if cause.is::<ConfigError>() {
            return ExitCode::from(USAGE);
        }
        if matches!(cause.downcast_ref(), Some(ServicesError::Missing { .. })) {
            return ExitCode::from(MISSING);
        }
    }
    ExitCode::FAILURE
}

/// How long each step of a start took.
#[derive(Debug)]
pub(crate) struct Steps {
    begun: Instant,
    last: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, done: Vec::new() }
    }

    /// The step that just ended.
    pub(crate) fn done(&mut self, what: &'static str) {
        let now = Instant::now();
        self.done.push((what, now - self.last));
        self.last = now;
    }

    /// `Postgres and Redis 1.2 s, schema 0.1 s; 1.4 s in all`.
    pub(crate) fn line(&self) -> String {
        let steps: Vec<String> =
            self.done.iter().map(|(what, took)| format!("{what} {}", seconds(*took))).collect();
        format!("{}; {} in all", steps.join(", "), seconds(self.last - self.begun))
    }
}

/// `0.43 s`
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
