//! Where messaging platforms send what happened on a channel. Any of their methods and bodies is
//! taken; the channel's adapter decides what is genuine.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use http::{HeaderMap, HeaderName, HeaderValue};
use qudao_channels::host::{ReceiveError, Received};
use qudao_core::channel::adapter::{Answer, RawRequest};
use qudao_domain::state::ChannelKind;

use crate::{
    chat::door, code::Code, error::ApiError, extract::read_bytes, scope::RequestContext,
    state::AppState,
};

/// The largest body that is taken, in bytes. Most platforms send files by reference; a mail holds
/// them, and a homeserver of Matrix repeats a transaction of up to a hundred events of 64 KB until
/// it is taken.
const fn max_body(kind: ChannelKind) -> usize {
    match kind {
        ChannelKind::Email => 30 << 20,
        ChannelKind::Matrix => 8 << 20,
        _ => 1 << 20,
    }
}

pub(crate) async fn take(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let door = door::find(&state, &request).await?;
    let unknown = || ApiError::not_found("channel");
    if matches!(door.kind, ChannelKind::Web | ChannelKind::Api) {
        return Err(unknown());
    }
    let raw = RawRequest {
        method: request.method().as_str().to_owned(),
        tail: request.match_info().get("tail").unwrap_or_default().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers(&request),
        body: read_bytes(&request, payload.into_inner(), max_body(door.kind)).await?.to_vec(),
    };
    let (host, origin) = (state.channels.clone(), RequestContext::of(&request).trace);
    let received = state.on_runtime(async move {
        host.receive(door.tenant_id, door.channel_id, &raw, origin).await
    });
    let Received { answer, .. } = received.await?;
    Ok(respond(answer))
}

fn respond(answer: Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    HttpResponse::build(status).content_type(answer.content_type).body(answer.body)
}

/// The header in the types of the crate `http` 1, which actix-web does not use yet.
fn headers(request: &HttpRequest) -> HeaderMap {
    request
        .headers()
        .iter()
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        })
        .collect()
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        use qudao_core::channel::adapter::Reject;
        match error {
            ReceiveError::Rejected(reject) => match reject {
                // Why is in the log: whoever forges learns nothing.
                Reject::Unauthorized(why) => {
                    tracing::info!(why, "an inbound request was refused");
                    Self::new(Code::InvalidCredentials, "the signature is not right")
                }
                Reject::Malformed(why) => Self::new(Code::BadRequest, why),
                Reject::NotFound => Self::not_found("address"),
                Reject::MethodNotAllowed => {
                    Self::new(Code::MethodNotAllowed, "the platform does not use this method")
                }
                Reject::NotConfigured(what) => {
                    tracing::warn!(what, "a channel gets messages and is not set up");
                    Self::new(Code::Unavailable, "the channel is not set up")
                }
            },
            ReceiveError::TooFast(error) => error.into(),
            ReceiveError::Accept(error) => error.into(),
            ReceiveError::Host(error) => error.into(),
            error => {
                tracing::error!(%error, "an inbound request was not taken");
                Self::new(Code::Internal, "the request could not be served")
            }
        }
    }
}
