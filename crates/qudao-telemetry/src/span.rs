//! A step of a trace, from its beginning to where it is dropped.

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime},
};

use crate::{recorder, trace::Trace};

/// What a span is to the one that it is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A step of the same work.
    Internal,
    /// Serves a request from outside.
    Server,
    /// Calls somebody else.
    Client,
    /// Puts work in a queue.
    Producer,
    /// Takes work from a queue.
    Consumer,
}

/// The value of an attribute. Never a text that a person or a model wrote, never a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A word or a name.
    Text(Cow<'static, str>),
    /// A list of words.
    Texts(Vec<Cow<'static, str>>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<&'static str>> for Value {
    fn from(words: Vec<&'static str>) -> Self {
        Self::Texts(words.into_iter().map(Cow::Borrowed).collect())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// The trace, and the span's own id.
    pub place: Trace,
    /// The span that it is a child of; 0 for none.
    pub parent_id: u64,
    /// Whether that one may be of another process.
    pub parent_is_remote: bool,
    /// What is done.
    pub name: Cow<'static, str>,
    /// What it is to its parent.
    pub kind: SpanKind,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Places in other traces that it has to do with.
    pub links: Vec<Trace>,
    /// The class of its failure, a word of a closed set.
    pub failure: Option<&'static str>,
}

/// A step under way. It ends when it is dropped. One that nobody records holds its place in the
/// trace and nothing else.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    place: Trace,
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    span: FinishedSpan,
    since: Instant,
}

impl Span {
    /// A span that is recorded by nobody, at a place in a trace.
    pub const fn silent(place: Trace) -> Self {
        Self { place, open: None }
    }

    /// A step of what is done at `parent`.
    pub fn child(name: &'static str, kind: SpanKind, parent: Trace) -> Self {
        if !recorder::records(parent) {
            return Self::silent(parent);
        }
        let place = parent.under(rand::random::<u64>().max(1));
        Self::open(name.into(), kind, place, parent.span_id(), false)
    }

    /// As [`Span::child`], for a parent that is of another process.
    pub fn remote_child(name: &'static str, kind: SpanKind, parent: Trace) -> Self {
        let mut span = Self::child(name, kind, parent);
        if let Some(open) = &mut span.open {
            open.span.parent_is_remote = true;
        }
        span
    }

    /// The first span of a piece of work: the one whose id [`Trace::of_work`] derives.
    pub fn first(name: &'static str, kind: SpanKind, work: Trace) -> Self {
        if !recorder::records(work) {
            return Self::silent(work);
        }
        Self::open(name.into(), kind, work, 0, false)
    }

    fn open(
        name: Cow<'static, str>,
        kind: SpanKind,
        place: Trace,
        parent_id: u64,
        parent_is_remote: bool,
    ) -> Self {
        #[expect(clippy::disallowed_methods, reason = "spans of all nodes meet on the wall clock")]
        let began = SystemTime::now();
        let span = FinishedSpan {
            place,
            parent_id,
            parent_is_remote,
            name,
            kind,
            began,
            took: Duration::ZERO,
            attributes: Vec::with_capacity(8),
            links: Vec::new(),
            failure: None,
        };
        Self { place, open: Some(Box::new(Open { span, since: Instant::now() })) }
    }

    /// Where its own steps are to be told.
    pub const fn place(&self) -> Trace {
        self.place
    }

    /// Whether anybody will hear of it; what is only made for attributes can be spared otherwise.
    pub const fn is_recorded(&self) -> bool {
        self.open.is_some()
    }

    /// Gives it a name that is only known now, such as one with a model in it.
    pub fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(open) = &mut self.open {
            open.span.name = name().into();
        }
    }

    /// Notes what is known of it. Never a text that a person or a model wrote, never a key.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.open {
            open.span.attributes.push((key, value.into()));
        }
    }

    /// As [`Span::set`], for a value that costs something to make.
    pub fn set_with(&mut self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(open) = &mut self.open {
            open.span.attributes.push((key, value().into()));
        }
    }

    /// Points to a place in another trace.
    pub fn link(&mut self, place: Trace) {
        if let Some(open) = &mut self.open
            && place.trace_id() != 0
        {
            open.span.links.push(place);
        }
    }

    /// It began this long before now.
    pub fn backdate(&mut self, by: Duration) {
        if let Some(open) = &mut self.open {
            open.span.began = open.span.began.checked_sub(by).unwrap_or(open.span.began);
            open.since = open.since.checked_sub(by).unwrap_or(open.since);
        }
    }

    /// It failed. The class is one of a closed set of words.
    pub fn fail(&mut self, class: &'static str) {
        if let Some(open) = &mut self.open {
            open.span.failure = Some(class);
        }
    }

    /// Ends it now.
    pub fn end(self) {}
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let Open { mut span, since } = *open;
            span.took = since.elapsed();
            recorder::record(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_recorder_a_span_is_its_parents_place_and_nothing_else() {
        let parent =
            Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let mut span = Span::child("step", SpanKind::Internal, parent);
        span.set("key", 1_i64);
        span.set_with("other", || unreachable!("nobody will hear of it"));
        assert!(!span.is_recorded());
        assert_eq!(span.place(), parent);
    }
}
