//! `GET /v1/models`: what the key may name in a call.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_core::ModelKind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    access::KeyCaller,
    code::Code,
    error::ApiError,
    extract::{NoQuery, Query},
    state::AppState,
};

/// A model that the key may name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// The name to pass as `model`.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Always 0: models have no birthday here. OpenAI's clients insist on a number.
    created: i64,
    /// The plugin instance that offers it, `unavailable`, or `route` for a route that chooses one.
    owned_by: String,
    /// What it does: `chat`, `embed`, `classify`, `detect` or `transcribe`; null where no plugin offers
    /// it at the moment. Not known to OpenAI.
    kind: Option<&'static str>,
}

/// Who offers a route.
const ROUTE: &str = "route";

/// The models that the key may name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

impl Model {
    /// A route that may stand in a model's place.
    fn route((name, kind): (String, Option<ModelKind>)) -> Self {
        let (kind, owned_by) = (kind.map(ModelKind::as_str), ROUTE.to_owned());
        Self { id: name, object: "model", created: 0, owned_by, kind }
    }

    fn describe(state: &AppState, name: &str) -> Self {
        let report = state.core.plugins.model(name);
        Self {
            id: name.to_owned(),
            object: "model",
            created: 0,
            kind: report.as_ref().map(|report| report.kind.as_str()),
            owned_by: report.map_or_else(|| "unavailable".to_owned(), |report| report.instance),
        }
    }
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    KeyCaller(principal): KeyCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let names = state.within(state.core.tenant_models(principal.tenant_id)).await?;
    let aliases = state.within(state.core.tenant_aliases(principal.tenant_id)).await?;
    let models = names.iter().map(|name| Model::describe(&state, name));
    let data = models.chain(aliases.into_iter().map(Model::route)).collect();
    Ok(HttpResponse::Ok().json(ModelList { object: "list", data }))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    request: HttpRequest,
    KeyCaller(principal): KeyCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    // A name may hold slashes, as in `org/model`.
    let name = request.match_info().get("model").unwrap_or_default();
    let names = state.within(state.core.tenant_models(principal.tenant_id)).await?;
    let aliases = state.within(state.core.tenant_aliases(principal.tenant_id)).await?;
    if let Some(alias) = aliases.into_iter().find(|(known, _)| known == name) {
        return Ok(HttpResponse::Ok().json(Model::route(alias)));
    }
    if !names.iter().any(|known| known == name) {
        let detail = format!("the model `{name}` does not exist or you do not have access to it");
        return Err(ApiError::new(Code::ModelNotFound, detail));
    }
    Ok(HttpResponse::Ok().json(Model::describe(&state, name)))
}
