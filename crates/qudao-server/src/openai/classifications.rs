//! `POST /v1/classifications`: classes of texts with their probabilities. OpenAI has no such endpoint;
//! this one is made like its neighbours.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_plugin_api::wire::{Classified, ClassifyRequest, Score, Word};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    completions::decode,
    embeddings::InputUsage,
    whole::{Door, Texts},
};
use crate::{
    access::KeyCaller,
    error::{ApiError, FieldCheck},
    extract::read_json,
    scope::RequestContext,
    state::AppState,
};

/// Texts that are explained in one call at most: each takes as long as it has words.
const EXPLAINED_MAX: usize = 32;

/// A request for classes.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ClassificationRequest {
    /// One of the models of `GET /v1/models` whose `kind` is `classify`.
    #[schema(min_length = 1)]
    model: String,
    /// The text, or a list of up to 2048; of up to 32 where `explain` is set.
    input: Texts,
    /// Whether to say which words decided. Each counts as a token of the answer.
    explain: Option<bool>,
}

/// The classes, in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassificationList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Classification>,
    model: String,
    usage: InputUsage,
}

/// The class of one text.
#[derive(Debug, Serialize, ToSchema)]
struct Classification {
    /// Always `classification`.
    object: &'static str,
    /// Which text, from 0.
    index: u32,
    /// The likeliest class; null where the model is not sure enough to name one.
    label: Option<String>,
    /// Whether the model names none.
    abstained: bool,
    /// Every class, the likeliest first; the probabilities add up to 1.
    scores: Vec<ClassScore>,
    /// What each word did for the likeliest class, where that was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    words: Vec<WordWeight>,
    /// Whether the text was longer than the model reads: the rest of it does not count.
    truncated: bool,
}

/// How likely a class is.
#[derive(Debug, Serialize, ToSchema)]
struct ClassScore {
    label: String,
    /// From 0 to 1.
    probability: f32,
}

/// What a word did for the likeliest class.
#[derive(Debug, Serialize, ToSchema)]
struct WordWeight {
    text: String,
    /// Where it begins in the text, in characters from 0.
    start: u32,
    /// Where it ends.
    end: u32,
    /// Above 0 if it spoke for the class, below 0 if against it; comparable within one text.
    weight: f32,
}

impl From<Classified> for Classification {
    fn from(from: Classified) -> Self {
        let Classified { index, label, scores, words, truncated } = from;
        let score = |Score { label, probability }| ClassScore { label, probability };
        let word = |Word { text, start, end, weight }| WordWeight { text, start, end, weight };
        Self {
            object: "classification",
            index,
            abstained: label.is_none(),
            label,
            scores: scores.into_iter().map(score).collect(),
            words: words.into_iter().map(word).collect(),
            truncated,
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
    let ClassificationRequest { model, input, explain } = decode(&body)?;
    let explain = explain.unwrap_or(false);
    let mut check = FieldCheck::default();
    if model.is_empty() {
        check.refuse("/model", "must not be empty");
    }
    let texts = input.take(&mut check);
    let count = texts.len();
    if explain && EXPLAINED_MAX < count {
        check.refuse("/input", format_args!("may hold {EXPLAINED_MAX} texts with `explain`"));
    }
    let classify =
        check.finish(Some(ClassifyRequest { explain, ..ClassifyRequest::new(model, texts) }))?;
    let door =
        Door { state: &state, request: &request, caller: &caller, context: &context, body: &body };
    let mut whole = door.ask(classify, slot).await?;
    let classes = whole.each(count, |classified: &Classified| classified.index)?;
    let usage = InputUsage::new(whole.usage);
    let mut response = whole.response();
    let data = classes.into_iter().map(Classification::from).collect();
    Ok(response.json(ClassificationList { object: "list", data, model: whole.model, usage }))
}
