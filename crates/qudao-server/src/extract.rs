//! How handlers get at what a client sent. Everything that is refused here is refused in the
//! envelope and before anything was changed.

use std::ops::Deref;

use actix_web::{
    Error, FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web,
};
use futures_util::{
    StreamExt as _,
    future::{LocalBoxFuture, Ready, ready},
};
use qudao_domain::{
    ApiKeyId, AssistantId, ChannelId, ClaimId, ContactId, ConversationId, DecisionId,
    IdentityProviderId, InvitationId, MediaId, MemberId, MergeId, RoleId, RouteId, SessionId,
    TenantId,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{code::Code, error::ApiError, failure::SHED, places::Held, state::AppState};

mod form;
mod unique;

pub(crate) use form::{FORM_OVERHEAD, Form, FormField, read_form};

use unique::Unique;

/// A JSON body of an endpoint with documented fields.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let limit = AppState::of(&request).settings.limits.body_bytes;
            let bytes = read_json(&request, payload, limit).await?;
            Ok(Self(decode(&bytes)?))
        })
    }
}

/// A body, with its part of the memory that bodies may take.
pub(crate) struct Text {
    bytes: web::BytesMut,
    _held: Held,
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole JSON body of at most `limit` bytes.
///
/// # Errors
/// [`ApiError`] for another media type, and as [`read_bytes`].
pub(crate) async fn read_json(
    request: &HttpRequest,
    payload: Payload,
    limit: usize,
) -> Result<Text, ApiError> {
    check_media_type(request.headers())?;
    read_bytes(request, payload, limit).await
}

/// Reads a whole body of at most `limit` bytes, of whatever type.
///
/// # Errors
/// [`ApiError`] for an overlong or a stalled body, and `overloaded` while the memory for bodies is
/// taken.
pub(crate) async fn read_bytes(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
) -> Result<Text, ApiError> {
    let too_large =
        || ApiError::new(Code::BodyTooLarge, format!("the body may have {limit} bytes at most"));
    let announced = content_length(request.headers());
    if announced.is_some_and(|length| limit < length) {
        return Err(too_large());
    }
    let state = AppState::of(request);
    let mut held = state.bodies.open();
    let mut body = web::BytesMut::with_capacity(first_capacity(announced));
    let read = async {
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|error| ApiError::new(Code::BadRequest, error.to_string()))?;
            if limit < body.len() + chunk.len() {
                return Err(too_large());
            }
            if !held.grow(chunk.len()) {
                let detail = "too many bodies are being read at this moment";
                return Err(ApiError::new(Code::Overloaded, detail).retry_after(SHED).closing());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let patience = state.settings.limits.request_body_timeout;
    match tokio::time::timeout(patience, read).await {
        Ok(done) => done.map(|()| Text { bytes: body, _held: held }),
        Err(_) => Err(ApiError::new(Code::BadRequest, "the body did not arrive in time")),
    }
}

/// Memory for what a client announced but has not sent: a header costs it nothing.
fn first_capacity(announced: Option<usize>) -> usize {
    announced.unwrap_or(1024).min(64 * 1024)
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let essence =
        |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let declared = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().map(essence));
    let refused = |detail| Err(ApiError::new(Code::UnsupportedMediaType, detail));
    match declared {
        Some(Ok(kind)) if kind == "application/json" => {}
        // What curl sends with `-d` alone is the most frequent of the wrong ones.
        _ => {
            return refused(
                "the content type has to be application/json; \
                 with curl, add: -H 'Content-Type: application/json'",
            );
        }
    }
    match headers.get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => refused("the body must not be compressed"),
    }
}

/// Reads JSON into a type that knows its fields. Malformed text is 400, wrong fields are 422 with
/// a pointer, and so is U+0000 anywhere, which Postgres cannot keep.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    from_object(parse_object(bytes)?)
}

