//! One person on several channels: contacts that are made one, and taken apart again.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{ChannelId, ContactId, MergeId};
use qudao_storage::{Evidence, Merge, Merged, NewMerge};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::in_tenant;
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    code::Code,
    error::ApiError,
    extract::{Body, Id, NoQuery, Query},
    once::{Once, Posted, Reply, commit_once},
    state::AppState,
};

/// Two contacts to be made one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MergeContacts {
    /// Whose conversations and identities go over to the contact of the path.
    #[schema(pattern = r"^cnt_[0-9a-f]{32}$")]
    from: String,
    /// What the person agreed to, or why it is certain that they are one.
    #[schema(min_length = 1, max_length = 500)]
    consent: String,
}

/// Whether a person wants messages that they did not ask for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscription {
    subscribed: bool,
}

/// Two contacts that were made one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Merge", as = Merge)]
pub(crate) struct MergeBody {
    #[schema(value_type = String, example = "mrg_0198c0de00007000800000000000a001")]
    id: MergeId,
    /// Who stayed.
    #[schema(value_type = String)]
    into: ContactId,
    /// Whose conversations and identities went over.
    #[schema(value_type = String)]
    from: ContactId,
    /// On whose word: `member`, `token` or `code`.
    evidence: &'static str,
    /// Who did it.
    made_by: String,
    /// What the person agreed to.
    consent: String,
    #[schema(value_type = String, format = DateTime)]
    made_at: Timestamp,
    /// When it was undone.
    #[schema(value_type = Option<String>, format = DateTime)]
    undone_at: Option<Timestamp>,
}

/// The merges of a contact.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeList {
    data: Vec<MergeBody>,
}

impl From<Merge> for MergeBody {
    fn from(merge: Merge) -> Self {
        let Merge { id, into, from, evidence, made_by, consent, made_at, undone_at } = merge;
        Self { id, into, from, evidence: evidence.as_str(), made_by, consent, made_at, undone_at }
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("contact")
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    Id(into): Id<ContactId>,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<MergeContacts>,
) -> Result<HttpResponse, ApiError> {
    let from: ContactId = body.from.parse().map_err(|error| ApiError::field("/from", error))?;
    let consent = body.consent.trim().to_owned();
    if consent.is_empty() || 500 < consent.chars().count() {
        return Err(ApiError::field("/consent", "has to have 1 to 500 characters"));
    }
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let (evidence, made_by) = (Evidence::Member, &*actor.name);
            let new = NewMerge { into, from, evidence, made_by, consent: &consent };
            match tx.merge_contacts(new).await? {
                Merged::Done(merge) => {
                    let location =
                        format!("/v1/tenants/{tenant_id}/contacts/{into}/merges/{}", merge.id);
                    Ok(Reply::created(location, &MergeBody::from(merge)))
                }
                Merged::Unknown => Err(unknown()),
                Merged::NotPossible => {
                    let detail = "one of the two was erased or merged before, or they are the same";
                    Err(ApiError::new(Code::Conflict, detail))
                }
            }
        })
    });
    made.await
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ContactId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            tx.find_contact(id).await?.ok_or_else(unknown)?;
            Ok(tx.merges_of(id).await?)
        })
    });
    let data = found.await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(MergeList { data }))
}

pub(crate) async fn undo(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(contact): Id<ContactId>,
    Id(id): Id<MergeId>,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let undone = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let merges = tx.merges_of(contact).await?;
            let known = merges.iter().any(|merge| merge.id == id);
            if !known {
                return Err(ApiError::not_found("merge"));
            }
            let detail = "it was undone before, or one of the two was erased or merged on since";
            let undone = tx.undo_merge(id).await?;
            let undone = undone.ok_or_else(|| ApiError::new(Code::Conflict, detail))?;
            Ok(Reply::ok(&MergeBody::from(undone)))
        })
    });
    undone.await
}

pub(crate) async fn subscribe(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(contact): Id<ContactId>,
    Id(channel): Id<ChannelId>,
    _: Query<NoQuery>,
    Body(Subscription { subscribed }): Body<Subscription>,
) -> Result<HttpResponse, ApiError> {
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let known = tx.set_subscribed(contact, channel, subscribed).await?;
            known.then_some(()).ok_or_else(|| ApiError::not_found("identity"))
        })
    });
    changed.await?;
    Ok(HttpResponse::NoContent().finish())
}
