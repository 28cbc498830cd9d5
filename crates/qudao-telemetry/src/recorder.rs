//! Who hears of the spans of this process, and which traces are heard of at all.

use std::sync::OnceLock;

use metrics::counter;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};

use crate::{
    span::FinishedSpan,
    trace::{Trace, mix},
};

/// How much is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Recorder {
    /// The share of new traces that is recorded, from 0 to 1. Whether a trace is depends on its id
    /// alone, so nodes with the same share agree. One that comes from outside says so itself.
    pub share: f64,
    /// Finished spans that wait for the exporter. What comes when there is no room is dropped and
    /// counted; nobody waits.
    pub queue: usize,
}

/// The spans that ended, in order.
pub type SpanQueue = Receiver<FinishedSpan>;

struct Installed {
    /// Traces whose mixed id is at most this are recorded.
    threshold: u64,
    everything: bool,
    queue: Sender<FinishedSpan>,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// From now on spans are recorded. Returns where they come out; `None` if that was done before.
#[must_use]
pub fn install(recorder: Recorder) -> Option<SpanQueue> {
    let (queue, spans) = mpsc::channel(recorder.queue.max(1));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the numbers there are; such a cast saturates"
    )]
    let threshold = (recorder.share.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
    let installed = Installed { threshold, everything: 1.0 <= recorder.share, queue };
    INSTALLED.set(installed).ok()?;
    Some(spans)
}

/// Whether a new trace with this id is recorded.
pub(crate) fn samples(trace_id: u128) -> bool {
    INSTALLED.get().is_some_and(|installed| {
        installed.everything || mix(trace_id.rotate_left(17)) < installed.threshold
    })
}

/// Whether spans at this place are recorded.
pub(crate) fn records(place: Trace) -> bool {
    place.is_sampled() && INSTALLED.get().is_some()
}

/// Hands a span over, or drops it and counts it.
pub(crate) fn record(span: FinishedSpan) {
    let Some(installed) = INSTALLED.get() else { return };
    match installed.queue.try_send(span) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => {
            counter!("qudao_spans_dropped_total", "why" => "queue_full").increment(1);
        }
        Err(TrySendError::Closed(_)) => {
            counter!("qudao_spans_dropped_total", "why" => "closed").increment(1);
        }
    }
}
