//! The plugins of this node.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    code::Code,
    error::ApiError,
    extract::{NoQuery, Query},
    once::{Once, Reply, run_once},
    state::AppState,
};

/// The plugins of this node and what they offer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginList {
    /// Each with `id`, `version`, `path`, `state` (`accepted`, `refused`, `quarantined`), `reason`
    /// where there is one, `signer` and `instances`.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
    /// Each with `name`, `instance`, `plugin`, `kind`, `state` (`loading`, `ready`, `degraded`,
    /// `failed`, `quarantined`), `generation`, `placement`, `variant`, limits, counts, and
    /// `last_failure`: `class`, `message` (what a provider said, shortened) and `seconds_ago`.
    #[schema(value_type = Vec<Object>)]
    models: Vec<Value>,
}

/// What a reload did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reloaded {
    /// Each with `instance`, `from` and `to` (generations), `variant` and `drained`.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
}

/// As the plugin host writes its reports: they are made to be read.
fn values<T: Serialize>(reports: Vec<T>) -> Result<Vec<Value>, ApiError> {
    let values: Result<_, _> = reports.iter().map(serde_json::to_value).collect();
    values.map_err(|error| {
        tracing::error!(%error, "a report of the plugin host cannot be written");
        ApiError::new(Code::Internal, "the reports could not be written")
    })
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let (data, models) = (state.core.plugins.plugins(), state.core.plugins.models());
    Ok(HttpResponse::Ok().json(PluginList { data: values(data)?, models: values(models)? }))
}

pub(crate) async fn reload(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let (plugin, plugins) = (known_plugin(&state, &request)?, state.core.plugins.clone());
    let work = async move {
        let swaps = plugins.reload(&plugin).await.map_err(|error| refused(&error))?;
        Ok(Reply::ok(&Reloaded { data: values(swaps)? }))
    };
    run_once(&state, qudao_storage::Once::OPERATOR, once, work).await
}

pub(crate) async fn lift_quarantine(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let plugin = known_plugin(&state, &request)?;
    let plugins = state.core.plugins.clone();
    let work = async move {
        plugins.lift_quarantine(&plugin).map_err(|error| refused(&error))?;
        Ok(Reply::no_content())
    };
    run_once(&state, qudao_storage::Once::OPERATOR, once, work).await
}

fn known_plugin(state: &AppState, request: &HttpRequest) -> Result<String, ApiError> {
    let id = request.match_info().get("plugin_id").unwrap_or_default();
    let known = state.core.plugins.plugins().into_iter().any(|plugin| plugin.id == id);
    if known { Ok(id.to_owned()) } else { Err(ApiError::not_found("plugin")) }
}

/// The operator has to know why; these words hold nothing of a tenant.
fn refused(error: &dyn std::error::Error) -> ApiError {
    ApiError::new(Code::Conflict, error.to_string())
}
