//! A collector of traces, as OpenTelemetry describes it: takes OTLP over HTTP and keeps it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, any_value},
};
use prost::Message as _;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{method, path},
};

pub(crate) struct Collector(MockServer);

/// A span as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) failure: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) links: Vec<String>,
    /// The process that it is of.
    pub(crate) node: String,
    pub(crate) role: String,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let server = MockServer::start().await;
        let taken =
            ResponseTemplate::new(200).insert_header("content-type", "application/x-protobuf");
        Mock::given(method("POST"))
            .and(path("/v1/traces"))
            .respond_with(taken)
            .mount(&server)
            .await;
        Self(server)
    }

    pub(crate) fn url(&self) -> String {
        self.0.uri()
    }

    /// The bytes of everything that came in.
    pub(crate) async fn raw(&self) -> Vec<u8> {
        let requests = self.0.received_requests().await.unwrap();
        requests.into_iter().flat_map(|request| request.body).collect()
    }

    pub(crate) async fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for request in self.0.received_requests().await.unwrap() {
            assert_eq!(request.headers["content-type"], "application/x-protobuf");
            let export = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
            for resource in export.resource_spans {
                let of = resource.resource.unwrap().attributes;
                let of: BTreeMap<_, _> =
                    of.into_iter().map(|pair| (pair.key, text(pair.value))).collect();
                assert_eq!(of["service.name"], "qudao");
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.push(read(span, &of));
                }
            }
        }
        spans
    }

    /// Waits for a span with this name in this trace, in any trace if that is empty.
    pub(crate) async fn wait_for(&self, trace: &str, name: &str) -> Span {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let spans = self.spans().await;
            let found = spans
                .iter()
                .find(|span| span.name == name && (trace.is_empty() || span.trace == trace));
            if let Some(span) = found {
                return span.clone();
            }
            let names: Vec<_> = spans.iter().map(|span| (&span.trace, &span.name)).collect();
            assert!(Instant::now() < deadline, "no span {name} in {trace}: {names:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn read(span: opentelemetry_proto::tonic::trace::v1::Span, of: &BTreeMap<String, String>) -> Span {
    let attributes = span.attributes.into_iter().map(|pair| (pair.key, text(pair.value)));
    Span {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        failure: span.status.map(|status| status.message).unwrap_or_default(),
        attributes: attributes.collect(),
        node: of["service.instance.id"].clone(),
        role: of["qudao.role"].clone(),
        links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
    }
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::ArrayValue(list)) => {
            list.values.into_iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
