//! Health, metrics, the API's description, and the front door.

use std::time::Duration;

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    code::Code,
    error::ApiError,
    extract::{NoQuery, Query},
    state::AppState,
};

/// How long a probe waits for a service.
const PROBE: Duration = Duration::from_secs(2);

/// Whether the process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    /// Always `alive`.
    status: &'static str,
}

/// Whether this node may be sent work.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, `degraded` (some model or Redis is away; work is still taken) or `unready`.
    status: &'static str,
    /// `ok` or `away`.
    database: &'static str,
    /// `ok` or `away`. Without Redis previews are late and nothing is lost.
    redis: &'static str,
    /// Whether the node is shutting down.
    draining: bool,
    models: Vec<ModelReadiness>,
}

/// The state of one model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelReadiness {
    name: String,
    instance: String,
    /// `loading`, `ready`, `degraded`, `failed` or `quarantined`. Why is for the operator, at
    /// `/v1/plugins`: anybody may read this.
    state: String,
}

pub(crate) async fn livez(_: Query<NoQuery>) -> HttpResponse {
    HttpResponse::Ok().json(Alive { status: "alive" })
}

/// 503 while the database is away, the node shuts down, or no model can answer.
pub(crate) async fn readyz(
    state: web::Data<AppState>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let core = state.core.clone();
    let probe = async move {
        let database = tokio::time::timeout(PROBE, core.store.ping()).await;
        let redis = tokio::time::timeout(PROBE, core.bus.ping()).await;
        Ok::<_, ApiError>((matches!(database, Ok(Ok(()))), matches!(redis, Ok(true))))
    };
    let (database, redis) = state.on_runtime(probe).await?;
    let reports = state.core.plugins.models();
    let serving = reports.iter().any(|report| report.state.serves());
    let models: Vec<_> = reports
        .into_iter()
        .map(|report| {
            let written = serde_json::to_value(&report.state).unwrap_or_default();
            let word = written.get("state").and_then(|word| word.as_str()).unwrap_or("unknown");
            ModelReadiness { name: report.name, instance: report.instance, state: word.to_owned() }
        })
        .collect();
    let draining = state.is_draining();
    let unready = draining || !database || !serving;
    let whole = redis && models.iter().all(|model| model.state == "ready");
    let status = match (unready, whole) {
        (true, _) => "unready",
        (false, true) => "ready",
        (false, false) => "degraded",
    };
    let word = |ok| if ok { "ok" } else { "away" };
    let body = Readiness { status, database: word(database), redis: word(redis), draining, models };
    let mut response =
        if unready { HttpResponse::ServiceUnavailable() } else { HttpResponse::Ok() };
    Ok(response.insert_header((header::CACHE_CONTROL, "no-store")).json(body))
}

/// The text format of Prometheus.
pub(crate) async fn metrics(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    if state.settings.metrics_bind.is_some() {
        return Err(ApiError::new(Code::NotFound, "metrics are served on an address of their own"));
    }
    Ok(metrics_page(&state.metrics))
}

pub(crate) fn metrics_page(render: &crate::MetricsRender) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(render())
}

pub(crate) async fn openapi(description: web::Data<Description>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(description.0.clone())
}

/// The API's description as JSON, written once.
pub(crate) struct Description(pub(crate) web::Bytes);

pub(crate) async fn front_door() -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, "/docs")).finish()
}
