//! The last call of an instance that failed: no log line quotes what was said of it, so the operator
//! reads it in a report.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use qudao_telemetry::Redacted;

use crate::{event::CallError, metrics, report::FailureReport};

/// What was said last, and when.
#[derive(Debug, Default)]
pub(crate) struct LastFailure(Mutex<Option<(Instant, FailureReport)>>);

impl LastFailure {
    /// Counts and keeps it.
    pub(crate) fn note(&self, instance: &str, error: &CallError) {
        metrics::count_error(instance, error);
        let (class, message) = (error.class(), Redacted(&error.to_string()).to_string());
        let report = FailureReport { class, message, seconds_ago: 0 };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), report));
    }

    pub(crate) fn report(&self) -> Option<FailureReport> {
        let (at, report) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(FailureReport { seconds_ago: at.elapsed().as_secs(), ..report })
    }
}
