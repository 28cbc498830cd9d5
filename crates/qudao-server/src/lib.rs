//! The HTTP server: the admin API, the OpenAI-compatible API, the web chat, and the pages.
//!
//! [`run`] starts it. A handler reads its input, calls one thing and answers; every refusal goes
//! through one table of codes and one place that writes it.

use std::{net::SocketAddr, sync::Arc};

use actix_web::{App, HttpServer, dev::ServerHandle as ActixHandle, middleware::from_fn, web};
use qudao_core::Core;
use tokio::{runtime::Handle, sync::watch};

mod access;
mod address;
mod admin;
mod assets;
mod chat;
mod code;
mod docs;
mod endpoints;
mod error;
mod extract;
mod failure;
mod gate;
mod handle;
mod meter;
mod metrics;
mod once;
mod openai;
mod openapi;
mod operations;
mod places;
mod rate;
mod scope;
mod settings;
mod state;

pub use access::Access;
pub use code::{Code, reference_markdown};
pub use endpoints::Endpoint;
pub use handle::{ServerHandle, StartError};
pub use metrics::METRICS;
pub use settings::{Doors, Limits, ServerSettings};

use access::Access::{Chat, Operator, Public, Tenant, Visitor};
use code::Code as RefusalCode;
use endpoints::Endpoints;
use error::ApiError;
use places::{Budget, Places};
use state::AppState;

/// Writes the metrics in Prometheus' text format; the composition root installs the recorder.
pub type MetricsRender = Arc<dyn Fn() -> String + Send + Sync>;

/// All endpoints.
fn endpoints() -> Endpoints {
    let mut api = Endpoints::default();
    api.post("/v1/chat/completions", Chat, openai::completions::create, docs::completions());
    api.get("/v1/models", Chat, openai::models::list, docs::models());
    api.get("/v1/models/{model:.+}", Chat, openai::models::get, docs::model());

    tenant_endpoints(&mut api);
    people_endpoints(&mut api);

    api.get("/v1/audit-events", Operator, admin::audit::list_platform, docs::platform_audit());

    api.get("/v1/plugins", Operator, admin::plugins::list, docs::plugins());
    api.post("/v1/plugins/{plugin_id}/reload", Operator, admin::plugins::reload, docs::reload());
    let lift = "/v1/plugins/{plugin_id}/lift-quarantine";
    api.post(lift, Operator, admin::plugins::lift_quarantine, docs::lift_quarantine());

    api.post("/v1/web/{key}/session", Public, chat::requests::open, docs::open_chat());
    api.get("/v1/web/{key}/messages", Visitor, chat::requests::messages, docs::chat_messages());
    api.post("/v1/web/{key}/messages", Visitor, chat::requests::post_message, docs::post_message());
    api.post("/v1/web/{key}/stop", Visitor, chat::requests::stop, docs::stop());
    api.get("/v1/web/{key}/events", Visitor, chat::events::open, docs::events());
    api.get("/v1/web/{key}/socket", Public, chat::socket::open, docs::socket());

    operations_endpoints(&mut api);
    api.get("/openapi.json", Public, operations::openapi, docs::openapi());

    api.asset("/", operations::front_door);
    api.asset("/docs", assets::docs_page);
    api.asset("/docs/errors", assets::errors_page);
    api.asset("/chat/{key}", assets::chat_page);
    api.asset("/assets/{path:.+}", assets::asset);
    api
}

fn operations_endpoints(api: &mut Endpoints) {
    api.get("/livez", Public, operations::livez, docs::livez());
    api.get("/readyz", Public, operations::readyz, docs::readyz());
    api.get("/metrics", Public, operations::metrics, docs::metrics());
}

/// The endpoints behind these doors.
fn endpoints_of(doors: Doors) -> Endpoints {
    match doors {
        Doors::All => endpoints(),
        Doors::Operations => {
            let mut api = Endpoints::default();
            operations_endpoints(&mut api);
            api
        }
    }
}

