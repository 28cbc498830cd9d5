//! The HTTP server: the admin API, the OpenAI-compatible API, the web chat, and the pages.
//!
//! [`run`] starts it. A handler reads its input, calls one thing and answers; every refusal goes
//! through one table of codes and one place that writes it.

use std::{net::SocketAddr, sync::Arc};

use actix_web::{App, HttpServer, dev::ServerHandle as ActixHandle, middleware::from_fn, web};
use qudao_channels::Host;
use qudao_core::Core;
use qudao_domain::access::Scope;
use qudao_identity::Identity;
use tokio::{runtime::Handle, sync::watch};

mod access;
mod act;
mod address;
mod admin;
mod assets;
mod chat;
mod code;
mod cookie;
mod docs;
mod endpoints;
mod error;
mod extract;
mod failure;
mod gate;
mod handle;
mod inbound;
mod meter;
mod metrics;
mod oidc;
mod once;
mod openai;
mod openapi;
mod operations;
mod partner;
mod places;
mod rate;
mod scope;
mod settings;
mod shield;
mod sign_in;
mod site;
mod state;
mod widget;

pub use access::Access;
pub use code::{Code, reference_markdown};
pub use endpoints::Endpoint;
pub use handle::{ServerHandle, StartError};
pub use metrics::METRICS;
pub use settings::{Doors, Limits, PartnerSettings, ServerSettings};

use access::Access::{Key, Member, Operator, Partner, Public, Tenant, Visitor, Widget};
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
    model_endpoints(&mut api);
    tenant_endpoints(&mut api);
    people_endpoints(&mut api);

    api.get("/v1/audit-events", Operator, admin::audit::list_platform, docs::platform_audit());
    api.get("/v1/plugins", Operator, admin::plugins::list, docs::plugins());
    api.post("/v1/plugins/{plugin_id}/reload", Operator, admin::plugins::reload, docs::reload());
    let lift = "/v1/plugins/{plugin_id}/lift-quarantine";
    api.post(lift, Operator, admin::plugins::lift_quarantine, docs::lift_quarantine());
    api.get("/v1/breakers", Operator, admin::decisions::breakers, docs::breakers());

    api.post("/v1/web/{key}/session", Public, chat::requests::open, docs::open_chat());
    api.get("/v1/web/{key}/messages", Visitor, chat::requests::messages, docs::chat_messages());
    api.post("/v1/web/{key}/messages", Visitor, chat::requests::post_message, docs::post_message());
    api.post("/v1/web/{key}/stop", Visitor, chat::requests::stop, docs::stop());
    api.post("/v1/web/{key}/files", Visitor, chat::files::upload, docs::send_file());
    api.get("/v1/web/{key}/files/{upload_id}", Visitor, chat::files::fetch, docs::fetch_file());
    claim_endpoints(&mut api);
    api.get("/v1/web/{key}/events", Visitor, chat::events::open, docs::events());
    api.get("/v1/web/{key}/socket", Public, chat::socket::open, docs::socket());

    api.hook("/v1/inbound/{key}", inbound::take);
    api.hook("/v1/inbound/{key}/{tail:.+}", inbound::take);

    widget_endpoints(&mut api);
    partner_endpoints(&mut api);
    operations_endpoints(&mut api);
    api.get("/openapi.json", Public, operations::openapi, docs::openapi());

    api.asset("/", operations::front_door);
    api.asset("/docs", assets::docs_page);
    api.asset("/docs/errors", assets::errors_page);
    api.asset("/chat/{key}", assets::chat_page);
    api.asset("/console", assets::console_page);
    api.asset("/assets/{path:.+}", assets::asset);
    api.asset("/widget.js", assets::widget_script);
    api
}

/// What models are asked, as OpenAI's clients ask it.
fn model_endpoints(api: &mut Endpoints) {
    use openai::{classifications, completions, detections, embeddings, models, transcriptions};
    let key = Key(Scope::Chat);
    api.post("/v1/chat/completions", key, completions::create, docs::completions());
    api.post("/v1/embeddings", key, embeddings::create, docs::embeddings());
    api.post("/v1/classifications", key, classifications::create, docs::classifications());
    api.post("/v1/detections", key, detections::create, docs::detections());
    let sounds = "/v1/audio/transcriptions";
    api.post(sounds, key, transcriptions::create, docs::transcriptions());
    api.get("/v1/models", key, models::list, docs::models());
    api.get("/v1/models/{model:.+}", key, models::get, docs::model());
}

