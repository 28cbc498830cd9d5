//! People's data: who there is, all that is kept of them, and its end.

use std::convert::Infallible;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, Bytes},
};
use jiff::Timestamp;
use qudao_core::people::Erased;
use qudao_domain::{ChannelId, ContactId, TenantId};
use qudao_storage::{Calling, Contact, Export, ExportOf, Identity, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::{List, in_tenant, page, tenants::TenantBody};
use crate::{
    access::TenantScope,
    act::{Act, change},
    code::Code,
    error::ApiError,
    extract::{Body, Id, NoQuery, PageQuery, Query, path_id},
    once::{Once, Posted, Reply, run_once},
    state::AppState,
};

/// Pieces of an export that wait for a slow reader.
const AHEAD: usize = 4;
const MAX_DAYS: u32 = 36_500;
/// The longest text to look for, in characters.
const MAX_SEARCH: usize = 200;

/// A contact.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Contact", as = Contact)]
pub(crate) struct ContactBody {
    #[schema(value_type = String, example = "cnt_0198c0de00007000800000000000a001")]
    id: ContactId,
    /// When they wrote first.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When their erasure was asked for.
    #[schema(value_type = Option<String>, format = DateTime)]
    erase_asked_at: Option<Timestamp>,
    /// When it was complete.
    #[schema(value_type = Option<String>, format = DateTime)]
    erased_at: Option<Timestamp>,
    /// The contact that this one turned out to be.
    #[schema(value_type = Option<String>)]
    merged_into: Option<ContactId>,
    /// What the person called themselves last, on any channel.
    name: Option<String>,
    /// The ids of the channels that they write on.
    #[schema(value_type = Vec<String>)]
    channels: Vec<ChannelId>,
}

impl ContactBody {
    fn of(contact: Contact, calling: Option<Calling>) -> Self {
        let Contact { id, created_at, erase_asked_at, erased_at, merged_into } = contact;
        let (name, channels) = calling.map(|one| (one.name, one.channels)).unwrap_or_default();
        Self { id, created_at, erase_asked_at, erased_at, merged_into, name, channels }
    }
}

/// Which contacts to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContactQuery {
    search: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// How a channel calls a contact.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Identity", as = Identity)]
pub(crate) struct IdentityBody {
    #[schema(value_type = String)]
    channel_id: ChannelId,
    /// The channel's own id of the person.
    external_id: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What the person calls themselves there.
    name: Option<String>,
    /// Since when the person cannot be reached there, as its platform says.
    #[schema(value_type = Option<String>, format = DateTime)]
    unreachable_at: Option<Timestamp>,
    /// Since when the person wants no message there that they did not ask for.
    #[schema(value_type = Option<String>, format = DateTime)]
    unsubscribed_at: Option<Timestamp>,
}

impl From<Identity> for IdentityBody {
    fn from(identity: Identity) -> Self {
        let Identity { channel_id, external_id, created_at, name, unreachable_at, unsubscribed_at } =
            identity;
        Self { channel_id, external_id, created_at, name, unreachable_at, unsubscribed_at }
    }
}

/// A contact and how channels call it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContactDetail {
    #[serde(flatten)]
    contact: ContactBody,
    /// None after an erasure.
    identities: Vec<IdentityBody>,
    /// How the contact came: the first word of it.
    #[schema(value_type = Option<Object>)]
    attribution: Option<Value>,
}

/// What became of an erasure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Erasure {
    /// `true`: all of it is done.
    erased: bool,
    /// How many messages lost their words by this request.
    messages: u64,
}

/// What changes of a tenant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateTenant {
    /// For how many days messages are kept, from 1 to 36500; `null` for ever.
    #[serde(deserialize_with = "required")]
    #[schema(required = true, value_type = Option<u32>, minimum = 1, maximum = 36500, example = 90)]
    retention_days: Option<u32>,
}

/// `null` is a value here, and leaving the field out is not the same.
fn required<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Option::deserialize(deserializer)
}

/// The confirmation of a tenant's erasure.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EraseTenant {
    /// The tenant's name, as it is written.
    confirm: String,
}

