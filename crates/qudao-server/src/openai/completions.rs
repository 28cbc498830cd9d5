//! `POST /v1/chat/completions`, as a stream and whole.

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError as _, web};
use memchr::memmem;
use qudao_core::{Answered, ApiReply, ApiRequest, KeptAnswer};
use serde::de::DeserializeOwned;

use super::{
    answer::{ChunkWriter, Collector, Heading},
    rate, served,
    stream::{streamed, streamed_again},
    wire::CompletionRequest,
};
use crate::{
    access::KeyCaller,
    address::client_address,
    code::Code,
    error::ApiError,
    extract::{find_nul, malformed, pointer_of, read_json},
    once::{IDEMPOTENCY_KEY, Once, mark_replayed, reused, under_way},
    scope::RequestContext,
    state::AppState,
};

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
    let completion: CompletionRequest = decode(&body)?;
    let (stream, include_usage) = (completion.is_stream(), completion.include_usage());
    let choices = completion.n;
    let chat = completion.into_chat()?;
    let call = ApiRequest {
        ask: chat.into(),
        choices,
        stream,
        trace: context.trace,
        address: Some(client_address(&request)),
        slot: Some(slot),
    };
    let reply = match read_once(&request, &caller, &body)? {
        None => state.within(state.core.api_call(&caller.0, call)).await?,
        // In its own place: calls without a key shall not carry it along.
        Some(once) => {
            match Box::pin(state.within(state.core.api_call_once(&caller.0, call, once))).await? {
                Answered::Now(reply) => *reply,
                Answered::Before(answer) => return Ok(again(answer, stream, include_usage)),
                Answered::BrokenOff => return Err(broke_off()),
                Answered::OtherBody => return Err(reused()),
                Answered::UnderWay => return Err(under_way()),
            }
        }
    };
    let heading = Heading::new(reply.turn_id(), reply.created(), reply.model());
    if stream {
        streamed(reply, ChunkWriter::new(heading, include_usage)).await
    } else {
        whole(reply, &heading).await
    }
}

/// What makes the call one that may be repeated, if it has a key.
pub(super) fn read_once(
    request: &HttpRequest,
    KeyCaller(principal): &KeyCaller,
    body: &[u8],
) -> Result<Option<qudao_storage::Once>, ApiError> {
    if !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let body = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    Ok(Once::read(request, &body)?.within(principal.tenant_id))
}

/// A call that was served before: the same answer, as a stream or whole like the first time.
fn again(answer: KeptAnswer, stream: bool, include_usage: bool) -> HttpResponse {
    let heading = Heading::new(answer.turn_id, answer.created, &answer.model);
    let mut response = accepted_again(&answer);
    if stream {
        let writer = ChunkWriter::new(heading, include_usage);
        return streamed_again(&mut response, answer, writer);
    }
    let mut collector = Collector::default();
    for event in answer.into_events() {
        if let Some((reason, usage)) = collector.push(event) {
            return response.json(collector.finish(&heading, reason, usage));
        }
    }
    cut_off().error_response()
}

/// The head of a response that was given before.
pub(super) fn accepted_again(answer: &KeptAnswer) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    mark_replayed(&mut response);
    if let Some(by) = &answer.served {
        served::tell(&mut response, by);
    }
    response
}

pub(super) fn broke_off() -> ApiError {
    let detail = "the call with this idempotency key broke off after a part of it was delivered and \
                  charged; send the request under a new key to call the model again";
    ApiError::new(Code::ModelFailed, detail)
}

/// Unknown fields are ignored here, as OpenAI does: its clients send new ones every month.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        // Serde would take a list of the values in order for a struct.
        return Err(ApiError::field("", "has to be an object"));
    }
    let read = serde_json::from_slice(body).map_err(|error| refusal::<T>(body, &error))?;
    // The escape is rare, so its letters are looked for before the texts are.
    if memmem::find(body, b"\\u0000").is_some() {
        let value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
        if let Some(pointer) = find_nul(&value) {
            return Err(ApiError::field(pointer, "must not contain the character U+0000"));
        }
    }
    Ok(read)
}

/// Says where the mistake is, which only a second and slower reading finds out.
fn refusal<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> ApiError {
    let mut json = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(found) if found.inner().is_data() => {
            ApiError::field(pointer_of(found.path()), found.inner())
        }
        _ => malformed(error),
    }
}

/// The head of a response to a call that was let in.
pub(super) fn accepted(reply: &ApiReply) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    rate::tell(&mut response, reply.standings());
    served::tell(&mut response, &reply.served());
    response
}

async fn whole(mut reply: ApiReply, heading: &Heading) -> Result<HttpResponse, ApiError> {
    let mut response = accepted(&reply);
    let mut collector = Collector::default();
    while let Some(event) = reply.next().await {
        if let Some((reason, usage)) = collector.push(event?) {
            return Ok(response.json(collector.finish(heading, reason, usage)));
        }
    }
    Err(cut_off())
}

pub(super) fn cut_off() -> ApiError {
    ApiError::new(Code::ModelFailed, "the answer broke off")
}
