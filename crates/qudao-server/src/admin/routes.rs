//! Routes: which models may serve, in which order.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_core::PluginHost;
use qudao_domain::{RouteId, text::Name};
use qudao_storage::{NewRoute, Route};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::TenantScope,
    error::{ApiError, FieldCheck},
    extract::{Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

const MAX_MODELS: usize = 20;
const MAX_MODEL_CHARS: usize = 200;

/// The name of a model. Only for the description: what comes is checked with words of our own.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 200, pattern = r"^[^\s\x00-\x1f\x7f-\x9f]+$")]
#[expect(dead_code, reason = "stands for a text in the description")]
pub(crate) struct ModelName(String);

/// A route to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRoute {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// The models, the preferred first; 1 to 20 names.
    #[schema(value_type = Vec<ModelName>, min_items = 1, max_items = 20)]
    models: Vec<String>,
}

impl CreateRoute {
    fn parse(self, plugins: &PluginHost) -> Result<NewRoute, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        if !(1..=MAX_MODELS).contains(&self.models.len()) {
            check.refuse("/models", format_args!("has to name 1 to {MAX_MODELS} models"));
        }
        for (at, model) in self.models.iter().enumerate() {
            let pointer = format!("/models/{at}");
            let visible = model.chars().all(|c| !c.is_control() && !c.is_whitespace());
            if model.is_empty() || MAX_MODEL_CHARS < model.chars().count() || !visible {
                check.refuse(
                    &pointer,
                    format_args!("has to be 1 to {MAX_MODEL_CHARS} visible characters"),
                );
            } else if self.models[..at].contains(model) {
                check.refuse(&pointer, "is named twice");
            }
        }
        check_kinds(&self.models, plugins, &mut check);
        let models = self.models;
        check.finish(name.map(|name| NewRoute { name, models }))
    }
}

/// The models of a route stand in for each other, so all have to do the same. What no plugin of this node
/// offers at the moment may do anything.
fn check_kinds(models: &[String], plugins: &PluginHost, check: &mut FieldCheck) {
    let known = |model: &String| plugins.kind(model).map(|kind| (model.clone(), kind));
    let Some((first, kind)) = models.iter().find_map(known) else { return };
    for (at, model) in models.iter().enumerate() {
        if let Some(other) = plugins.kind(model).filter(|other| *other != kind) {
            let detail = format_args!(
                "{}, and `{first}` {}: a route has one kind",
                other.deed(),
                kind.deed()
            );
            check.refuse(&format!("/models/{at}"), detail);
        }
    }
}

/// A route.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Route", as = Route)]
pub(crate) struct RouteBody {
    #[schema(value_type = String, example = "rte_0198c0de00007000800000000000a001")]
    id: RouteId,
    name: String,
    models: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Route> for RouteBody {
    fn from(route: Route) -> Self {
        let Route { id, name, models, created_at } = route;
        Self { id, name, models, created_at }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateRoute>,
) -> Result<HttpResponse, ApiError> {
    let new = body.parse(&state.core.plugins)?;
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let route = tx.create_route(&new).await?;
            let location = format!("/v1/tenants/{tenant_id}/routes/{}", route.id);
            Ok(Reply::created(location, &RouteBody::from(route)))
        })
    });
    made.await
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_routes(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<RouteBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<RouteId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_route(id).await?) })
    });
    let route = found.await?.ok_or_else(|| ApiError::not_found("route"))?;
    Ok(HttpResponse::Ok().json(RouteBody::from(route)))
}
