//! `Idempotency-Key`: a POST that is repeated takes effect once.
//!
//! A handler takes its body as [`Posted`] (or, without a body, a [`Once`]) and ends with one of
//! [`commit_once`], [`commit_tenant`] and [`run_once`]; they answer repetitions by themselves. Only
//! what took effect is kept: a refusal changed nothing, and its repetition is served anew.

use std::time::Duration;

use actix_web::{
    Error, FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use futures_util::future::{LocalBoxFuture, Ready, ready};
use qudao_domain::{TenantId, text::IdempotencyKey};
use qudao_storage::{Found, KeptReply, Tx};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    act::Act,
    admin::{Work, of_existing},
    code::Code,
    error::ApiError,
    extract::{from_object, parse_object, read_json},
    state::AppState,
};

/// The header that carries the key.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// When to ask again for what is under way. Most requests take less.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// What makes a request one that may be repeated.
#[derive(Debug, Clone)]
pub(crate) struct Once {
    key: Option<IdempotencyKey>,
    endpoint: String,
    fingerprint: [u8; 32],
    act: Act,
}

impl Once {
    /// What a request with this body says of itself.
    ///
    /// # Errors
    /// `idempotency_key_invalid`.
    pub(crate) fn read(request: &HttpRequest, body: &Value) -> Result<Self, ApiError> {
        // Written anew, so that spaces and the order of fields make no other body.
        Self::with_fingerprint(request, &serde_json::to_vec(body).unwrap_or_default())
    }

    fn with_fingerprint(request: &HttpRequest, body: &[u8]) -> Result<Self, ApiError> {
        let endpoint = format!("{} {}", request.method(), request.path());
        let fingerprint = Sha256::digest(body).into();
        Ok(Self { key: read_key(request)?, endpoint, fingerprint, act: Act::of(request) })
    }

    /// The key, where an endpoint does nothing without one.
    ///
    /// # Errors
    /// `idempotency_key_required`.
    pub(crate) fn required(&self) -> Result<&IdempotencyKey, ApiError> {
        self.key.as_ref().ok_or_else(|| {
            let detail = "send an Idempotency-Key of 1 to 255 printable ASCII characters";
            ApiError::new(Code::IdempotencyKeyRequired, detail)
        })
    }

    /// As it is stored, if it may be repeated.
    pub(crate) fn within(self, scope: TenantId) -> Option<qudao_storage::Once> {
        let Self { key, endpoint, fingerprint, act: _ } = self;
        key.map(|key| qudao_storage::Once { scope, endpoint, key, fingerprint })
    }
}

fn read_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, ApiError> {
    let refused = |detail: String| Err(ApiError::new(Code::IdempotencyKeyInvalid, detail));
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return refused("send one Idempotency-Key and not several".to_owned());
    }
    match IdempotencyKey::parse(value.to_str().unwrap_or_default()) {
        Ok(key) => Ok(Some(key)),
        Err(error) => refused(format!("the Idempotency-Key {error}")),
    }
}

/// Of a request without a body.
impl FromRequest for Once {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::with_fingerprint(request, b"").map_err(Into::into))
    }
}

/// A JSON body and what makes its request one that may be repeated.
pub(crate) struct Posted<T> {
    pub(crate) body: T,
    pub(crate) once: Once,
}

impl<T: DeserializeOwned + 'static> FromRequest for Posted<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let limit = AppState::of(&request).settings.limits.body_bytes;
            let bytes = read_json(&request, payload, limit).await?;
            let value = parse_object(&bytes)?;
            let once = Once::read(&request, &value)?;
            Ok(Self { body: from_object(value)?, once })
        })
    }
}

/// An answer that can be kept.
#[derive(Debug)]
pub(crate) struct Reply {
    now: KeptReply,
    /// What is kept instead, where the answer holds a secret that is shown once.
    kept: Option<KeptReply>,
    replayed: bool,
}

impl Reply {
    /// 201, with the address of what was made.
    pub(crate) fn created<T: Serialize>(location: String, body: &T) -> Self {
        Self::new(StatusCode::CREATED, Some(location), json(body))
    }

    /// 200.
    pub(crate) fn ok<T: Serialize>(body: &T) -> Self {
        Self::new(StatusCode::OK, None, json(body))
    }

    /// 204.
    pub(crate) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, None, Vec::new())
    }

    fn new(status: StatusCode, location: Option<String>, body: Vec<u8>) -> Self {
        let now = KeptReply { status: status.as_u16(), location, body };
        Self { now, kept: None, replayed: false }
    }

    /// A repetition gets this body: the answer holds a secret, which is kept nowhere.
    #[must_use]
    pub(crate) fn repeated_as<T: Serialize>(mut self, body: &T) -> Self {
        self.kept = Some(KeptReply { body: json(body), ..self.now.clone() });
        self
    }

    /// It was given before.
    #[must_use]
    pub(crate) fn replayed(mut self) -> Self {
        self.replayed = true;
        self
    }

    fn again(kept: KeptReply) -> Self {
        Self { now: kept, kept: None, replayed: true }
    }

    fn to_keep(&self) -> &KeptReply {
        self.kept.as_ref().unwrap_or(&self.now)
    }

    fn into_response(self) -> HttpResponse {
        let status = StatusCode::from_u16(self.now.status).unwrap_or(StatusCode::OK);
        let mut response = HttpResponse::build(status);
        if let Some(location) = self.now.location {
            response.insert_header((header::LOCATION, location));
        }
        if self.kept.is_some() {
            // The one answer that holds a secret must not stay in any cache.
            response.insert_header((header::CACHE_CONTROL, "no-store"));
        }
        if self.replayed {
            mark_replayed(&mut response);
        }
        if self.now.body.is_empty() {
            return response.finish();
        }
        response.content_type("application/json").body(self.now.body)
    }
}