/// How visitors prove an address.
fn claim_endpoints(api: &mut Endpoints) {
    use chat::claims::{ask, confirm};
    api.post("/v1/web/{key}/claims", Visitor, ask, docs::ask_code());
    let own = "/v1/web/{key}/claims/{claim_id}/confirm";
    api.post(own, Visitor, confirm, docs::confirm_code());
    api.post("/v1/widget/{key}/claims", Widget, ask, docs::ask_code().of_the_widget());
    let widgets = "/v1/widget/{key}/claims/{claim_id}/confirm";
    api.post(widgets, Widget, confirm, docs::confirm_code().of_the_widget());
}

/// What pages of other sites ask. Each path begins with [`widget::PATHS`].
fn widget_endpoints(api: &mut Endpoints) {
    use chat::{events, requests, socket};
    let token = "/v1/widget/{key}/token";
    api.post(token, Public, widget::requests::token, docs::widget_token());
    let messages = "/v1/widget/{key}/messages";
    api.get(messages, Widget, requests::messages, docs::chat_messages().of_the_widget());
    api.post(messages, Widget, requests::post_message, docs::post_message().of_the_widget());
    let stop = "/v1/widget/{key}/stop";
    api.post(stop, Widget, requests::stop, docs::stop().of_the_widget());
    let watch = "/v1/widget/{key}/events";
    api.get(watch, Widget, events::open, docs::events().of_the_widget());
    let line = "/v1/widget/{key}/socket";
    api.get(line, Public, socket::open_widget, docs::widget_socket());
    let rating = "/v1/widget/{key}/rating";
    api.post(rating, Widget, widget::requests::rate, docs::rate_conversation());
    let identify = "/v1/widget/{key}/identify";
    api.post(identify, Widget, widget::identify::identify, docs::identify());
    let transcript = "/v1/widget/{key}/transcript";
    api.post(transcript, Widget, widget::transcript::send, docs::send_transcript());
    let files = "/v1/widget/{key}/files";
    let upload = chat::files::upload_in_widget;
    api.post(files, Widget, upload, docs::send_file().of_the_widget());
    let file = "/v1/widget/{key}/files/{upload_id}";
    api.get(file, Widget, chat::files::fetch, docs::fetch_file().of_the_widget());
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
    let tenant = "/v1/tenants/{tenant_id}";
    api.get(tenant, Tenant(Scope::TenantRead), admin::tenants::get, docs::get_tenant());
    let wallet = "/v1/tenants/{tenant_id}/wallet";
    api.get(wallet, Tenant(Scope::BillingRead), admin::tenants::wallet, docs::wallet());
    let credits = "/v1/tenants/{tenant_id}/credits";
    api.post(credits, Operator, admin::tenants::add_credit, docs::add_credit());
    let usage = "/v1/tenants/{tenant_id}/usage";
    api.get(usage, Tenant(Scope::BillingRead), admin::books::usage, docs::usage());
    let ledger = "/v1/tenants/{tenant_id}/ledger";
    api.get(ledger, Tenant(Scope::BillingRead), admin::books::ledger, docs::ledger());

    assistant_endpoints(api);

    let (read, write) = (Tenant(Scope::ChannelsRead), Tenant(Scope::ChannelsWrite));
    let channels = "/v1/tenants/{tenant_id}/channels";
    api.post(channels, write, admin::channels::create, docs::create_channel());
    api.get(channels, read, admin::channels::list, docs::list_channels());
    let channel = "/v1/tenants/{tenant_id}/channels/{channel_id}";
    api.get(channel, read, admin::channels::get, docs::get_channel());
    api.patch(channel, write, admin::channels::update, docs::update_channel());
    let connect = "/v1/tenants/{tenant_id}/channels/{channel_id}/connect";
    api.post(connect, write, admin::channels::connect, docs::connect_channel());
    let kinds = "/v1/tenants/{tenant_id}/channel-kinds";
    api.get(kinds, read, admin::channel_kinds::list, docs::list_channel_kinds());
    let keys = "/v1/tenants/{tenant_id}/channels/{channel_id}/partner-keys";
    api.post(keys, write, admin::partners::create_keys, docs::create_partner_keys());
    api.delete(keys, write, admin::partners::revoke_keys, docs::revoke_partner_keys());
    let endpoint = "/v1/tenants/{tenant_id}/channels/{channel_id}/partner-endpoint";
    api.put(endpoint, write, admin::partners::set_endpoint, docs::set_partner_endpoint());
    let verify = "/v1/tenants/{tenant_id}/channels/{channel_id}/partner-endpoint/verify";
    api.post(verify, write, admin::partners::verify_endpoint, docs::verify_partner_endpoint());
    let deliveries = "/v1/tenants/{tenant_id}/channels/{channel_id}/deliveries";
    api.get(deliveries, read, admin::partners::deliveries, docs::list_partner_deliveries());
    let replay = "/v1/tenants/{tenant_id}/channels/{channel_id}/deliveries/replay";
    api.post(replay, write, admin::partners::replay, docs::replay_partner_deliveries());

    let read = Tenant(Scope::ConversationsRead);
    let decisions = "/v1/tenants/{tenant_id}/decisions";
    api.get(decisions, read, admin::decisions::list, docs::list_decisions());
    let decision = "/v1/tenants/{tenant_id}/decisions/{decision_id}";
    api.get(decision, read, admin::decisions::get, docs::get_decision());
    let conversations = "/v1/tenants/{tenant_id}/conversations";
    api.get(conversations, read, admin::conversations::list, docs::list_conversations());
    let messages = "/v1/tenants/{tenant_id}/conversations/{conversation_id}/messages";
    api.get(messages, read, admin::conversations::messages, docs::list_messages());
    let ratings = "/v1/tenants/{tenant_id}/ratings";
    api.get(ratings, read, admin::ratings::read, docs::read_ratings());

    let audit = "/v1/tenants/{tenant_id}/audit-events";
    api.get(audit, Tenant(Scope::AuditRead), admin::audit::list, docs::audit());

    identity_endpoints(api);
}

