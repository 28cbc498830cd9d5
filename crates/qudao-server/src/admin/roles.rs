//! Roles: those that every tenant has, and those that a tenant made up.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{
    RoleId,
    access::{Role, Scope, Scopes},
    text::Name,
};
use qudao_storage::{CustomRole, MemberRole, StorageError, Tx};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use super::in_tenant;
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    code::Code,
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

/// What a key or a role may do, as the description lists it. What comes is read by
/// [`Scopes::parse`].
pub(crate) struct ScopeWord;

impl PartialSchema for ScopeWord {
    fn schema() -> RefOr<Schema> {
        let words = Scope::ALL.iter().map(|scope| scope.as_str()).chain(["admin"]);
        let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
        RefOr::T(Schema::Object(kind.build()))
    }
}

impl ToSchema for ScopeWord {
    fn name() -> std::borrow::Cow<'static, str> {
        "Scope".into()
    }
}

/// A role to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRole {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// What it may do. Nobody hands on what they do not have.
    #[schema(value_type = Vec<ScopeWord>, min_items = 1)]
    scopes: Vec<String>,
}

/// What changes about a role. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateRole {
    /// What it is called.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: Option<String>,
    /// What it may do, for all who have it.
    #[schema(value_type = Option<Vec<ScopeWord>>, min_items = 1)]
    scopes: Option<Vec<String>>,
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Role", as = MemberRole)]
pub(crate) struct RoleBody {
    /// What members and invitations name as their `role`.
    #[schema(example = "rol_0198c0de00007000800000000000a001")]
    id: String,
    name: String,
    scopes: Vec<&'static str>,
    /// Whether the tenant made it up and may change it.
    custom: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
}

/// All roles of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RoleList {
    data: Vec<RoleBody>,
}

impl From<CustomRole> for RoleBody {
    fn from(role: CustomRole) -> Self {
        let CustomRole { id, name, scopes, created_at } = role;
        let (id, created_at) = (id.to_string(), Some(created_at));
        Self { id, name, scopes: scopes.words(), custom: true, created_at }
    }
}

impl From<Role> for RoleBody {
    fn from(role: Role) -> Self {
        let (id, name) = (role.to_string(), role.to_string());
        Self { id, name, scopes: role.scopes().words(), custom: false, created_at: None }
    }
}

/// What a member or an invitation calls its role: a name that every tenant has, or an id.
pub(crate) fn role_words(role: MemberRole) -> String {
    match role {
        MemberRole::Common(role) => role.to_string(),
        MemberRole::Custom(id) => id.to_string(),
    }
}

/// Reads a role as [`role_words`] writes it.
pub(crate) fn parse_role(text: &str) -> Result<MemberRole, &'static str> {
    let custom = || text.parse().ok().map(MemberRole::Custom);
    Role::find(text).map(MemberRole::Common).or_else(custom).ok_or(
        "has to be owner, admin, billing, editor, agent, viewer, or the id of one of your own roles",
    )
}

/// What somebody with this role may do.
///
/// # Errors
/// `validation_failed` at `/role` if the tenant has no such role.
pub(crate) async fn scopes_of(tx: &mut Tx, role: MemberRole) -> Result<Scopes, ApiError> {
    match role {
        MemberRole::Common(role) => Ok(role.scopes()),
        MemberRole::Custom(id) => match tx.role(id).await? {
            Some(role) => Ok(role.scopes),
            None => Err(ApiError::field("/role", "there is no such role")),
        },
    }
}

/// Reads the words at `/scopes`.
pub(crate) fn parse_scopes(check: &mut FieldCheck, words: &[String]) -> Option<Scopes> {
    match Scopes::parse(words) {
        Ok(scopes) if scopes.is_empty() => {
            check.refuse("/scopes", "must not be empty");
            None
        }
        Ok(scopes) => Some(scopes),
        Err((at, error)) => {
            check.refuse(&format!("/scopes/{at}"), error);
            None
        }
    }
}

fn name_taken(error: StorageError) -> ApiError {
    match error {
        StorageError::Conflict { .. } => ApiError::field("/name", "another role has this name"),
        error => error.into(),
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateRole>,
) -> Result<HttpResponse, ApiError> {
    let mut check = FieldCheck::default();
    let name = check.take("/name", Name::parse(&body.name));
    let scopes = parse_scopes(&mut check, &body.scopes);
    let (name, scopes) = check.finish(name.zip(scopes))?;
    actor.may_grant(scopes)?;
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let role = tx.create_role(&name, scopes).await.map_err(name_taken)?;
            let location = format!("/v1/tenants/{tenant_id}/roles/{}", role.id);
            Ok(Reply::created(location, &RoleBody::from(role)))
        })
    });
    made.await
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let custom =
        in_tenant(&state, tenant_id, move |tx| Box::pin(async move { Ok(tx.list_roles().await?) }));
    let common = Role::ALL.iter().copied().map(RoleBody::from);
    let data = common.chain(custom.await?.into_iter().map(RoleBody::from)).collect();
    Ok(HttpResponse::Ok().json(RoleList { data }))
}

pub(crate) async fn update(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    act: Act,
    Id(id): Id<RoleId>,
    _: Query<NoQuery>,
    Body(UpdateRole { name, scopes }): Body<UpdateRole>,
) -> Result<HttpResponse, ApiError> {
    let mut check = FieldCheck::default();
    let name = check.take_optional("/name", name.as_deref().map(Name::parse));
    let scopes = match scopes {
        Some(words) => parse_scopes(&mut check, &words),
        None => None,
    };
    check.finish(Some(()))?;
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let role = tx.role(id).await?.ok_or_else(|| ApiError::not_found("role"))?;
            // Both what it was and what it becomes: nobody strips those who stand above them.
            actor.may_grant(role.scopes.with(scopes.unwrap_or(role.scopes)))?;
            let name = name.map_or(role.name, Name::into_string);
            let scopes = scopes.unwrap_or(role.scopes);
            tx.update_role(id, &name, scopes).await.map_err(name_taken)?;
            Ok(CustomRole { name, scopes, ..role })
        })
    });
    Ok(HttpResponse::Ok().json(RoleBody::from(changed.await?)))
}

pub(crate) async fn delete(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<RoleId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let deleted = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            match tx.delete_role(id).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(ApiError::not_found("role")),
                Err(StorageError::MissingParent { .. }) => {
                    let detail = "members or invitations have this role; give them another first";
                    Err(ApiError::new(Code::Conflict, detail))
                }
                Err(error) => Err(error.into()),
            }
        })
    });
    deleted.await?;
    Ok(HttpResponse::NoContent().finish())
}