fn tenant_endpoints(api: &mut Endpoints) {
    api.post("/v1/tenants", Operator, admin::tenants::create, docs::create_tenant());
    api.get("/v1/tenants", Operator, admin::tenants::list, docs::list_tenants());
    api.get("/v1/tenants/{tenant_id}", Tenant, admin::tenants::get, docs::get_tenant());
    api.get("/v1/tenants/{tenant_id}/wallet", Tenant, admin::tenants::wallet, docs::wallet());
    api.post(
        "/v1/tenants/{tenant_id}/credits",
        Operator,
        admin::tenants::add_credit,
        docs::add_credit(),
    );

    let routes = "/v1/tenants/{tenant_id}/routes";
    api.post(routes, Tenant, admin::routes::create, docs::create_route());
    api.get(routes, Tenant, admin::routes::list, docs::list_routes());
    api.get(
        "/v1/tenants/{tenant_id}/routes/{route_id}",
        Tenant,
        admin::routes::get,
        docs::get_route(),
    );

    let assistants = "/v1/tenants/{tenant_id}/assistants";
    api.post(assistants, Tenant, admin::assistants::create, docs::create_assistant());
    api.get(assistants, Tenant, admin::assistants::list, docs::list_assistants());
    let assistant = "/v1/tenants/{tenant_id}/assistants/{assistant_id}";
    api.get(assistant, Tenant, admin::assistants::get, docs::get_assistant());

    let channels = "/v1/tenants/{tenant_id}/channels";
    api.post(channels, Tenant, admin::channels::create, docs::create_channel());
    api.get(channels, Tenant, admin::channels::list, docs::list_channels());
    let channel = "/v1/tenants/{tenant_id}/channels/{channel_id}";
    api.get(channel, Tenant, admin::channels::get, docs::get_channel());
    api.patch(channel, Tenant, admin::channels::update, docs::update_channel());

    let keys = "/v1/tenants/{tenant_id}/api-keys";
    api.post(keys, Tenant, admin::api_keys::create, docs::create_api_key());
    api.get(keys, Tenant, admin::api_keys::list, docs::list_api_keys());
    let key = "/v1/tenants/{tenant_id}/api-keys/{api_key_id}";
    api.delete(key, Tenant, admin::api_keys::revoke, docs::revoke_api_key());

    let conversations = "/v1/tenants/{tenant_id}/conversations";
    api.get(conversations, Tenant, admin::conversations::list, docs::list_conversations());
    let messages = "/v1/tenants/{tenant_id}/conversations/{conversation_id}/messages";
    api.get(messages, Tenant, admin::conversations::messages, docs::list_messages());
    let audit = "/v1/tenants/{tenant_id}/audit-events";
    api.get(audit, Tenant, admin::audit::list, docs::audit());
    api.get("/v1/tenants/{tenant_id}/usage", Tenant, admin::books::usage, docs::usage());
    api.get("/v1/tenants/{tenant_id}/ledger", Tenant, admin::books::ledger, docs::ledger());
}

fn people_endpoints(api: &mut Endpoints) {
    let tenant = "/v1/tenants/{tenant_id}";
    api.patch(tenant, Tenant, admin::people::update_tenant, docs::update_tenant());
    let export = "/v1/tenants/{tenant_id}/export";
    api.get(export, Tenant, admin::people::export_tenant, docs::export_tenant());
    let erase = "/v1/tenants/{tenant_id}/erase";
    api.post(erase, Operator, admin::people::erase_tenant, docs::erase_tenant());
    let contacts = "/v1/tenants/{tenant_id}/contacts";
    api.get(contacts, Tenant, admin::people::list, docs::list_contacts());
    let contact = "/v1/tenants/{tenant_id}/contacts/{contact_id}";
    api.get(contact, Tenant, admin::people::get, docs::get_contact());
    let export = "/v1/tenants/{tenant_id}/contacts/{contact_id}/export";
    api.get(export, Tenant, admin::people::export_contact, docs::export_contact());
    let erase = "/v1/tenants/{tenant_id}/contacts/{contact_id}/erase";
    api.post(erase, Tenant, admin::people::erase_contact, docs::erase_contact());
}

