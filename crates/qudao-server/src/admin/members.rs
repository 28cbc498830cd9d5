//! Members of a tenant, and the invitations by which they come.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{
    InvitationId, MemberId,
    access::Role,
    key::{Ticket, TicketKind},
    text::Name,
};
use qudao_identity::Email;
use qudao_storage::{Invitation, Member, MemberRole, NewInvitation, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    List, in_tenant, page,
    roles::{parse_role, role_words, scopes_of},
};
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    code::Code,
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

/// Somebody to be invited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateInvitation {
    /// Their e-mail address, with which they will sign in.
    #[schema(
        max_length = 254,
        pattern = r"^\s*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\s*$"
    )]
    email: String,
    /// What they will be: `owner`, `admin`, `billing`, `editor`, `agent`, `viewer`, or the id of
    /// one of the tenant's own roles.
    #[schema(pattern = "^(owner|admin|billing|editor|agent|viewer|rol_[0-9a-f]{32})$")]
    role: String,
}

/// An invitation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Invitation", as = Invitation)]
pub(crate) struct InvitationBody {
    #[schema(value_type = String, example = "inv_0198c0de00007000800000000000a001")]
    id: InvitationId,
    email: String,
    role: String,
    /// `open`, `accepted`, `revoked` or `expired`.
    state: &'static str,
    /// Who invited.
    made_by: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// An invitation that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewInvitationBody {
    /// To be sent to whoever is invited. It is not shown again: `null` where the request is
    /// repeated under its `Idempotency-Key`.
    #[schema(example = "qi_…")]
    token: Option<String>,
    #[serde(flatten)]
    record: InvitationBody,
}

/// A member.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Member", as = Member)]
pub(crate) struct MemberBody {
    #[schema(value_type = String, example = "mbr_0198c0de00007000800000000000a001")]
    id: MemberId,
    email: String,
    name: String,
    role: String,
    /// Whether they may come in.
    suspended: bool,
    /// Whether they have a password here.
    has_password: bool,
    /// Whether they need a code of an authenticator app.
    has_second_factor: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// What changes about a member. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateMember {
    /// What they are called.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: Option<String>,
    /// What they are.
    #[schema(pattern = "^(owner|admin|billing|editor|agent|viewer|rol_[0-9a-f]{32})$")]
    role: Option<String>,
    /// Whether they may not come in. Their sessions end at once.
    suspended: Option<bool>,
    /// `false` takes their second factor away, for whoever lost both device and recovery codes.
    has_second_factor: Option<bool>,
}

impl InvitationBody {
    fn of(invitation: Invitation, now: Timestamp) -> Self {
        let state = match &invitation {
            Invitation { accepted_at: Some(_), .. } => "accepted",
            Invitation { revoked_at: Some(_), .. } => "revoked",
            Invitation { expires_at, .. } if *expires_at <= now => "expired",
            _ => "open",
        };
        let Invitation { id, email, role, made_by, created_at, expires_at, .. } = invitation;
        Self { id, email, role: role_words(role), state, made_by, created_at, expires_at }
    }
}

impl From<Member> for MemberBody {
    fn from(member: Member) -> Self {
        let Member { id, email, name, role, has_password, has_totp, created_at, suspended_at } =
            member;
        Self {
            id,
            email,
            name,
            role: role_words(role),
            suspended: suspended_at.is_some(),
            has_password,
            has_second_factor: has_totp,
            created_at,
        }
    }
}

/// Refuses to make somebody what the actor may not make them.
async fn check_role(tx: &mut Tx, actor: &Actor, role: MemberRole) -> Result<(), ApiError> {
    actor.may_touch(role)?;
    actor.may_grant(scopes_of(tx, role).await?)
}

