//! A span in OpenTelemetry's form.

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, StringValue, Value as OtlpValue,
    trace::{
        Link, SpanContext, SpanId, SpanKind as OtlpKind, Status, TraceFlags, TraceId, TraceState,
    },
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use qudao_telemetry::{FinishedSpan, SpanKind, Trace, Value};

pub(super) fn span(from: FinishedSpan) -> SpanData {
    let mut links = SpanLinks::default();
    links.links.extend(from.links.into_iter().map(|place| Link::new(context(place), vec![], 0)));
    let mut attributes: Vec<_> = from.attributes.into_iter().map(attribute).collect();
    attributes.extend(from.failure.map(|class| KeyValue::new("error.type", class)));
    SpanData {
        span_context: context(from.place),
        parent_span_id: SpanId::from(from.parent_id),
        parent_span_is_remote: from.parent_is_remote,
        span_kind: kind(from.kind),
        name: from.name,
        start_time: from.began,
        end_time: from.began + from.took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: from.failure.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("qudao")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn context(place: Trace) -> SpanContext {
    let flags = if place.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(place.trace_id()), SpanId::from(place.span_id()));
    SpanContext::new(trace, span, flags, false, TraceState::default())
}

const fn kind(kind: SpanKind) -> OtlpKind {
    match kind {
        SpanKind::Internal => OtlpKind::Internal,
        SpanKind::Server => OtlpKind::Server,
        SpanKind::Client => OtlpKind::Client,
        SpanKind::Producer => OtlpKind::Producer,
        SpanKind::Consumer => OtlpKind::Consumer,
    }
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    let value = match value {
        Value::Text(text) => OtlpValue::String(text.into()),
        Value::Texts(texts) => {
            let texts = texts.into_iter().map(StringValue::from).collect();
            OtlpValue::Array(Array::String(texts))
        }
        Value::Number(number) => OtlpValue::I64(number),
    };
    KeyValue::new(key, value)
}
