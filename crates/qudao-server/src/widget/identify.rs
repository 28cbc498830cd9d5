//! Who the visitor is, on the word of the tenant's own site.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_channels::web::{SiteToken, TokenFault};
use qudao_core::proof::{Somebody, Vouched};
use serde::Deserialize;
use utoipa::ToSchema;

use super::requests::sender;
use crate::{
    access::VisitorCaller,
    chat::{door::Visit, requests::visit},
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    state::AppState,
};

/// Who the visitor is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identify {
    /// What the site's server signed.
    #[schema(min_length = 1, max_length = 4096)]
    token: String,
}

/// Believes a token of the tenant's site.
pub(crate) async fn identify(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
    Body(Identify { token }): Body<Identify>,
) -> Result<HttpResponse, ApiError> {
    let visit = visit(&state, &request, &caller).await?;
    state.within(state.core.may_prove(sender(&visit))).await?;
    let key = request.match_info().get("key").unwrap_or_default();
    let said = read(&state, &visit, key, &token).await?;
    let core = state.core.clone();
    let known = state.on_runtime(async move {
        let (tenant_id, channel_id) = (visit.door.tenant_id, visit.door.channel_id);
        let claims = said.claims(tenant_id);
        let vouched =
            Vouched { claims: &claims, name: said.name.as_deref(), locale: said.locale.as_deref() };
        core.vouch(Somebody { tenant_id, channel_id, peer: &visit.peer }, vouched).await
    });
    if !known.await? {
        let detail = "this visitor is another customer already: begin with a new visitor";
        return Err(ApiError::new(Code::AnotherCustomer, detail));
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn read(
    state: &AppState,
    visit: &Visit,
    key: &str,
    token: &str,
) -> Result<SiteToken, ApiError> {
    let core = state.core.clone();
    let (tenant, channel) = (visit.door.tenant_id, visit.door.channel_id);
    let setup = state.on_runtime(async move {
        core.channel_setup(tenant, channel)
            .await
            .map_err(|error| super::entrance::setup_failed(&error))
    });
    let setup = setup.await?.ok_or_else(|| ApiError::not_found("channel"))?;
    let now = state.core.clock.now();
    SiteToken::read(&setup.config, key, token, now).map_err(|fault| match fault {
        TokenFault::NotConfigured => ApiError::new(Code::Conflict, fault.to_string()),
        fault => ApiError::new(Code::InvalidCredentials, fault.to_string()),
    })
}
