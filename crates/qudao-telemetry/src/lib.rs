//! What the other crates say about themselves: their metrics as a catalogue ([`Metric`]) and the
//! spans of a trace ([`Span`]).
//!
//! Nothing here knows a collector. Spans go to whoever called [`install`]; while nobody did, one
//! is two numbers on the stack, and neither time nor memory is spent on it.
//!
//! Spans are not those of the crate `tracing`, whose are for log lines here, for three reasons: a
//! turn's trace and its first span have ids that every node can derive; what a log line says never
//! leaves the machine by way of a span, so that no text of a person and no provider's answer can;
//! and a call that is not sampled costs nothing.

mod metric;
mod recorder;
mod redact;
mod span;
mod trace;

pub use metric::{Kind, Label, Metric, Unit, reference_markdown, register};
pub use recorder::{Recorder, SpanQueue, install};
pub use redact::Redacted;
pub use span::{FinishedSpan, Span, SpanKind, Value};
pub use trace::Trace;
