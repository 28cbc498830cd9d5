//! What a request carries.

use serde_json::Value;
use utoipa::openapi::{
    Content, RefOr, Required, Schema,
    request_body::{RequestBody, RequestBodyBuilder},
};

/// What a request carries.
#[derive(Clone, Default)]
pub(super) enum Body {
    #[default]
    Nothing,
    /// JSON, with an example.
    Json(RefOr<Schema>, Value),
    /// A file, and nothing beside it.
    File,
    /// A form with a file in it.
    Form(RefOr<Schema>),
}

impl Body {
    pub(super) fn describe(&self) -> Option<RequestBody> {
        let (media_type, content) = match self {
            Self::Nothing => return None,
            Self::Json(schema, example) => {
                let content = Content::builder().schema(Some(schema.clone()));
                ("application/json", content.example(Some(example.clone())).build())
            }
            Self::File => ("application/octet-stream", Content::default()),
            Self::Form(schema) => ("multipart/form-data", Content::new(Some(schema.clone()))),
        };
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        Some(body.content(media_type, content).build())
    }
}