/// The first half of [`decode`]: an object, whatever its fields, of which none is there twice.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Value, ApiError> {
    let Unique(value) = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if !value.is_object() {
        // Serde would take a list of the values in order for a struct.
        return Err(ApiError::field("", "has to be an object"));
    }
    if let Some(pointer) = find_nul(&value) {
        return Err(ApiError::field(pointer, "must not contain the character U+0000"));
    }
    Ok(value)
}

/// The second half of [`decode`].
pub(crate) fn from_object<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| ApiError::field(pointer_of(error.path()), error.inner()))
}

/// The refusal of text that is not JSON.
pub(crate) fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(Code::MalformedJson, format!("the body is not JSON: {error}"))
}

/// `a.b[0]` as the JSON pointer `/a/b/0`.
pub(crate) fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => pointer.push_str(&escape(key)),
            Segment::Enum { variant } => pointer.push_str(&escape(variant)),
            Segment::Unknown => {
                pointer.pop();
            }
        }
    }
    pointer
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Where a NUL hides in a value. The depth was bounded by the parser.
pub(crate) fn find_nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find_nul(item).map(|rest| format!("/{index}{rest}"))),
        Value::Object(fields) => fields.iter().find_map(|(key, item)| {
            let inside = if key.contains('\0') { Some(String::new()) } else { find_nul(item) };
            inside.map(|rest| format!("/{}{rest}", escape(&key.replace('\0', "\u{fffd}"))))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// An id type as it stands in a path.
pub(crate) trait PathId: std::str::FromStr + Copy {
    /// The name of the path parameter.
    const PARAM: &'static str;
    /// What it names, for people.
    const NOUN: &'static str;
}

macro_rules! path_ids {
    ($($id:ty, $param:literal, $noun:literal;)+) => {
        $(impl PathId for $id {
            const PARAM: &'static str = $param;
            const NOUN: &'static str = $noun;
        })+
    };
}

path_ids! {
    TenantId, "tenant_id", "tenant";
    ChannelId, "channel_id", "channel";
    AssistantId, "assistant_id", "assistant";
    RouteId, "route_id", "route";
    ApiKeyId, "api_key_id", "API key";
    ConversationId, "conversation_id", "conversation";
    MemberId, "member_id", "member";
    InvitationId, "invitation_id", "invitation";
    RoleId, "role_id", "role";
    SessionId, "session_id", "session";
    IdentityProviderId, "identity_provider_id", "identity provider";
    ContactId, "contact_id", "contact";
    MergeId, "merge_id", "merge";
    ClaimId, "claim_id", "code";
    DecisionId, "decision_id", "decision";
    MediaId, "upload_id", "file";
}

/// An id from the path. What is not an id is answered like an id that does not exist.
pub(crate) struct Id<T>(pub(crate) T);

impl<T: PathId> FromRequest for Id<T> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(path_id(request).map(Self).map_err(Into::into))
    }
}

/// The id that the path names.
///
/// # Errors
/// `not_found`, in the words for an unknown id.
pub(crate) fn path_id<T: PathId>(request: &HttpRequest) -> Result<T, ApiError> {
    let text = request.match_info().get(T::PARAM).unwrap_or_default();
    text.parse().map_err(|_| ApiError::not_found(T::NOUN))
}

/// What every list takes.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The longest page.
pub(crate) const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;

impl PageQuery {
    /// Of an endpoint that takes more than this.
    pub(crate) fn new(limit: Option<u32>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    /// The checked limit.
    pub(crate) fn limit(&self) -> Result<u32, ApiError> {
        match self.limit.unwrap_or(DEFAULT_PAGE) {
            limit @ 1..=MAX_PAGE => Ok(limit),
            _ => Err(ApiError::new(Code::InvalidQuery, "limit has to be between 1 and 200")),
        }
    }

    /// Where the page starts.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }
}

/// A query string with documented parameters only.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parsed = web::Query::<T>::from_query(request.query_string());
        ready(match parsed {
            Ok(query) => Ok(Self(query.into_inner())),
            Err(error) => Err(ApiError::new(Code::InvalidQuery, error.to_string()).into()),
        })
    }
}

/// Refuses every query parameter: what an endpoint does not know it must not seem to obey.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

#[cfg(test)]
mod tests;