fn json<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

/// Says that an answer was given before.
pub(crate) fn mark_replayed(response: &mut actix_web::HttpResponseBuilder) {
    response.insert_header((REPLAYED, HeaderValue::from_static("true")));
}

/// The key was used with another body.
pub(crate) fn reused() -> ApiError {
    let detail = "the idempotency key was used with another body";
    ApiError::new(Code::IdempotencyKeyReused, detail)
}

/// The request is being served at this moment.
pub(crate) fn under_way() -> ApiError {
    let detail = "a request with this idempotency key is under way";
    ApiError::new(Code::IdempotencyKeyInFlight, detail).retry_after(UNDER_WAY)
}

/// Runs `work` in one transaction of an existing tenant and commits, once per key.
///
/// # Errors
/// `not_found` if there is no such tenant, what a repetition is refused with, else what `work`
/// says; nothing was changed then.
pub(crate) async fn commit_once<F>(
    state: &web::Data<AppState>,
    tenant_id: TenantId,
    once: Once,
    work: F,
) -> Result<HttpResponse, ApiError>
where
    F: for<'a> FnOnce(&'a mut Tx) -> Work<'a, Reply> + Send + 'static,
{
    let core = state.core.clone();
    let reply = state.on_runtime(async move {
        let tx = of_existing(core.store.begin(tenant_id).await?).await?;
        commit(tx, once, tenant_id, work).await
    });
    Ok(reply.await?.into_response())
}

/// As [`commit_once`], in the transaction of a tenant that is being made: the record is the
/// operator's.
///
/// # Errors
/// As [`commit_once`].
pub(crate) async fn commit_tenant<F>(
    state: &web::Data<AppState>,
    once: Once,
    work: F,
) -> Result<HttpResponse, ApiError>
where
    F: for<'a> FnOnce(&'a mut Tx) -> Work<'a, Reply> + Send + 'static,
{
    let core = state.core.clone();
    let reply = state.on_runtime(async move {
        let tx = core.store.begin(TenantId::new()).await?;
        commit(tx, once, qudao_storage::Once::OPERATOR, work).await
    });
    Ok(reply.await?.into_response())
}

async fn commit<F>(mut tx: Tx, once: Once, scope: TenantId, work: F) -> Result<Reply, ApiError>
where
    F: for<'a> FnOnce(&'a mut Tx) -> Work<'a, Reply> + Send + 'static,
{
    let act = once.act.clone();
    let once = once.within(scope);
    if let Some(once) = &once {
        match tx.find_once(once).await? {
            Found::Fresh(()) => {}
            Found::Kept(kept) => return Ok(Reply::again(kept)),
            Found::OtherBody => return Err(reused()),
            Found::UnderWay => return Err(under_way()),
        }
    }
    let reply = match work(&mut tx).await {
        Ok(reply) => reply,
        Err(refusal) => {
            // The key is free again before the caller hears of it. A lost connection frees it too.
            let _ = tx.rollback().await;
            return Err(refusal);
        }
    };
    if !reply.replayed {
        act.record(&mut tx, reply.now.location.as_deref()).await?;
    }
    if let Some(once) = &once {
        tx.keep_once(once, reply.to_keep()).await?;
    }
    tx.commit().await?;
    Ok(reply)
}

/// Runs `work` that is more than one transaction, once per key. If this node dies between the work
/// and its record, a repetition does the work again. The act is written down before it, in the chain
/// of this tenant ([`qudao_storage::Once::OPERATOR`] for the platform's).
///
/// # Errors
/// What a repetition is refused with, else what `work` says.
pub(crate) async fn run_once<F>(
    state: &web::Data<AppState>,
    chain: TenantId,
    once: Once,
    work: F,
) -> Result<HttpResponse, ApiError>
where
    F: Future<Output = Result<Reply, ApiError>> + Send + 'static,
{
    let core = state.core.clone();
    let act = once.act.clone();
    let reply = state.on_runtime(async move {
        // Before the work: what stands in no database must not happen unrecorded.
        let record = async || {
            let mut tx = core.store.begin(chain).await?;
            act.record(&mut tx, None).await?;
            tx.commit().await
        };
        let Some(once) = once.within(qudao_storage::Once::OPERATOR) else {
            record().await?;
            return work.await;
        };
        let claim = match core.claim(once).await? {
            Found::Fresh(claim) => claim,
            Found::Kept(kept) => return Ok(Reply::again(kept)),
            Found::OtherBody => return Err(reused()),
            Found::UnderWay => return Err(under_way()),
        };
        record().await?;
        match work.await {
            Ok(reply) => {
                claim.keep(reply.to_keep().clone()).await?;
                Ok(reply)
            }
            Err(refusal) => {
                claim.let_go().await;
                Err(refusal)
            }
        }
    });
    Ok(reply.await?.into_response())
}