/// Who answers: routes, models and assistants.
fn assistant_endpoints(api: &mut Endpoints) {
    let (read, write) = (Tenant(Scope::AssistantsRead), Tenant(Scope::AssistantsWrite));
    let routes = "/v1/tenants/{tenant_id}/routes";
    api.post(routes, write, admin::routes::create, docs::create_route());
    api.get(routes, read, admin::routes::list, docs::list_routes());
    let route = "/v1/tenants/{tenant_id}/routes/{route_id}";
    api.get(route, read, admin::routes::get, docs::get_route());
    api.patch(route, write, admin::routes::update, docs::update_route());
    let traffic = "/v1/tenants/{tenant_id}/routes/{route_id}/traffic";
    api.get(traffic, read, admin::traffic::get, docs::route_traffic());
    let models = "/v1/tenants/{tenant_id}/models";
    api.get(models, read, admin::offers::list, docs::list_offers());
    let assistants = "/v1/tenants/{tenant_id}/assistants";
    api.post(assistants, write, admin::assistants::create, docs::create_assistant());
    api.get(assistants, read, admin::assistants::list, docs::list_assistants());
    let assistant = "/v1/tenants/{tenant_id}/assistants/{assistant_id}";
    api.get(assistant, read, admin::assistants::get, docs::get_assistant());
}