pub(crate) async fn update_tenant(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    _: Query<NoQuery>,
    Body(UpdateTenant { retention_days }): Body<UpdateTenant>,
) -> Result<HttpResponse, ApiError> {
    if retention_days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
        return Err(ApiError::field("/retention_days", "has to be from 1 to 36500, or null"));
    }
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            tx.set_retention(retention_days).await?;
            tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant"))
        })
    });
    Ok(HttpResponse::Ok().json(TenantBody::from(changed.await?)))
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(ContactQuery { search, limit, cursor }): Query<ContactQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&PageQuery::new(limit, cursor))?;
    let search = search.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if search.as_ref().is_some_and(|text| MAX_SEARCH < text.chars().count() || text.contains('\0'))
    {
        let detail = "search has to have at most 200 characters, and not U+0000";
        return Err(ApiError::new(Code::InvalidQuery, detail));
    }
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            let found = tx.list_contacts(&page, search.as_deref()).await?;
            let ids: Vec<_> = found.items.iter().map(|contact| contact.id).collect();
            let mut callings = tx.callings(&ids).await?;
            Ok(found.map(|contact| {
                let at = callings.iter().position(|one| one.id == contact.id);
                ContactBody::of(contact, at.map(|at| callings.swap_remove(at)))
            }))
        })
    });
    Ok(HttpResponse::Ok().json(List::<ContactBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ContactId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            let contact = tx.find_contact(id).await?.ok_or_else(unknown)?;
            let calling = tx.callings(&[id]).await?.pop();
            let contact = ContactBody::of(contact, calling);
            let identities = tx.identities(id).await?.into_iter().map(Into::into).collect();
            Ok(ContactDetail { contact, identities, attribution: tx.attribution(id).await? })
        })
    });
    Ok(HttpResponse::Ok().json(found.await?))
}

fn unknown() -> ApiError {
    ApiError::not_found("contact")
}

pub(crate) async fn erase_contact(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ContactId>,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let core = state.core.clone();
    let work = async move {
        match core.erase_contact(tenant_id, id).await? {
            Erased::Unknown => Err(unknown()),
            Erased::Done { messages } => Ok(Reply::ok(&Erasure { erased: true, messages })),
        }
    };
    run_once(&state, tenant_id, once, work).await
}

pub(crate) async fn erase_tenant(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<EraseTenant>,
) -> Result<HttpResponse, ApiError> {
    let tenant_id: TenantId = path_id(&request)?;
    let core = state.core.clone();
    let work = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        let tenant = tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant"))?;
        let erased = tx.is_erased().await?;
        tx.commit().await?;
        if !erased && tenant.name != body.confirm {
            return Err(ApiError::field("/confirm", "has to be the tenant's name"));
        }
        match core.erase_tenant(tenant_id).await? {
            Erased::Unknown => Err(ApiError::not_found("tenant")),
            Erased::Done { messages } => Ok(Reply::ok(&Erasure { erased: true, messages })),
        }
    };
    run_once(&state, tenant_id, once, work).await
}

pub(crate) async fn export_contact(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ContactId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let known = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { tx.find_contact(id).await?.ok_or_else(unknown) })
    });
    known.await?;
    let head = json!({ "export": "contact", "tenant_id": tenant_id, "contact_id": id });
    Ok(stream(&state, tenant_id, ExportOf::Contact(id), head, id.to_string()))
}

pub(crate) async fn export_tenant(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    in_tenant(&state, tenant_id, |_| Box::pin(async { Ok(()) })).await?;
    let head = json!({ "export": "tenant", "tenant_id": tenant_id });
    Ok(stream(&state, tenant_id, ExportOf::Tenant, head, tenant_id.to_string()))
}

/// The rows as they are read: the whole is never in memory.
fn stream(
    state: &web::Data<AppState>,
    tenant_id: TenantId,
    of: ExportOf,
    mut head: Value,
    name: String,
) -> HttpResponse {
    let (outgoing, incoming) = mpsc::channel(AHEAD);
    let core = state.core.clone();
    head["at"] = json!(core.clock.now());
    let export = core.store.export(tenant_id, of);
    // Ends with its reader: whoever hangs up closes the channel.
    drop(core.tasks.spawn_on(write(export, head, outgoing), &state.runtime));
    let pieces = futures_util::stream::unfold(incoming, |mut incoming| async {
        let piece: Bytes = incoming.recv().await?;
        Some((Ok::<_, Infallible>(piece), incoming))
    });
    HttpResponse::Ok()
        .content_type("application/jsonl")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}.jsonl\""),
        ))
        .streaming(pieces)
}

async fn write(export: Export, head: Value, outgoing: mpsc::Sender<Bytes>) {
    if let Err(error) = write_rows(export, head, &outgoing).await {
        // The last line is missing, which tells the reader.
        tracing::warn!(%error, "an export broke off");
    }
}

async fn write_rows(
    mut export: Export,
    head: Value,
    outgoing: &mpsc::Sender<Bytes>,
) -> Result<(), StorageError> {
    let mut piece = line(&head);
    let mut rows = 0;
    while let Some(page) = export.next().await? {
        rows += page.rows.len();
        for row in page.rows {
            piece += &line(&json!({ "table": page.table, "row": row }));
        }
        if outgoing.send(std::mem::take(&mut piece).into()).await.is_err() {
            return Ok(());
        }
    }
    piece += &line(&json!({ "complete": true, "rows": rows }));
    let _ = outgoing.send(piece.into()).await;
    Ok(())
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}
