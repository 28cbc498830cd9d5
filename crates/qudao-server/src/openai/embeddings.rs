//! `POST /v1/embeddings`: vectors of texts, as OpenAI's endpoint of that name.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_plugin_api::wire::{EmbedRequest, Embedded, Purpose};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    completions::decode,
    whole::{Door, Texts},
};
use crate::{
    access::KeyCaller,
    error::{ApiError, FieldCheck},
    extract::read_json,
    scope::RequestContext,
    state::AppState,
};

/// A request for vectors.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    /// One of the models of `GET /v1/models` whose `kind` is `embed`.
    #[schema(min_length = 1)]
    model: String,
    /// The text, or a list of up to 2048. Lists of tokens are not served: each model has its own.
    input: Texts,
    /// `float` for lists of numbers, `base64` for their little-endian 32-bit floats.
    encoding_format: Option<EncodingFormat>,
    /// Only the model's own number is served.
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    dimensions: Option<u32>,
    /// Whether the texts are searched with or are to be found, where the model tells the two apart:
    /// `query` if left out. Not known to OpenAI's own models.
    input_type: Option<InputType>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EncodingFormat {
    /// A list of numbers.
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

/// What vectors are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum InputType {
    /// To search with, or to compare texts of one kind.
    Query,
    /// To be found.
    Passage,
}

/// The vectors, in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: InputUsage,
}

/// The vector of one text.
#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    /// Always `embedding`.
    object: &'static str,
    /// Which text, from 0.
    index: u32,
    embedding: Vector,
    /// The text was longer than the model reads, and the vector is one of its beginning; left out where
    /// it was not. Not known to OpenAI.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    truncated: bool,
}

/// A list of numbers, or base64.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    /// Numbers.
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

/// What was read.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InputUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl InputUsage {
    pub(crate) fn new(usage: qudao_plugin_api::wire::Usage) -> Self {
        let total_tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        Self { prompt_tokens: usage.input_tokens, total_tokens }
    }
}

impl Vector {
    fn write(numbers: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(numbers),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: KeyCaller,
    context: RequestContext,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let slot = state.core.enter_call(&caller.0)?;
    let limit = state.settings.limits.completion_body_bytes;
    let body = read_json(&request, payload.into_inner(), limit).await?;
    let EmbeddingRequest { model, input, encoding_format, dimensions, input_type } = decode(&body)?;
    let mut check = FieldCheck::default();
    if model.is_empty() {
        check.refuse("/model", "must not be empty");
    }
    let texts = input.take(&mut check);
    let count = texts.len();
    let embed = check.finish(Some(EmbedRequest {
        purpose: input_type.map(|input_type| match input_type {
            InputType::Query => Purpose::Query,
            InputType::Passage => Purpose::Passage,
        }),
        ..EmbedRequest::new(model, texts)
    }))?;
    let door =
        Door { state: &state, request: &request, caller: &caller, context: &context, body: &body };
    let mut whole = door.ask(embed, slot).await?;
    let vectors = whole.each(count, |embedded: &Embedded| embedded.index)?;
    let width = vectors.first().map_or(0, |first| first.embedding.len());
    if dimensions.is_some_and(|wanted| usize::try_from(wanted).is_ok_and(|wanted| wanted != width))
    {
        return Err(ApiError::field("/dimensions", format!("the model's vectors have {width}")));
    }
    let format = encoding_format.unwrap_or(EncodingFormat::Float);
    let data = vectors
        .into_iter()
        .map(|Embedded { index, embedding, truncated }| Embedding {
            object: "embedding",
            index,
            embedding: Vector::write(embedding, format),
            truncated,
        })
        .collect();
    let usage = InputUsage::new(whole.usage);
    let mut response = whole.response();
    Ok(response.json(EmbeddingList { object: "list", data, model: whole.model, usage }))
}
