//! What the platform sends to partners, as the description's `webhooks`: written from the types of
//! the wire.

use qudao_pcp::{
    Delivered, ErrorData, Event, GapData, HandoffData, MessageData, PingData, RotatedData,
    TypingData, UpdateData, VerifyData, header, kind,
};
use utoipa::{
    ToSchema,
    openapi::{
        AllOfBuilder, Content, HttpMethod, PathItem, Paths, PathsBuilder, Ref, RefOr, Required,
        ResponseBuilder, Schema,
        path::{OperationBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{ObjectBuilder, Type},
    },
};

use super::{Schemas, parameter};

/// A kind of event, what it says, and the name of what it carries.
type Row = (&'static str, &'static str, String);

fn refer<T: ToSchema>(schemas: &mut Schemas) -> String {
    let name = T::name().into_owned();
    schemas.push((name.clone(), T::schema()));
    T::schemas(schemas);
    name
}

fn rows(schemas: &mut Schemas) -> Vec<Row> {
    vec![
        (kind::MESSAGE_CREATED, "Say this to the person.", refer::<MessageData>(schemas)),
        (kind::MESSAGE_UPDATED, "A message says this now.", refer::<UpdateData>(schemas)),
        (kind::TYPING_STARTED, "An answer is being made.", refer::<TypingData>(schemas)),
        (kind::HANDOFF_REQUESTED, "A person is asked for.", refer::<HandoffData>(schemas)),
        (kind::CHANNEL_ERROR, "The channel does not work.", refer::<ErrorData>(schemas)),
        (kind::ENDPOINT_VERIFY, "Answer with the challenge.", refer::<VerifyData>(schemas)),
        (kind::KEY_ROTATED, "There is a new key.", refer::<RotatedData>(schemas)),
        (kind::DELIVERY_GAP, "Messages were given up.", refer::<GapData>(schemas)),
        (kind::PING, "Is the endpoint there again?", refer::<PingData>(schemas)),
    ]
}

/// Every kind of event, and the schemas that they need.
pub(super) fn webhooks(schemas: &mut Schemas) -> Paths {
    let event = refer::<Event>(schemas);
    let answer = refer::<Delivered>(schemas);
    let mut paths = PathsBuilder::new();
    for (of, summary, data) in rows(schemas) {
        let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([of]));
        let own = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("type", kind)
            .property("data", Ref::from_schema_name(data));
        let body = AllOfBuilder::new().item(Ref::from_schema_name(event.clone())).item(own);
        let content = Content::new(Some(RefOr::T(Schema::AllOf(body.build()))));
        let mut operation = OperationBuilder::new()
            .tag("Partner channels")
            .summary(Some(summary))
            .operation_id(Some(format!("webhook_{}", of.replace('.', "_"))))
            .request_body(Some(
                RequestBodyBuilder::new()
                    .required(Some(Required::True))
                    .content("application/json", content)
                    .build(),
            ));
        for (name, words) in [
            (header::ID, "The event's id, the same at each attempt."),
            (header::TIMESTAMP, "Seconds since 1970, of this attempt."),
            (header::SIGNATURE, "`v1` and `v1a` signatures, separated by spaces."),
            (header::VERSION, "The dated version of the protocol."),
        ] {
            operation = operation.parameter(parameter(ParameterIn::Header, name, true, words));
        }
        let taken = Content::new(Some(RefOr::Ref(Ref::from_schema_name(answer.clone()))));
        let taken = ResponseBuilder::new().description("Taken.").content("application/json", taken);
        let told = |words: &str| ResponseBuilder::new().description(words).build();
        let operation = operation
            .response("200", taken.build())
            .response("410", told("The endpoint is no more: nothing is sent until it is verified."))
            .response("422", told("This event will never be taken: it is set aside."))
            .response("429", told("Later, as `Retry-After` says."));
        paths = paths.path(of, PathItem::new(HttpMethod::Post, operation.build()));
    }
    paths.build()
}
