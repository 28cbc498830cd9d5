//! `POST /v1/detections`: what is where in a picture. OpenAI has no such endpoint; this one is made like
//! its neighbours.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};
use qudao_plugin_api::wire::{DetectRequest, Detected, Object, PicturePart};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{completions::decode, embeddings::InputUsage, whole::Door};
use crate::{
    access::KeyCaller,
    code::Code,
    error::{ApiError, FieldCheck},
    extract::read_json,
    scope::RequestContext,
    state::AppState,
};

/// Some encoders leave bits in the last letter that mean nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);
/// The longest picture in base64: a plugin's request has 16 MiB.
const PICTURE_MAX: usize = 15 << 20;

/// A picture to look at.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetectionRequest {
    /// One of the models of `GET /v1/models` whose `kind` is `detect`.
    #[schema(min_length = 1)]
    model: String,
    /// A JPEG, PNG, WebP or GIF file as a `data:` address in base64, or its base64 alone.
    #[schema(
        min_length = 1,
        max_length = 15728640,
        pattern = r"^(data:image/[a-z+.-]+;base64,)?([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"
    )]
    image: String,
    /// What is less sure than this is left out, 0 to 1; the model's own bound if absent.
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f32>,
    /// Whether to return the picture with boxes and labels drawn into it.
    annotate: Option<bool>,
}

/// What is in the picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detection {
    /// Always `detection`.
    object: &'static str,
    model: String,
    /// Of the picture in pixels, turned upright as its EXIF data says.
    width: u32,
    /// Of the picture in pixels, turned upright as its EXIF data says.
    height: u32,
    /// The surest first.
    objects: Vec<Thing>,
    /// The picture with its boxes as a `data:` address, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    annotated: Option<String>,
    usage: InputUsage,
}

/// A thing in the picture.
#[derive(Debug, Serialize, ToSchema)]
struct Thing {
    label: String,
    /// From 0 to 1.
    score: f32,
    #[serde(rename = "box")]
    place: Place,
}

/// A box in pixels of the upright picture, from its upper left corner.
#[derive(Debug, Serialize, ToSchema)]
struct Place {
    left: f32,
    top: f32,
    width: f32,
    height: f32,
}

impl From<Object> for Thing {
    fn from(Object { label, score, left, top, width, height }: Object) -> Self {
        Self { label, score, place: Place { left, top, width, height } }
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
    let asked: DetectionRequest = decode(&body)?;
    let detect = parse(asked)?;
    let door =
        Door { state: &state, request: &request, caller: &caller, context: &context, body: &body };
    let mut whole = door.ask(detect, slot).await?;
    let (detected, annotated) = read(whole.take_pieces())?;
    let usage = InputUsage::new(whole.usage);
    let mut response = whole.response();
    let Detected { width, height, objects } = detected;
    let objects = objects.into_iter().map(Thing::from).collect();
    let (object, model) = ("detection", whole.model);
    Ok(response.json(Detection { object, model, width, height, objects, annotated, usage }))
}

fn parse(asked: DetectionRequest) -> Result<DetectRequest, ApiError> {
    let DetectionRequest { model, image, threshold, annotate } = asked;
    let mut check = FieldCheck::default();
    if model.is_empty() {
        check.refuse("/model", "must not be empty");
    }
    if threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
        check.refuse("/threshold", "has to be between 0 and 1");
    }
    let encoded = match image.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map_or("", |(_, encoded)| encoded),
        None => &image,
    };
    let bytes = LENIENT.decode(encoded).unwrap_or_default();
    if PICTURE_MAX < encoded.len() {
        check.refuse("/image", format_args!("may have {PICTURE_MAX} characters at most"));
    } else if bytes.is_empty() {
        check.refuse("/image", "has to be base64, or a `data:` address in base64");
    }
    let annotate = annotate.unwrap_or(false);
    let picture = STANDARD.encode(bytes);
    check.finish(Some(DetectRequest { threshold, annotate, ..DetectRequest::new(model, picture) }))
}

/// What was found, and the annotated picture as a `data:` address if its parts are there.
fn read(pieces: Vec<Value>) -> Result<(Detected, Option<String>), ApiError> {
    let failed =
        || ApiError::new(Code::ModelFailed, "the model's answer has another form than was asked");
    let mut pieces = pieces.into_iter();
    let first = pieces.next().ok_or_else(failed)?;
    let detected = serde_json::from_value(first).map_err(|_| failed())?;
    let (mut bytes, mut media_type) = (Vec::new(), None);
    for piece in pieces {
        let part: PicturePart = serde_json::from_value(piece).map_err(|_| failed())?;
        bytes.extend(STANDARD.decode(&part.part).map_err(|_| failed())?);
        media_type = Some(part.media_type);
    }
    let annotated = media_type.map(|kind| format!("data:{kind};base64,{}", STANDARD.encode(bytes)));
    Ok((detected, annotated))
}