/// The endpoints as data.
pub fn list_endpoints() -> Vec<Endpoint> {
    endpoints().into_list()
}

/// The API's description, OpenAPI 3.1, as JSON.
pub fn openapi_json() -> String {
    openapi::describe(&list_endpoints()).to_json().unwrap_or_default()
}

/// Starts the server on threads of its own. Call it within the runtime that serves the core.
///
/// # Errors
/// [`StartError`] if an address cannot be listened on.
pub async fn run(
    settings: ServerSettings,
    core: Arc<Core>,
    render: MetricsRender,
) -> Result<ServerHandle, StartError> {
    let (draining, watching) = watch::channel(false);
    let limits = settings.limits.clone();
    let (workers, drain_timeout) = (settings.workers.max(1), settings.drain_timeout);
    let (bind, metrics_bind) = (settings.bind.clone(), settings.metrics_bind);
    let doors = settings.doors;
    metrics::register_endpoints(doors);
    let state = web::Data::new(AppState {
        core,
        settings,
        bodies: Budget::new(limits.bodies_bytes),
        tenant_chats: Places::default(),
        visitor_chats: Places::default(),
        metrics: render.clone(),
        draining: watching,
        runtime: Handle::current(),
    });
    let description = web::Data::new(operations::Description(openapi_json().into()));
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .app_data(description.clone())
            .configure(|config| endpoints_of(doors).register(config))
            .default_service(web::to(nowhere))
            .wrap(from_fn(scope::scope))
    })
    .workers(workers)
    .on_connect(gate::on_connect(limits.connections_per_address))
    // Without it the kernel holds back each small event of a stream for some 40 ms.
    .tcp_nodelay(true)
    // A caller who hangs up must not be charged for what a model says to nobody.
    .h1_allow_half_closed(false)
    .max_connections(limits.connections_per_worker)
    .client_request_timeout(limits.request_head_timeout)
    .keep_alive(limits.keep_alive)
    .shutdown_timeout(drain_timeout.as_secs().max(1))
    .disable_signals();
    for addr in bind {
        server = server.bind(addr).map_err(|source| StartError::Bind { addr, source })?;
    }
    let addrs = server.addrs();
    let mut servers = vec![launch(server.run())];
    let mut metrics_addr = None;
    if let Some(addr) = metrics_bind {
        let (server, addr) = metrics_server(addr, render)?;
        metrics_addr = Some(addr);
        servers.push(launch(server));
    }
    Ok(ServerHandle { addrs, metrics_addr, draining, servers })
}

type Running = (ActixHandle, tokio::task::JoinHandle<std::io::Result<()>>);

fn launch(server: actix_web::dev::Server) -> Running {
    let handle = server.handle();
    #[expect(clippy::disallowed_methods, reason = "`ServerHandle::drain` waits for it")]
    let task = tokio::spawn(server);
    (handle, task)
}

fn metrics_server(
    addr: SocketAddr,
    metrics: MetricsRender,
) -> Result<(actix_web::dev::Server, SocketAddr), StartError> {
    let server = HttpServer::new(move || {
        let metrics = metrics.clone();
        let page = web::get().to(move || {
            let page = operations::metrics_page(&metrics);
            async move { page }
        });
        App::new().route("/metrics", page)
    });
    let server = server.workers(1).tcp_nodelay(true).disable_signals();
    let server = server.bind(addr).map_err(|source| StartError::Bind { addr, source })?;
    let addr = server.addrs().first().copied().unwrap_or(addr);
    Ok((server.run(), addr))
}

async fn nowhere() -> Result<&'static str, ApiError> {
    Err(ApiError::new(RefusalCode::NotFound, "there is no such endpoint"))
}

#[cfg(test)]
mod tests;
