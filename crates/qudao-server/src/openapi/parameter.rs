//! Parameters of operations, and what bounds them.

use qudao_domain::text::IdempotencyKey;
use utoipa::openapi::{
    Required, Schema,
    path::{ParameterBuilder, ParameterIn},
    schema::{ObjectBuilder, Type},
};

use crate::{
    admin::{people::MAX_SEARCH, ratings::MAX_DAYS as MAX_RATED, traffic::MAX_MINUTES},
    chat::session::MAX_CLIENT_ID,
    extract::MAX_PAGE,
};

/// What a parameter of a path is, in words.
pub(super) fn path_words(name: &str) -> &'static str {
    match name {
        "key" => "The public key of the web channel, as in the address of the chat page.",
        "plugin_id" => "The plugin's id, as in its manifest.",
        "model" => "The model's name.",
        _ => "The id.",
    }
}

/// A parameter with the bounds that its name has everywhere.
pub(super) fn parameter(
    place: ParameterIn,
    name: &str,
    required: bool,
    words: &str,
) -> ParameterBuilder {
    let kind = match name {
        "limit" => {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MAX_PAGE))
        }
        "days" => ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(MAX_RATED)),
        "search" => ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(MAX_SEARCH))
            .pattern(Some(r"^[^\x00]*$")),
        "contact" => {
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^cnt_[0-9a-f]{32}$"))
        }
        "turn_id" => {
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^trn_[0-9a-f]{32}$"))
        }
        "route_id" => {
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^rte_[0-9a-f]{32}$"))
        }
        "conversation_id" => {
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^cnv_[0-9a-f]{32}$"))
        }
        "minutes" => ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(MAX_MINUTES)),
        "model" if place == ParameterIn::Query => ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^[^\s\x00-\x1f\x7f-\x9f]+$")),
        "arm" => {
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(stable|canary|shadow)$"))
        }
        "outcome" => ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^(first|fallback|nobody)$")),
        "status" => ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^(ready|sending|done|dead|expired)$")),
        "voice" => ObjectBuilder::new().schema_type(Type::Boolean),
        // The client's own id of a message.
        "id" => ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX_CLIENT_ID))
            .pattern(Some("^[!-~]+$")),
        "Idempotency-Key" => ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(IdempotencyKey::MAX_CHARS))
            .pattern(Some("^[!-~]([ -~]*[!-~])?$")),
        _ => ObjectBuilder::new().schema_type(Type::String),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(if required { Required::True } else { Required::False })
        .description(Some(words))
        .schema(Some(Schema::Object(kind.build())))
}
