//! `POST /v1/audio/transcriptions`: what is said in a sound, as OpenAI's endpoint of that name.

use actix_web::{HttpRequest, HttpResponse, http::header::ContentType, web};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_plugin_api::wire::{Segment, TranscribeRequest};
use serde::{Deserialize, de::IntoDeserializer as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{
    completions::accepted_again,
    stream::{streamed, streamed_again},
    transcript::{self, TranscriptWriter, Transcription, VerboseTranscription},
    whole::{Door, Opened},
};
use crate::{
    access::KeyCaller,
    code::Code,
    error::{ApiError, FieldCheck},
    extract::{FORM_OVERHEAD, Form, FormField, read_form},
    scope::RequestContext,
    state::AppState,
};

/// Bytes of a sound: in base64 they have to fit a plugin's request, which has 16 MiB.
const SOUND_MAX: usize = (15 << 20) / 4 * 3;
/// Characters of what is to be thought to have been said before.
const PROMPT_MAX: usize = 4_000;
const HOW: &str =
    "send multipart/form-data with the sound in the field `file` and the field `model`";

/// A sound to write down. A field of a form is there or not; there is no null.
#[derive(Debug, ToSchema)]
pub(crate) struct TranscriptionForm {
    /// Ogg or WebM with Opus, WAV or MP3, of 11,796,480 bytes at most. What it is its bytes say, and not
    /// its name.
    #[schema(value_type = String, format = Binary, min_length = 1)]
    file: web::Bytes,
    /// One of the models of `GET /v1/models` whose `kind` is `transcribe`, or such a route.
    #[schema(min_length = 1)]
    model: String,
    /// The language that is spoken, as in ISO 639; found out if left out.
    #[schema(nullable = false, pattern = "^[A-Za-z]{2,3}$")]
    language: Option<String>,
    /// What the model is to think was said before: names and words that come up.
    #[schema(nullable = false, max_length = 4000, pattern = r"^[^\x00]*$")]
    prompt: Option<String>,
    /// `json` if left out.
    #[schema(nullable = false)]
    response_format: Option<TranscriptFormat>,
    /// How freely words are chosen, 0 to 1; 0 if left out. Where the likeliest words make no sense,
    /// others are tried by themselves.
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    temperature: Option<f32>,
    /// Of what times are told, with `verbose_json`. Times of words are not served.
    #[schema(nullable = false, rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<Granularity>>,
    /// Whether what is understood is sent at once, as server-sent events; for `json` and `text`.
    #[schema(nullable = false)]
    stream: Option<bool>,
}

/// In which form the words are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TranscriptFormat {
    /// An object.
    #[default]
    Json,
    /// Nothing but the words.
    Text,
    /// Subtitles, as SubRip has them.
    Srt,
    /// An object with the stretches of speech and their times.
    VerboseJson,
    /// Subtitles, as browsers show them.
    Vtt,
}

/// Of what times are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Granularity {
    /// Of stretches of speech.
    Segment,
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: KeyCaller,
    context: RequestContext,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let slot = state.core.enter_call(&caller.0)?;
    let limit = state.settings.limits.completion_body_bytes.min(SOUND_MAX + FORM_OVERHEAD);
    let form = read_form(&request, payload.into_inner(), limit, HOW).await?;
    let body = fingerprint(&form);
    let asked = TranscriptionForm::read(&form)?;
    // The bytes of the form are not needed any more, and are many.
    drop(form);
    let (format, language) = (asked.response_format.unwrap_or_default(), asked.language.clone());
    let stream = asked.stream == Some(true);
    let ask = TranscribeRequest {
        language: asked.language,
        prompt: asked.prompt,
        temperature: asked.temperature,
        ..TranscribeRequest::new(asked.model, STANDARD.encode(&asked.file))
    };
    let door =
        Door { state: &state, request: &request, caller: &caller, context: &context, body: &body };
    if stream {
        return match door.open(ask, slot, true).await? {
            Opened::Now(reply) => streamed(*reply, TranscriptWriter::default()).await,
            Opened::Before(answer) => {
                let mut response = accepted_again(&answer);
                Ok(streamed_again(&mut response, answer, TranscriptWriter::default()))
            }
        };
    }
    let mut whole = door.ask(ask, slot).await?;
    let segments: Vec<Segment> = whole.all()?;
    let (usage, mut response) = (whole.usage, whole.response());
    let plain = ContentType::plaintext;
    Ok(match format {
        TranscriptFormat::Json => {
            let text = Segment::text_of(&segments);
            response.json(Transcription { text, usage: usage.into() })
        }
        TranscriptFormat::VerboseJson => {
            response.json(VerboseTranscription::new(&segments, language, usage))
        }
        TranscriptFormat::Text => {
            response.insert_header(plain()).body(Segment::text_of(&segments) + "\n")
        }
        TranscriptFormat::Srt => response.insert_header(plain()).body(transcript::srt(&segments)),
        TranscriptFormat::Vtt => {
            response.content_type("text/vtt; charset=utf-8").body(transcript::vtt(&segments))
        }
    })
}