/// What partners speak.
fn partner_endpoints(api: &mut Endpoints) {
    let events = "/v1/pcp/channels/{channel_id}/events";
    api.post(events, Partner, partner::events::post, docs::post_event());
    api.get(events, Partner, partner::events::pull, docs::pull_events());
    let ack = "/v1/pcp/channels/{channel_id}/events:ack";
    api.post(ack, Partner, partner::events::ack, docs::ack_events());
    let stream = "/v1/pcp/channels/{channel_id}/stream";
    api.get(stream, Partner, partner::stream::open, docs::stream_events());
    let declared = "/v1/pcp/channels/{channel_id}/capabilities";
    let (get, put) = (docs::get_partner_capabilities(), docs::put_partner_capabilities());
    api.get(declared, Partner, partner::endpoint::get_capabilities, get);
    api.put(declared, Partner, partner::endpoint::put_capabilities, put);
    let media = "/v1/pcp/channels/{channel_id}/media";
    api.post(media, Partner, partner::media::upload, docs::upload_media());
    let file = "/v1/pcp/channels/{channel_id}/media/{upload_id}";
    api.get(file, Public, partner::media::fetch, docs::fetch_media());
    api.post(file, Partner, partner::media::renew, docs::renew_media());
    let deliveries = "/v1/pcp/channels/{channel_id}/deliveries";
    api.get(deliveries, Partner, partner::deliveries::list, docs::list_deliveries());
    let replay = "/v1/pcp/channels/{channel_id}/deliveries:replay";
    api.post(replay, Partner, partner::deliveries::replay, docs::replay_deliveries());
    let verify = "/v1/pcp/channels/{channel_id}/endpoint:verify";
    api.post(verify, Partner, partner::endpoint::verify, docs::verify_endpoint());
    let rotate = "/v1/pcp/channels/{channel_id}/keys:rotate";
    api.post(rotate, Partner, partner::endpoint::rotate_keys, docs::rotate_partner_keys());
    let ping = "/v1/pcp/channels/{channel_id}/ping";
    api.post(ping, Partner, partner::endpoint::ping, docs::partner_ping());
    let report = "/v1/pcp/channels/{channel_id}/conformance";
    api.post(report, Partner, partner::conformance::submit, docs::submit_conformance());
    let keys = "/.well-known/pcp-keys.json";
    api.get(keys, Public, partner::endpoint::public_keys, docs::pcp_keys());
}

/// Who works for a tenant, and the keys that they hand out.
fn identity_endpoints(api: &mut Endpoints) {
    let (read, write) = (Tenant(Scope::KeysRead), Tenant(Scope::KeysWrite));
    let keys = "/v1/tenants/{tenant_id}/api-keys";
    api.post(keys, write, admin::api_keys::create, docs::create_api_key());
    api.get(keys, read, admin::api_keys::list, docs::list_api_keys());
    let key = "/v1/tenants/{tenant_id}/api-keys/{api_key_id}";
    api.delete(key, write, admin::api_keys::revoke, docs::revoke_api_key());
    let rotation = "/v1/tenants/{tenant_id}/api-keys/{api_key_id}/rotate";
    api.post(rotation, write, admin::api_keys::rotate, docs::rotate_api_key());

    let (read, write) = (Tenant(Scope::MembersRead), Tenant(Scope::MembersWrite));
    let members = "/v1/tenants/{tenant_id}/members";
    api.get(members, read, admin::members::list, docs::list_members());
    let member = "/v1/tenants/{tenant_id}/members/{member_id}";
    api.get(member, read, admin::members::get, docs::get_member());
    api.patch(member, write, admin::members::update, docs::update_member());
    api.delete(member, write, admin::members::delete, docs::delete_member());
    let invitations = "/v1/tenants/{tenant_id}/invitations";
    api.post(invitations, write, admin::members::invite, docs::invite());
    api.get(invitations, read, admin::members::list_invitations, docs::list_invitations());
    let invitation = "/v1/tenants/{tenant_id}/invitations/{invitation_id}";
    api.delete(invitation, write, admin::members::revoke_invitation, docs::revoke_invitation());
    let roles = "/v1/tenants/{tenant_id}/roles";
    api.post(roles, write, admin::roles::create, docs::create_role());
    api.get(roles, read, admin::roles::list, docs::list_roles());
    let role = "/v1/tenants/{tenant_id}/roles/{role_id}";
    api.patch(role, write, admin::roles::update, docs::update_role());
    api.delete(role, write, admin::roles::delete, docs::delete_role());
    let sessions = "/v1/tenants/{tenant_id}/sessions";
    api.post(sessions, Public, sign_in::create, docs::sign_in());
    api.get(sessions, read, admin::sessions::list, docs::list_sessions());
    let session = "/v1/tenants/{tenant_id}/sessions/{session_id}";
    api.delete(session, write, admin::sessions::end, docs::end_session());

    let providers = "/v1/tenants/{tenant_id}/identity-providers";
    api.post(providers, write, admin::identity_providers::create, docs::create_provider());
    api.get(providers, read, admin::identity_providers::list, docs::list_providers());
    let provider = "/v1/tenants/{tenant_id}/identity-providers/{identity_provider_id}";
    api.delete(provider, write, admin::identity_providers::delete, docs::delete_provider());

    let options = "/v1/tenants/{tenant_id}/sign-in-options";
    api.get(options, Public, oidc::options, docs::sign_in_options());
    let depart = "/v1/tenants/{tenant_id}/identity-providers/{identity_provider_id}/sign-in";
    api.get(depart, Public, oidc::depart, docs::depart());
    api.get(qudao_identity::oidc::CALLBACK, Public, oidc::arrive, docs::arrive());
    api.post("/v1/invitations/accept", Public, sign_in::accept, docs::accept_invitation());
    api.get("/v1/session", Member, sign_in::get, docs::get_session());
    api.delete("/v1/session", Member, sign_in::delete, docs::sign_out());
    let password = "/v1/session/password";
    api.post(password, Member, sign_in::change_password, docs::change_password());
    let factor = "/v1/session/second-factor";
    api.post(factor, Member, sign_in::offer_second_factor, docs::offer_second_factor());
    let confirm = "/v1/session/second-factor/confirm";
    api.post(confirm, Member, sign_in::confirm_second_factor, docs::confirm_second_factor());
    let remove = "/v1/session/second-factor/remove";
    api.post(remove, Member, sign_in::remove_second_factor, docs::remove_second_factor());
}