pub(crate) async fn invite(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateInvitation>,
) -> Result<HttpResponse, ApiError> {
    let mut check = FieldCheck::default();
    let email = check.take("/email", Email::parse(&body.email));
    let role = check.take("/role", parse_role(&body.role));
    let (email, role) = check.finish(email.zip(role))?;
    let (good_for, now) = (state.identity.settings.invitation, state.core.clock.now());
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            check_role(tx, &actor, role).await?;
            if tx.member_by_email(email.as_str()).await?.is_some() {
                return Err(ApiError::field("/email", "there is a member with this address"));
            }
            let id = InvitationId::new();
            let ticket = Ticket::generate(TicketKind::Invitation, tenant_id, id.as_uuid());
            let new = NewInvitation {
                id,
                email: email.as_str(),
                role,
                secret_hash: &ticket.hash(),
                made_by: &actor.name,
                good_for,
            };
            let record = InvitationBody::of(tx.create_invitation(&new).await?, now);
            let location = format!("/v1/tenants/{tenant_id}/invitations/{id}");
            let mut body = NewInvitationBody { token: Some(ticket.reveal()), record };
            let reply = Reply::created(location, &body);
            body.token = None;
            Ok(reply.repeated_as(&body))
        })
    });
    made.await
}

pub(crate) async fn list_invitations(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (page, now) = (page(&query)?, state.core.clock.now());
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_invitations(&page).await?) })
    });
    let listing = listing.await?.map(|invitation| InvitationBody::of(invitation, now));
    Ok(HttpResponse::Ok().json(List::<InvitationBody>::of(listing)))
}

pub(crate) async fn revoke_invitation(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<InvitationId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let revoked = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let revoked = tx.revoke_invitation(id).await?;
            revoked.then_some(()).ok_or_else(|| ApiError::not_found("open invitation"))
        })
    });
    revoked.await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_members(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<MemberBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<MemberId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_member(id).await?) })
    });
    let member = found.await?.ok_or_else(|| ApiError::not_found("member"))?;
    Ok(HttpResponse::Ok().json(MemberBody::from(member)))
}

pub(crate) async fn update(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    act: Act,
    Id(id): Id<MemberId>,
    _: Query<NoQuery>,
    Body(body): Body<UpdateMember>,
) -> Result<HttpResponse, ApiError> {
    let mut check = FieldCheck::default();
    let name = check.take_optional("/name", body.name.as_deref().map(Name::parse));
    let role = check.take_optional("/role", body.role.as_deref().map(parse_role));
    if body.has_second_factor == Some(true) {
        check.refuse("/has_second_factor", "members set up a second factor themselves");
    }
    check.finish(Some(()))?;
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let member = touchable(tx, &actor, id).await?;
            if let Some(role) = role {
                check_role(tx, &actor, role).await?;
            }
            let becomes = role.unwrap_or(member.role);
            let suspended = body.suspended.unwrap_or(member.suspended_at.is_some());
            keep_an_owner(tx, &member, becomes, suspended).await?;
            let name = name.map_or(member.name, Name::into_string);
            tx.update_member(id, &name, becomes, suspended).await?;
            if body.has_second_factor == Some(false) {
                tx.drop_totp(id).await?;
            }
            tx.find_member(id).await?.ok_or_else(|| ApiError::not_found("member"))
        })
    });
    Ok(HttpResponse::Ok().json(MemberBody::from(changed.await?)))
}

pub(crate) async fn delete(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    act: Act,
    Id(id): Id<MemberId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let deleted = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let member = touchable(tx, &actor, id).await?;
            keep_an_owner(tx, &member, member.role, true).await?;
            Ok(tx.delete_member(id).await?)
        })
    });
    deleted.await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The member, if the actor may change them: nobody reaches those who may do more than they.
async fn touchable(tx: &mut Tx, actor: &Actor, id: MemberId) -> Result<Member, ApiError> {
    let member = tx.member(id).await?.ok_or_else(|| ApiError::not_found("member"))?;
    check_role(tx, actor, member.role).await?;
    Ok(member)
}

/// A tenant without an owner could not be mended by itself.
async fn keep_an_owner(
    tx: &mut Tx,
    member: &Member,
    becomes: MemberRole,
    leaves: bool,
) -> Result<(), ApiError> {
    let owner = MemberRole::Common(Role::Owner);
    let is_last = member.role == owner
        && (becomes != owner || leaves)
        && tx.owners_besides(member.id).await? == 0;
    if is_last {
        let detail = "this is the last owner; make somebody else an owner first";
        return Err(ApiError::new(Code::Conflict, detail));
    }
    Ok(())
}
