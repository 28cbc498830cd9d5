//! Models that routes may name.

use actix_web::{HttpResponse, web};
use qudao_core::{DataClass, Offer};
use serde::Serialize;
use utoipa::ToSchema;

use super::in_tenant;
use crate::{
    access::TenantScope,
    error::ApiError,
    extract::{NoQuery, Query},
    state::AppState,
};

/// The models that are for sale in the tenant's currency.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OfferList {
    data: Vec<OfferBody>,
}

/// A model that routes may name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Offer", as = Offer)]
pub(crate) struct OfferBody {
    model: String,
    /// What it does: `chat`, `embed`, `classify`, `detect` or `transcribe`.
    #[schema(example = "chat")]
    kind: &'static str,
    /// `local`, or `remote` where words leave the machine.
    #[schema(example = "local")]
    data_class: &'static str,
    /// `ready`, `degraded` (it serves, but a request would not end), `loading`, `failed` or `quarantined`.
    #[schema(example = "ready")]
    state: &'static str,
    /// Its breaker on this node: `closed` (it is asked), `half_open` (it is tried with a few calls) or
    /// `open` (it is left alone).
    #[schema(example = "closed")]
    breaker: &'static str,
    /// In how many seconds it is tried again, if it is left alone.
    open_for_s: Option<f64>,
    price: OfferPrice,
}

/// What a model costs.
#[derive(Debug, Serialize, ToSchema)]
struct OfferPrice {
    /// Three capital letters, ISO 4217.
    #[schema(example = "CNY")]
    currency: String,
    /// Per million tokens read, as a decimal number.
    #[schema(example = "2")]
    input_per_mtok: String,
    /// Per million tokens written.
    #[schema(example = "8")]
    output_per_mtok: String,
    /// Per call.
    #[schema(example = "0")]
    per_call: String,
}

impl From<Offer> for OfferBody {
    fn from(offer: Offer) -> Self {
        let Offer { model, kind, data_class, state, price, health, open_for } = offer;
        Self {
            model,
            kind: kind.as_str(),
            data_class: match data_class {
                DataClass::Local => "local",
                DataClass::Remote => "remote",
            },
            state,
            breaker: health.as_str(),
            open_for_s: open_for.map(|rest| rest.as_secs_f64()),
            price: OfferPrice {
                currency: price.currency.to_string(),
                input_per_mtok: price.input_per_mtok.to_string(),
                output_per_mtok: price.output_per_mtok.to_string(),
                per_call: price.per_call.to_string(),
            },
        }
    }
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = in_tenant(&state, tenant_id, |tx| {
        Box::pin(async move { tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant")) })
    });
    let currency = tenant.await?.currency;
    let core = state.core.clone();
    let offers = state.on_runtime(async move { core.offers(currency).await }).await?;
    let data = offers.into_iter().map(OfferBody::from).collect();
    Ok(HttpResponse::Ok().json(OfferList { data }))
}
