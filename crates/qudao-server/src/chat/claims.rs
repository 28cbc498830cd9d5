//! Codes by which visitors prove that an address is theirs.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_core::{
    letter::CODE_GOOD_FOR,
    proof::{AskError, Reach, Somebody},
};
use qudao_domain::{
    ClaimId,
    address::{Email, Phone},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{door::Visit, requests::visit};
use crate::{
    access::VisitorCaller,
    admin::parse_locale,
    code::Code,
    error::ApiError,
    extract::{Body, Id, NoQuery, Query},
    state::AppState,
    widget::requests::sender,
};

/// An address to be proven: one of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskCode {
    /// An e-mail address.
    #[schema(max_length = 254, example = "ann@example.com")]
    email: Option<String>,
    /// A telephone number with its country's code.
    #[schema(max_length = 40, example = "+8613800138000")]
    phone: Option<String>,
    /// The language of the mail; the channel's if left out.
    #[schema(max_length = 35, pattern = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")]
    locale: Option<String>,
}

/// A code that is on its way, if it can get there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AskedCode {
    #[schema(value_type = String, example = "clm_0198c0de00007000800000000000a001")]
    id: ClaimId,
    /// Seconds for which the code is good.
    #[schema(example = 600)]
    expires_in: u64,
}

/// The code that came.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfirmCode {
    /// Six digits.
    #[schema(min_length = 6, max_length = 6, pattern = "^[0-9]{6}$", example = "012345")]
    code: String,
}

/// Sends a code. What is answered says nothing of whether anybody has the address.
pub(crate) async fn ask(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
    Body(body): Body<AskCode>,
) -> Result<HttpResponse, ApiError> {
    let visit = visit(&state, &request, &caller).await?;
    let locale = locale_of(body.locale.as_deref(), &visit)?;
    let reach = match (body.email, body.phone) {
        (Some(email), None) => {
            let email = Email::parse(&email).map_err(|error| ApiError::field("/email", error))?;
            Reach::Email(email)
        }
        (None, Some(phone)) => {
            let phone = Phone::parse(&phone).map_err(|error| ApiError::field("/phone", error))?;
            way_to(&state, &visit, phone).await?
        }
        _ => return Err(ApiError::field("/email", "give this or phone, one of the two")),
    };
    if matches!(reach, Reach::Email(_)) && !state.core.sends_mail() {
        return Err(no_mail());
    }
    state.within(state.core.may_mail(sender(&visit), reach.address())).await?;
    let core = state.core.clone();
    let asked = state.on_runtime(async move {
        let asked = core.ask_code(somebody(&visit), &reach, (&locale, &visit.door.name)).await;
        asked.map_err(|error| match error {
            AskError::Storage(error) => ApiError::from(error),
            AskError::Vault(error) => {
                tracing::error!(%error, "a letter could not be sealed");
                ApiError::new(Code::Internal, "the code could not be sent")
            }
        })
    });
    let expires_in = CODE_GOOD_FOR.as_secs();
    Ok(HttpResponse::Accepted().json(AskedCode { id: asked.await?, expires_in }))
}

/// Takes a code.
pub(crate) async fn confirm(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    Id(id): Id<ClaimId>,
    _: Query<NoQuery>,
    Body(ConfirmCode { code }): Body<ConfirmCode>,
) -> Result<HttpResponse, ApiError> {
    let visit = visit(&state, &request, &caller).await?;
    state.within(state.core.may_prove(sender(&visit))).await?;
    let core = state.core.clone();
    let right =
        state.on_runtime(async move { core.confirm_code(somebody(&visit), id, &code).await });
    if !right.await? {
        let detail = "is not the code, or not any more: it is good once, for ten minutes and five \
                      tries; ask for another";
        return Err(ApiError::field("/code", detail));
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn way_to(state: &AppState, visit: &Visit, phone: Phone) -> Result<Reach, ApiError> {
    let (host, tenant) = (state.channels.clone(), visit.door.tenant_id);
    let number = phone.clone();
    let way = state.on_runtime(async move {
        host.way_to_phone(tenant, &number).await.map_err(|error| {
            tracing::error!(%error, "the way to a telephone number could not be read");
            ApiError::new(Code::Internal, "the code could not be sent")
        })
    });
    match way.await? {
        Some(way) => Ok(Reach::Phone { phone, channel_id: way.channel_id, peer: way.peer }),
        None => Err(ApiError::new(
            Code::Conflict,
            "no channel of this tenant reaches telephone numbers: WhatsApp does",
        )),
    }
}

/// The language of a letter to a visitor.
pub(crate) fn locale_of(asked: Option<&str>, visit: &Visit) -> Result<String, ApiError> {
    match asked {
        Some(text) => parse_locale(text).map_err(|error| ApiError::field("/locale", error)),
        None => Ok(visit.door.locale.clone()),
    }
}

/// The refusal where the operator set no mail server.
pub(crate) fn no_mail() -> ApiError {
    ApiError::new(
        Code::Conflict,
        "this installation sends no mail: its operator sets a server in [mail]",
    )
}

fn somebody(visit: &Visit) -> Somebody<'_> {
    Somebody {
        tenant_id: visit.door.tenant_id,
        channel_id: visit.door.channel_id,
        peer: &visit.peer,
    }
}