fn people_endpoints(api: &mut Endpoints) {
    let tenant = "/v1/tenants/{tenant_id}";
    api.patch(
        tenant,
        Tenant(Scope::TenantWrite),
        admin::people::update_tenant,
        docs::update_tenant(),
    );
    let export = "/v1/tenants/{tenant_id}/export";
    api.get(
        export,
        Tenant(Scope::TenantExport),
        admin::people::export_tenant,
        docs::export_tenant(),
    );
    let erase = "/v1/tenants/{tenant_id}/erase";
    api.post(erase, Operator, admin::people::erase_tenant, docs::erase_tenant());
    let contacts = "/v1/tenants/{tenant_id}/contacts";
    let read = Tenant(Scope::ContactsRead);
    api.get(contacts, read, admin::people::list, docs::list_contacts());
    let contact = "/v1/tenants/{tenant_id}/contacts/{contact_id}";
    api.get(contact, read, admin::people::get, docs::get_contact());
    let export = "/v1/tenants/{tenant_id}/contacts/{contact_id}/export";
    api.get(export, read, admin::people::export_contact, docs::export_contact());
    let write = Tenant(Scope::ContactsWrite);
    let merges = "/v1/tenants/{tenant_id}/contacts/{contact_id}/merges";
    api.post(merges, write, admin::merges::create, docs::merge_contacts());
    api.get(merges, read, admin::merges::list, docs::list_merges());
    let undo = "/v1/tenants/{tenant_id}/contacts/{contact_id}/merges/{merge_id}/undo";
    api.post(undo, write, admin::merges::undo, docs::undo_merge());
    let identity = "/v1/tenants/{tenant_id}/contacts/{contact_id}/channels/{channel_id}";
    api.patch(identity, write, admin::merges::subscribe, docs::subscribe_contact());
    let erase = "/v1/tenants/{tenant_id}/contacts/{contact_id}/erase";
    api.post(
        erase,
        Tenant(Scope::ContactsWrite),
        admin::people::erase_contact,
        docs::erase_contact(),
    );
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
    let hsts = shield::hsts(settings.hsts);
    metrics::register_endpoints(doors);
    let identity =
        Identity::new(Arc::clone(&core), settings.egress.clone(), settings.identity.clone());
    let channels = settings.channels.clone().unwrap_or_else(|| {
        Host::new(Arc::clone(&core), settings.egress.clone(), qudao_channels::adapters())
    });
    let state = web::Data::new(AppState {
        core,
        channels,
        identity: Arc::new(identity),
        settings,
        bodies: Budget::new(limits.bodies_bytes),
        tenant_chats: Places::default(),
        visitor_chats: Places::default(),
        metrics: render.clone(),
        draining: watching,
        runtime: Handle::current(),
        hsts,
    });
    let description = web::Data::new(operations::Description(openapi_json().into()));
    let mut server = HttpServer::new(move || {
        // This runs on each of the server's threads.
        qudao_core::work_here();
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
