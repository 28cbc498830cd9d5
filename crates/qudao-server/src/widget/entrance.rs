//! Which sites are let in, and how their browsers are told.

use std::{rc::Rc, sync::Arc};

use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{self, HeaderMap, HeaderValue},
    middleware::Next,
};
use qudao_channels::web::{Origin, WidgetSettings};
use qudao_core::channel::setup::SetupError;
use qudao_storage::ChannelDoor;

use crate::{chat::door, code::Code, error::ApiError, state::AppState};

/// How long a browser remembers what it may send, in seconds.
const PREFLIGHT: &str = "600";
const METHODS: &str = "GET, POST";
const HEADERS: &str = "authorization, content-type";
/// What a page may read of an answer beside its body.
const EXPOSED: &str = "retry-after, x-request-id";

/// A channel with a widget, in front of which a page of a listed site stands.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) door: Arc<ChannelDoor>,
    pub(crate) settings: WidgetSettings,
    /// The page's.
    pub(crate) origin: Origin,
}

/// What was found, once for each request.
#[derive(Clone)]
struct Found(Result<Rc<Entrance>, ApiError>);

/// Looks who asks before anything else is done, so that refusals too can be read by whoever is
/// listed.
pub(crate) async fn look(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let found = find(request.request()).await;
    request.extensions_mut().insert(Found(found.map(Rc::new)));
    next.call(request).await
}

/// The channel and the page.
///
/// # Errors
/// `not_found` for an unknown key, `origin_refused` for a page that is not listed.
pub(crate) fn entrance(request: &HttpRequest) -> Result<Rc<Entrance>, ApiError> {
    let found = request.extensions().get::<Found>().cloned();
    found.map_or_else(|| Err(ApiError::not_found("channel")), |Found(found)| found)
}

async fn find(request: &HttpRequest) -> Result<Entrance, ApiError> {
    let state = AppState::of(request);
    let door = door::known_door(state, request).await?;
    let settings = web_settings(state, &door).await?;
    let origin = check(&settings, request.headers())?;
    Ok(Entrance { door, settings, origin })
}

/// What the tenant set of a channel of the web.
///
/// # Errors
/// `not_found` if it is gone.
pub(crate) async fn web_settings(
    state: &AppState,
    door: &ChannelDoor,
) -> Result<WidgetSettings, ApiError> {
    let core = Arc::clone(&state.core);
    let (tenant, channel) = (door.tenant_id, door.channel_id);
    let setup = state.on_runtime(async move {
        core.channel_setup(tenant, channel).await.map_err(|error| setup_failed(&error))
    });
    let setup = setup.await?.ok_or_else(|| ApiError::not_found("channel"))?;
    Ok(WidgetSettings::read(&setup.config))
}

/// A tenant's secrets are none of a visitor's concern: that they cannot be opened is a failure.
pub(super) fn setup_failed(error: &SetupError) -> ApiError {
    match error {
        SetupError::Storage(error) => ApiError::from(error),
        other => {
            tracing::error!(error = %other, "a channel's setup could not be read");
            ApiError::new(Code::Internal, "the channel could not be read")
        }
    }
}

fn check(settings: &WidgetSettings, headers: &HeaderMap) -> Result<Origin, ApiError> {
    let refused = |detail: String| ApiError::new(Code::OriginRefused, detail);
    if settings.origins.is_empty() {
        return Err(refused(
            "the widget of this channel is off: list the sites that may show it under `origins` in \
             the channel's settings"
                .to_owned(),
        ));
    }
    let mut named = headers.get_all(header::ORIGIN);
    let (Some(origin), None) = (named.next(), named.next()) else {
        return Err(refused("the header Origin has to name the page's site, once".to_owned()));
    };
    let listed = origin.to_str().ok().and_then(|origin| settings.listed(origin));
    listed.cloned().ok_or_else(|| {
        // In the words of the request, cut: whoever mends the settings needs to see the very text.
        let shown: String = origin.to_str().unwrap_or_default().chars().take(100).collect();
        refused(format!(
            "this site may not show the widget: add `{shown}` to `origins` in the channel's settings"
        ))
    })
}

/// Answers a browser that asks whether a page may send something.
pub(crate) async fn preflight(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    entrance(&request)?;
    Ok(HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT))
        .finish())
}

/// Tells a browser that the page may read the answer, if its site is listed. Never with
/// credentials: cookies of this site are not the widget's.
pub(crate) fn tell(response: &mut ServiceResponse<BoxBody>) {
    let Some(Found(found)) = response.request().extensions_mut().remove::<Found>() else { return };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Ok(entrance) = found else { return };
    let Ok(origin) = HeaderValue::from_str(entrance.origin.as_str()) else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}
