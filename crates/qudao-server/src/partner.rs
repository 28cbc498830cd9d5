//! The partner channel protocol, PCP/1: the platform's side of every request that a partner makes.
//! A bearer key names the channel; events are signed as well.

use std::{rc::Rc, sync::Arc};

use actix_web::{
    Error, FromRequest, HttpMessage as _, HttpRequest, HttpResponse, dev::Payload, web,
};
use futures_util::future::{Ready, ready};
use qudao_channels::partner::{NewKeys, Refused};
use qudao_core::channel::setup::OpenChannel;
use qudao_domain::{ChannelId, TenantId, state::ChannelKind};
use qudao_storage::PartnerChannel;

use crate::{access::Caller, code::Code, error::ApiError, extract::path_id, state::AppState};

pub(crate) mod conformance;
pub(crate) mod deliveries;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod media;
pub(crate) mod stream;

/// A partner's channel, once its key was shown.
#[derive(Debug, Clone)]
pub(crate) struct PartnerDoor {
    pub(crate) tenant_id: TenantId,
    pub(crate) channel_id: ChannelId,
    pub(crate) setup: Arc<OpenChannel>,
    pub(crate) partner: PartnerChannel,
}

/// The channel that a bearer key opens, if it is the one in the path.
///
/// # Errors
/// `invalid_credentials`, whatever is wrong.
pub(crate) async fn admit(request: &HttpRequest, token: &str) -> Result<PartnerDoor, ApiError> {
    let invalid = || ApiError::new(Code::InvalidCredentials, "the key does not open this channel");
    let (tenant_id, hash) = NewKeys::read_bearer(token).ok_or_else(invalid)?;
    let channel_id: ChannelId = path_id(request).map_err(|_| invalid())?;
    let state = AppState::of(request);
    let core = state.core.clone();
    let found = state.within(async move {
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let known = tx.has_partner_key(channel_id, &hash).await?;
        let partner = tx.partner_channel(channel_id).await?;
        tx.commit().await?;
        let setup = core.channel_setup(tenant_id, channel_id).await;
        let setup = setup.map_err(|error| unreadable(&error))?;
        Ok::<_, ApiError>(partner.zip(setup).filter(|_| known))
    });
    let (partner, setup) = found.await?.ok_or_else(invalid)?;
    if setup.kind != ChannelKind::Partner {
        return Err(invalid());
    }
    Ok(PartnerDoor { tenant_id, channel_id, setup, partner })
}

pub(crate) fn unreadable(error: &qudao_core::channel::setup::SetupError) -> ApiError {
    tracing::warn!(%error, "the settings of a partner's channel cannot be read");
    ApiError::new(Code::Unavailable, "the channel's settings cannot be read")
}

/// The partner who called.
pub(crate) struct PartnerCaller(pub(crate) Rc<PartnerDoor>);

impl FromRequest for PartnerCaller {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.extensions().get::<Caller>() {
            Some(Caller::Partner(door)) => Ok(Self(Rc::clone(door))),
            _ => Err(ApiError::new(Code::InvalidCredentials, "the key is not valid").into()),
        })
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::IdReused => Self::new(Code::IdReused, detail),
            Refused::Field(pointer, detail) => Self::field(pointer, detail),
            Refused::Accept(error) => error.into(),
            Refused::Storage(error) => error.into(),
            Refused::OnPurpose(refusal) => {
                let code = match refusal.status {
                    429 => Code::RateLimited,
                    503 => Code::Unavailable,
                    _ => Code::SandboxFailure,
                };
                let refusal_of = Self::new(code, detail);
                match refusal.retry_after {
                    Some(after) => refusal_of.retry_after(after),
                    None => refusal_of,
                }
            }
        }
    }
}

/// A number as cursors are written.
pub(crate) fn parse_cursor(text: &str) -> Result<i64, ApiError> {
    let wrong = || ApiError::new(Code::InvalidCursor, "the cursor was not made by this channel");
    text.parse().ok().filter(|cursor| *cursor >= 0).ok_or_else(wrong)
}

/// An answer that no cache keeps.
pub(crate) fn secret_json<T: serde::Serialize>(body: &T) -> HttpResponse {
    HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(body)
}

/// The bytes of a body of this protocol.
pub(crate) async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<crate::extract::Text, ApiError> {
    crate::extract::read_json(request, payload.into_inner(), qudao_pcp::BODY_MAX).await
}
