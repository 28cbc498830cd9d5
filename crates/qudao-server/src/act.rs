//! Administrative acts, for the audit log. An endpoint that changes something names its act where it
//! is described ([`crate::openapi::Doc::act`]); the act is written in the transaction of its effect.

use actix_web::{Error, FromRequest, HttpMessage as _, HttpRequest, dev::Payload, web};
use futures_util::future::{Ready, ready};
use qudao_domain::TenantId;
use qudao_storage::{AuditEvent, StorageError, Tx};
use serde_json::json;

use crate::{
    access::{Actor, Caller},
    address::peer_address,
    admin::{Work, of_existing},
    error::ApiError,
    scope::RequestContext,
    state::AppState,
};

/// The name of an endpoint's act, as the middleware leaves it in the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action(pub(crate) &'static str);

/// Who did what, from where.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    action: Option<&'static str>,
    actor: String,
    /// What it was done to, unless something is made.
    target: String,
    request_id: String,
    address: String,
}

impl Act {
    /// The act that a request is.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let extensions = request.extensions();
        let actor = extensions.get::<Caller>().and_then(Actor::of);
        let action = extensions.get::<Action>().map(|Action(name)| *name);
        drop(extensions);
        Self {
            action,
            actor: actor.map_or_else(String::new, |actor| actor.name.to_string()),
            target: target_of(request.path()).to_owned(),
            request_id: RequestContext::of(request).id().to_owned(),
            address: peer_address(request).to_string(),
        }
    }

    /// Writes it down. `made` is the address of what was made.
    ///
    /// # Errors
    /// [`StorageError`]; the act must not take effect then.
    pub(crate) async fn record(&self, tx: &mut Tx, made: Option<&str>) -> Result<(), StorageError> {
        let Some(action) = self.action else { return Ok(()) };
        let target = made.map_or(self.target.as_str(), target_of);
        tx.record_audit(&AuditEvent {
            actor: self.actor.clone(),
            action: action.to_owned(),
            target: target.to_owned(),
            detail: json!({}),
            request_id: Some(self.request_id.clone()),
            address: Some(self.address.clone()),
        })
        .await
        .map(drop)
    }
}

impl FromRequest for Act {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

/// What a path is about: the last id in it, or the path itself where it has none.
fn target_of(path: &str) -> &str {
    let is_id = |part: &&str| {
        let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        part.split_once('_').is_some_and(|(_, rest)| hex(rest))
    };
    path.rsplit('/').find(is_id).unwrap_or_else(|| path.trim_start_matches("/v1/"))
}

/// Runs `work`, which changes something, in one transaction of an existing tenant, writes the act
/// down and commits.
///
/// # Errors
/// `not_found` if there is no such tenant, else what `work` says; nothing was changed then.
pub(crate) async fn change<T, F>(
    state: &web::Data<AppState>,
    act: Act,
    tenant_id: TenantId,
    work: F,
) -> Result<T, ApiError>
where
    F: for<'a> FnOnce(&'a mut Tx) -> Work<'a, T> + Send + 'static,
    T: Send + 'static,
{
    let core = state.core.clone();
    state
        .on_runtime(async move {
            let mut tx = of_existing(core.store.begin(tenant_id).await?).await?;
            let done = work(&mut tx).await?;
            act.record(&mut tx, None).await?;
            tx.commit().await?;
            Ok::<_, ApiError>(done)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_last_id_of_a_path() {
        let id = "0198c0de00007000800000000000a001";
        let tenant = format!("/v1/tenants/ten_{id}");
        assert_eq!(target_of(&tenant), format!("ten_{id}"));
        assert_eq!(target_of(&format!("{tenant}/contacts/cnt_{id}/erase")), format!("cnt_{id}"));
        assert_eq!(target_of(&format!("{tenant}/wallet")), format!("ten_{id}"));
        assert_eq!(target_of("/v1/plugins/echo/reload"), "plugins/echo/reload");
    }
}
