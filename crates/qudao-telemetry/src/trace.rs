//! Where in which trace something happens, as the W3C header `traceparent` says it.

use std::fmt;

use crate::recorder;

/// A place in a trace: what happens there is a child of the span that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Trace {
    /// No trace: what happens there is told to nobody.
    pub const NONE: Self = Self { trace_id: 0, span_id: 0, sampled: false };

    /// A new trace, which begins with its first span.
    #[must_use]
    pub fn begin() -> Self {
        let trace_id = rand::random::<u128>().max(1);
        Self { trace_id, span_id: 0, sampled: recorder::samples(trace_id) }
    }

    /// The trace of a piece of work that every node knows by this id. All of them derive the same
    /// trace and the same first span, so whoever takes the work over goes on in the trace of the
    /// one who began.
    #[must_use]
    pub fn of_work(id: u128) -> Self {
        let trace_id = id.max(1);
        Self { trace_id, span_id: mix(trace_id).max(1), sampled: recorder::samples(trace_id) }
    }

    /// What a `traceparent` says; `None` if it is not one.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        // version, trace, span, flags: later versions may add more behind another hyphen.
        let whole = bytes.len() == 55 || 55 < bytes.len() && bytes[55] == b'-';
        if !whole || [2, 35, 52].iter().any(|at| bytes[*at] != b'-') {
            return None;
        }
        let version = number(&bytes[..2])?;
        if version == 0xff || version == 0 && bytes.len() != 55 {
            return None;
        }
        let trace_id = number(&bytes[3..35])?;
        let span_id = u64::try_from(number(&bytes[36..52])?).ok()?;
        let sampled = number(&bytes[53..55])? & 1 == 1;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled })
    }

    /// The 32 hexadecimal digits that all spans of the trace share, for log lines.
    pub fn id(&self) -> impl fmt::Display + fmt::Debug + use<> {
        TraceId(self.trace_id)
    }

    /// The header for whoever is called from here; empty for [`Trace::NONE`].
    #[must_use]
    pub fn traceparent(&self) -> String {
        if self.trace_id == 0 {
            return String::new();
        }
        // Without a span of ours the callee still needs a parent that is not zero.
        let span_id = if self.span_id == 0 { mix(self.trace_id).max(1) } else { self.span_id };
        let flags = u8::from(self.sampled);
        // Not by `format!`: every call of a model asks for it.
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&self.trace_id.to_be_bytes(), &mut text);
        text.push('-');
        push_hex(&span_id.to_be_bytes(), &mut text);
        text.push('-');
        push_hex(&[flags], &mut text);
        text
    }

    /// Whether spans here are recorded, if anybody records.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The trace's id as a number, 0 for [`Trace::NONE`].
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span that is the parent here; 0 before the first span.
    #[must_use]
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }

    pub(crate) fn under(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }
}

fn push_hex(bytes: &[u8], text: &mut String) {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
}

/// Lower-case digits alone: the standard allows no others.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

/// Spreads an id over 64 bits: some of the bits of a UUID are always the same.
pub(crate) fn mix(id: u128) -> u64 {
    let folded = u64::try_from(id >> 64).unwrap_or(0)
        ^ u64::try_from(id & u128::from(u64::MAX)).unwrap_or(0);
    let mut mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 32;
    mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_that_was_read_is_written_as_it_was() {
        let trace = Trace::parse(GOOD).unwrap();
        assert!(trace.is_sampled());
        assert_eq!(trace.traceparent(), GOOD);
        assert_eq!(trace.id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let bad = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-0f067aa0ba902b7-01",
        ];
        for text in bad {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert!(Trace::parse(later).is_some(), "a later version may say more");
    }

    #[test]
    fn every_node_derives_the_same_trace_of_a_piece_of_work() {
        assert_eq!(Trace::of_work(7), Trace::of_work(7));
        assert_ne!(Trace::of_work(7).id().to_string(), Trace::of_work(8).id().to_string());
        assert_ne!(Trace::of_work(7).span_id(), Trace::of_work(8).span_id());
    }

    #[test]
    fn a_trace_without_a_span_still_names_a_parent_to_whoever_is_called() {
        let trace = Trace::begin();
        assert_eq!(trace.span_id(), 0);
        assert!(Trace::parse(&trace.traceparent()).is_some());
        assert_eq!(Trace::NONE.traceparent(), "");
    }

    proptest! {
        #[test]
        fn any_text_is_a_traceparent_that_is_written_again_or_none(
            text in "[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-\\PC{0,5})?|\\PC{0,60}",
        ) {
            if let Some(trace) = Trace::parse(&text) {
                let again = trace.traceparent();
                prop_assert_eq!(&again[3..52], &text[3..52]);
                prop_assert_eq!(Trace::parse(&again), Some(trace));
            }
        }
    }
}
