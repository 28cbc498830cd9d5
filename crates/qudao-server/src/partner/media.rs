//! Files: a partner brings them before it names them in a message, and fetches those of answers by
//! addresses that are good for an hour.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use qudao_channels::partner::{MEDIA_GOOD_FOR, MediaLink};
use qudao_domain::{ChannelId, MediaId, TenantId};
use qudao_pcp::MEDIA_MAX;
use qudao_storage::{MediaFile, NewMedia};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::PartnerCaller;
use crate::{
    code::Code,
    error::ApiError,
    extract::{FORM_OVERHEAD, Form, FormField, NoQuery, Query, path_id, read_form},
    oidc::base_url,
    state::AppState,
};

/// A file that can be named in messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Uploaded {
    #[schema(example = "upl_…")]
    upload_id: String,
    /// Hexadecimal digits.
    sha256: String,
    /// Bytes.
    size: usize,
    mime: String,
    /// Name it in a message before then.
    expires_at: String,
}

/// A fresh address of a file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FreshUrl {
    url: String,
    url_expires_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkQuery {
    tenant: String,
    until: String,
    sig: String,
}

pub(crate) async fn upload(
    state: web::Data<AppState>,
    request: HttpRequest,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let how = "send multipart/form-data with one file in the field `file`";
    let form = read_form(&request, payload.into_inner(), MEDIA_MAX + FORM_OVERHEAD, how).await?;
    let file = first_file(&form)?;
    let (size, sha256, mime) = (file.bytes.len(), hex::encode(&file.sha256), file.mime.clone());
    let id = MediaId::new();
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let keeping = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        tx.keep_media(NewMedia {
            id,
            channel_id,
            conversation_id: None,
            mime: &file.mime,
            name: file.name.as_deref(),
            sha256: &file.sha256,
            bytes: &file.bytes,
        })
        .await?;
        tx.commit().await
    };
    state.on_runtime(keeping).await?;
    let until = state.core.clock.now().saturating_add(24 * MEDIA_GOOD_FOR);
    Ok(HttpResponse::Created().json(Uploaded {
        upload_id: id.to_string(),
        sha256,
        size,
        mime,
        expires_at: until.map(|until| until.to_string()).unwrap_or_default(),
    }))
}

fn too_large() -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("a file may have {MEDIA_MAX} bytes at most"))
}

fn first_file(form: &Form) -> Result<MediaFile, ApiError> {
    let mut files = form.fields.iter().filter(|field| field.file_name.is_some());
    let Some(FormField { file_name, media_type, bytes, .. }) = files.next() else {
        return Err(ApiError::new(Code::BadRequest, "the form holds no file"));
    };
    if MEDIA_MAX < bytes.len() {
        return Err(too_large());
    }
    let name = file_name.as_deref().unwrap_or_default().replace(['\0', '/', '\\'], "_");
    Ok(MediaFile {
        mime: media_type.clone().filter(|mime| mime.len() <= 127).unwrap_or_else(octets),
        name: Some(name).filter(|name| !name.is_empty()),
        sha256: Sha256::digest(bytes).to_vec(),
        bytes: bytes.to_vec(),
    })
}

fn octets() -> String {
    "application/octet-stream".to_owned()
}

/// The file's bytes, to whoever holds a good address.
pub(crate) async fn fetch(
    state: web::Data<AppState>,
    request: HttpRequest,
    Query(query): Query<LinkQuery>,
) -> Result<HttpResponse, ApiError> {
    let gone = || ApiError::new(Code::Forbidden, "this address is not good, or not any more");
    let channel_id: ChannelId = path_id(&request)?;
    let tenant_id: TenantId = query.tenant.parse().map_err(|_| gone())?;
    let name = request.match_info().get("upload_id").unwrap_or_default().to_owned();
    let media_id = MediaLink::parse(&name).ok_or_else(gone)?;
    let core = state.core.clone();
    let now = core.clock.now();
    let reading = async move {
        let setup = core.channel_setup(tenant_id, channel_id).await;
        let setup = setup.map_err(|error| super::unreadable(&error))?.ok_or_else(gone)?;
        let links = MediaLink::of(&setup.config, Some("")).ok_or_else(gone)?;
        let until = query.until.parse().unwrap_or_default();
        if !links.is_good(&name, until, &query.sig, now) {
            return Err(gone());
        }
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let file = tx.channel_media(channel_id, MediaId::from_uuid(media_id)).await?;
        tx.commit().await?;
        file.ok_or_else(|| ApiError::not_found("file"))
    };
    let file = state.on_runtime(reading).await?;
    // Whatever it is, no browser shall run it here.
    Ok(HttpResponse::Ok()
        .content_type(file.mime)
        .insert_header((header::CONTENT_DISPOSITION, "attachment"))
        .insert_header((header::CACHE_CONTROL, "private, max-age=3600"))
        .body(file.bytes))
}

/// A fresh address for a file whose address is not good any more.
pub(crate) async fn renew(
    state: web::Data<AppState>,
    request: HttpRequest,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let name = request.match_info().get("upload_id").unwrap_or_default();
    let unknown = || ApiError::not_found("file");
    let media_id = MediaLink::parse(name).ok_or_else(unknown)?;
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let reading = async move {
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let file = tx.channel_media(channel_id, MediaId::from_uuid(media_id)).await?;
        tx.commit().await?;
        Ok::<_, ApiError>(file)
    };
    state.on_runtime(reading).await?.ok_or_else(unknown)?;
    let base = base_url(&state, &request);
    let links = MediaLink::of(&door.setup.config, base.as_deref()).ok_or_else(unknown)?;
    let until = state.core.clock.now().saturating_add(MEDIA_GOOD_FOR).map_err(|_| unknown())?;
    Ok(HttpResponse::Ok()
        .json(FreshUrl { url: links.url(name, until), url_expires_at: until.to_string() }))
}