/// What a key for repetitions holds for. A client that repeats its form chooses other bounds for its
/// parts, so the form's own bytes would not do.
fn fingerprint(form: &Form) -> Vec<u8> {
    let mut fields: Vec<(&str, String)> = form
        .fields
        .iter()
        .map(|field| (field.name.as_str(), hex::encode(Sha256::digest(&field.bytes))))
        .collect();
    fields.sort();
    json!(fields).to_string().into_bytes()
}

impl TranscriptionForm {
    /// Unknown fields are ignored, as in OpenAI's other endpoints.
    fn read(form: &Form) -> Result<Self, ApiError> {
        let mut check = FieldCheck::default();
        let file = form.fields.iter().find(|field| field.name == "file");
        let file = file.map(|field| field.bytes.clone()).unwrap_or_default();
        if SOUND_MAX < file.len() {
            let detail = format!("a sound may have {SOUND_MAX} bytes at most");
            return Err(ApiError::new(Code::BodyTooLarge, detail));
        }
        if file.is_empty() {
            check.refuse("/file", "has to be a sound: send the file in the form's field `file`");
        }
        let language = text(form, "language", &mut check);
        let prompt = text(form, "prompt", &mut check);
        let temperature = text(form, "temperature", &mut check).and_then(|text| {
            let number =
                text.trim().parse::<f32>().ok().filter(|number| (0.0..=1.0).contains(number));
            check.take("/temperature", number.ok_or("has to be a number from 0 to 1"))
        });
        let stream = text(form, "stream", &mut check).and_then(|text| {
            let flag = text.to_ascii_lowercase().parse::<bool>();
            check.take("/stream", flag.map_err(|_| "has to be true or false"))
        });
        let asked = Self {
            file,
            model: text(form, "model", &mut check).unwrap_or_default(),
            language: language.map(|language| language.to_ascii_lowercase()),
            prompt,
            response_format: word(form, "response_format", &mut check),
            temperature,
            timestamp_granularities: granularities(form, &mut check),
            stream,
        };
        asked.judge(&mut check);
        check.finish(Some(asked))
    }

    fn judge(&self, check: &mut FieldCheck) {
        if self.model.is_empty() {
            check.refuse("/model", "must not be empty");
        }
        let letters = |text: &str| {
            (2..=3).contains(&text.len()) && text.bytes().all(|letter| letter.is_ascii_lowercase())
        };
        if self.language.as_deref().is_some_and(|language| !letters(language)) {
            check.refuse("/language", "has to be two or three letters, such as zh");
        }
        if self.prompt.as_ref().is_some_and(|prompt| PROMPT_MAX < prompt.chars().count()) {
            check.refuse("/prompt", format_args!("may have {PROMPT_MAX} characters at most"));
        }
        let format = self.response_format.unwrap_or_default();
        if self.timestamp_granularities.is_some() && format != TranscriptFormat::VerboseJson {
            let detail = "is for answers in verbose_json";
            check.refuse("/timestamp_granularities", detail);
        }
        let flows = matches!(format, TranscriptFormat::Json | TranscriptFormat::Text);
        if self.stream == Some(true) && !flows {
            check.refuse("/stream", "is for answers in json or text: others are sent whole");
        }
    }
}

/// A field's text; `None` if it is not there.
fn text(form: &Form, name: &'static str, check: &mut FieldCheck) -> Option<String> {
    let pointer = format!("/{name}");
    let mut named = form.fields.iter().filter(|field| field.name == name);
    let field = named.next()?;
    if named.next().is_some() {
        check.refuse(&pointer, "must be there once and not several times");
    }
    words(field, &pointer, check)
}

fn words(field: &FormField, pointer: &str, check: &mut FieldCheck) -> Option<String> {
    match std::str::from_utf8(&field.bytes) {
        Ok(text) if text.contains('\0') => {
            check.refuse(pointer, "must not contain the character U+0000");
            None
        }
        Ok(text) => Some(text.to_owned()),
        Err(_) => {
            check.refuse(pointer, "has to be text in UTF-8");
            None
        }
    }
}

/// One of a closed set of words.
fn word<T: for<'a> Deserialize<'a>>(
    form: &Form,
    name: &'static str,
    check: &mut FieldCheck,
) -> Option<T> {
    let text = text(form, name, check)?;
    check.take(&format!("/{name}"), parse_word(&text))
}

fn parse_word<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(text.into_deserializer())
}

/// The list of OpenAI's clients, each item a field of its own.
fn granularities(form: &Form, check: &mut FieldCheck) -> Option<Vec<Granularity>> {
    let pointer = "/timestamp_granularities";
    let is_one = |field: &&FormField| {
        matches!(&*field.name, "timestamp_granularities[]" | "timestamp_granularities")
    };
    let mut found = Vec::new();
    for field in form.fields.iter().filter(is_one) {
        let Some(text) = words(field, pointer, check) else { continue };
        if text == "word" {
            check.refuse(pointer, "times of words are not served here: ask for segment");
        } else {
            found.extend(check.take(pointer, parse_word::<Granularity>(&text)));
        }
    }
    (!found.is_empty()).then_some(found)
}
