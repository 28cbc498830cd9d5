//! Files of a visitor's conversation: those that they send, and those of the answers. What a file is its
//! first bytes say, and not its name or its sender.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, dev::Payload, http::header, web};
use qudao_channels::web::WidgetSettings;
use qudao_domain::{
    ConversationId, MediaId,
    message::{Media, Part},
    text::{ExternalId, MessageText},
};
use qudao_storage::{NewUpload, StorageError, UploadedBytes};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    door::{self, Visit},
    frame::MessageKey,
    requests::{Receipt, visit},
    session::check_message,
};
use crate::{
    access::VisitorCaller,
    code::Code,
    error::ApiError,
    extract::{NoQuery, Query, Text, path_id, read_bytes},
    scope::RequestContext,
    state::AppState,
    widget::entrance::{entrance, settings_of},
};

/// Bytes of one file.
pub(crate) const MAX_BYTES: usize = 10 * 1024 * 1024;
/// Bytes of all files of a conversation.
const CONVERSATION_BYTES: u64 = 50 * 1024 * 1024;
/// Bytes of all files of a channel within a day: strangers send them, and the tenant pays for the
/// room.
const CHANNEL_BYTES: u64 = 1024 * 1024 * 1024;
const MAX_NAME: usize = 120;

/// A file's message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileQuery {
    id: String,
    #[serde(default)]
    name: String,
}

/// A file from the chat page.
pub(crate) async fn upload(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    Query(query): Query<FileQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let visit = visit(&state, &request, &caller).await?;
    takes_files(&settings_of(&state, &visit.door).await?)?;
    store(&state, &request, visit, query, payload).await
}

/// A file from the widget.
pub(crate) async fn upload_to_widget(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    Query(query): Query<FileQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    takes_files(&entrance(&request)?.settings)?;
    let visit = visit(&state, &request, &caller).await?;
    store(&state, &request, visit, query, payload).await
}

fn takes_files(settings: &WidgetSettings) -> Result<(), ApiError> {
    if !settings.uploads {
        return Err(ApiError::new(Code::Conflict, "this channel takes no files"));
    }
    Ok(())
}

/// A file of the visitor's conversation, whoever sent it. Nobody else's is found.
pub(crate) async fn fetch(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let id: MediaId = path_id(&request)?;
    let visit = visit(&state, &request, &caller).await?;
    let core = state.core.clone();
    let reading = async move {
        let mut tx = core.store.begin_reading(visit.door.tenant_id).await?;
        let channel = visit.door.channel_id;
        let file = match tx.find_conversation_of(channel, &visit.peer).await? {
            Some(conversation) => tx.conversation_media(channel, conversation.id, id).await?,
            None => None,
        };
        tx.commit().await?;
        Ok::<_, StorageError>(file)
    };
    let file = state.on_runtime(reading).await?.ok_or_else(|| ApiError::not_found("file"))?;
    // Whatever it is, no browser shall run it here.
    Ok(HttpResponse::Ok()
        .content_type(file.mime)
        .insert_header((header::CONTENT_DISPOSITION, "attachment"))
        .insert_header((header::CACHE_CONTROL, "private, max-age=3600"))
        .body(file.bytes))
}

/// Stores a file as a message of its own: its words for the model, and the bytes beside it. The
/// message comes first, so that no file is kept that no conversation leads to; whoever sends the
/// same id again puts right what broke off in between.
async fn store(
    state: &AppState,
    request: &HttpRequest,
    visit: Visit,
    FileQuery { id, name }: FileQuery,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let name = clean(&name);
    let (external_id, _) = check_message(&id, "file")
        .map_err(|wrong| ApiError::new(Code::InvalidQuery, format!("id {}", wrong.detail)))?;
    let payload: Payload = payload.into_inner();
    let bytes = read_bytes(request, payload, MAX_BYTES).await?;
    let Some((mime, part)) = kind_of(&bytes) else {
        let detail = "files are pictures (JPEG, PNG, GIF, WebP), PDF, sound (MP3, Ogg, WAV, M4A, \
                      WebM) or plain text, by what is in them";
        return Err(ApiError::new(Code::UnsupportedMediaType, detail));
    };
    has_room(state, &visit, bytes.len() as u64).await?;
    let sha256: [u8; 32] = Sha256::digest(&*bytes).into();
    let file_id = file_id(&visit, &external_id);
    let media = Media {
        upload_id: Some(file_id.to_string()),
        mime: Some(mime.to_owned()),
        size: Some(bytes.len() as u64),
        sha256: Some(hex::encode(sha256)),
        name: Some(name.clone()),
        ..Media::default()
    };
    let part = part(media);
    let said = MessageText::parse(&part.to_text())
        .map_err(|error| ApiError::new(Code::InvalidQuery, error.to_string()))?;
    let origin = RequestContext::of(request).trace;
    let (accepted, _) = door::accept(state, &visit, &external_id, said, vec![part], origin).await?;
    let kept = Kept { visit, file_id, mime, name, sha256, bytes };
    keep(state, kept, accepted.conversation_id).await?;
    Ok(HttpResponse::Accepted().json(Receipt {
        id,
        seq: accepted.seq,
        key: MessageKey::Inbound(accepted.seq),
        duplicate: accepted.duplicate,
    }))
}

struct Kept {
    visit: Visit,
    file_id: MediaId,
    mime: &'static str,
    name: String,
    sha256: [u8; 32],
    bytes: Text,
}

async fn keep(
    state: &AppState,
    kept: Kept,
    conversation_id: ConversationId,
) -> Result<(), ApiError> {
    let core = state.core.clone();
    state
        .on_runtime(async move {
            let mut tx = core.store.begin(kept.visit.door.tenant_id).await?;
            tx.add_upload(NewUpload {
                id: kept.file_id,
                channel_id: kept.visit.door.channel_id,
                conversation_id,
                mime: kept.mime,
                name: &kept.name,
                sha256: &kept.sha256,
                bytes: &kept.bytes,
            })
            .await?;
            tx.commit().await
        })
        .await
}

/// Refuses what would be too much of a conversation or a channel.
async fn has_room(state: &AppState, visit: &Visit, more: u64) -> Result<(), ApiError> {
    let (core, visit) = (state.core.clone(), visit.clone());
    let UploadedBytes { conversation, channel } = state
        .on_runtime(async move {
            let mut tx = core.store.begin(visit.door.tenant_id).await?;
            let channel = visit.door.channel_id;
            let found = tx.find_conversation_of(channel, &visit.peer).await?;
            let kept = tx.uploaded_bytes(channel, found.map(|found| found.id)).await?;
            tx.commit().await?;
            Ok::<_, StorageError>(kept)
        })
        .await?;
    if CONVERSATION_BYTES < conversation + more {
        let detail = format!("a conversation may hold {CONVERSATION_BYTES} bytes of files");
        return Err(ApiError::new(Code::BodyTooLarge, detail));
    }
    if CHANNEL_BYTES < channel + more {
        let detail = "this channel takes no more files today";
        return Err(ApiError::new(Code::RateLimited, detail).retry_after(ROOM_AGAIN));
    }
    Ok(())
}

/// After this somebody may ask again whether there is room.
const ROOM_AGAIN: Duration = Duration::from_secs(60 * 60);

/// The same for the same message, so that a repetition keeps the file once.
fn file_id(visit: &Visit, id: &ExternalId) -> MediaId {
    let channel = visit.door.channel_id.as_uuid();
    let hash = Sha256::new()
        .chain_update(channel.as_bytes())
        .chain_update(visit.peer.as_bytes())
        .chain_update(id.as_str().as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    MediaId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// A file's name without folders, line breaks and what turns the direction of words.
fn clean(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let odd = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let name: String = last.chars().filter(odd).take(MAX_NAME).collect();
    let name = name.trim();
    if name.is_empty() { "file".to_owned() } else { name.to_owned() }
}

/// A media type, and the part that shows it.
type Kind = (&'static str, fn(Media) -> Part);

/// What a file is, and as which part it is shown. `None` for everything that is not on the list.
fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let at =
        |from: usize, magic: &[u8]| bytes.get(from..).is_some_and(|rest| rest.starts_with(magic));
    let found: Kind = match bytes {
        [0xff, 0xd8, 0xff, ..] => ("image/jpeg", Part::Image),
        _ if at(0, b"\x89PNG\r\n\x1a\n") => ("image/png", Part::Image),
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => ("image/gif", Part::Image),
        _ if at(0, b"RIFF") && at(8, b"WEBP") => ("image/webp", Part::Image),
        _ if at(0, b"RIFF") && at(8, b"WAVE") => ("audio/wav", Part::Audio),
        _ if at(0, b"%PDF-") => ("application/pdf", Part::File),
        _ if at(0, b"OggS") => ("audio/ogg", Part::Audio),
        _ if at(0, b"ID3") => ("audio/mpeg", Part::Audio),
        // The head of an MPEG frame of layer 3, with a bit rate and a sample rate that exist.
        [0xff, 0xe2..=0xe3 | 0xf2..=0xf3 | 0xfa..=0xfb, rates, ..]
            if (0x10..0xf0).contains(rates) && rates & 0x0c != 0x0c =>
        {
            ("audio/mpeg", Part::Audio)
        }
        _ if at(4, b"ftypM4A ") => ("audio/mp4", Part::Audio),
        _ if at(0, b"\x1a\x45\xdf\xa3") && is_webm(bytes) => ("audio/webm", Part::Audio),
        _ if is_text(bytes) => ("text/plain", Part::File),
        _ => return None,
    };
    Some(found)
}

/// Of the containers that begin alike the one that browsers record.
fn is_webm(bytes: &[u8]) -> bool {
    bytes.iter().take(64).copied().collect::<Vec<_>>().windows(4).any(|part| part == b"webm")
}

fn is_text(bytes: &[u8]) -> bool {
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    std::str::from_utf8(bytes).is_ok_and(|text| !text.trim().is_empty() && text.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_bytes_say() {
        let kind = |bytes: &[u8]| kind_of(bytes).map(|(mime, _)| mime);
        for (bytes, mime) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n\0\0", Some("image/png")),
            (b"GIF89a\x01\0", Some("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\x24\0\0\0WAVEfmt ", Some("audio/wav")),
            (b"RIFF\x24\0\0\0AVI LIST", None),
            (b"%PDF-1.7\n", Some("application/pdf")),
            (b"OggS\0\x02", Some("audio/ogg")),
            (b"ID3\x04\0", Some("audio/mpeg")),
            (b"\xff\xfb\x90\x64", Some("audio/mpeg")),
            (b"\0\0\0\x20ftypM4A \0\0", Some("audio/mp4")),
            (b"\0\0\0\x20ftypisom\0\0", None),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", Some("audio/webm")),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska", None),
            ("你好, text\r\n".as_bytes(), Some("text/plain")),
            (b"<svg onload=alert(1)>", Some("text/plain")),
            (b"MZ\x90\0\x03", None),
            (b"\x7fELF\x02", None),
            (b"PK\x03\x04\x14\0", None),
            (b"text with a \0", None),
            (b"\xff\xfe\xfd", None),
            (b"  \n", None),
            (b"", None),
        ] {
            assert_eq!(kind(bytes), mime, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_name_is_one_line_without_folders() {
        for (sent, kept) in [
            ("a.png", "a.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\me\\照片.jpg", "照片.jpg"),
            ("a\r\nb\0.txt", "ab.txt"),
            ("gpj.\u{202e}exe", "gpj.exe"),
            ("", "file"),
            ("/", "file"),
        ] {
            assert_eq!(clean(sent), kept, "{sent}");
        }
        assert_eq!(clean(&"x".repeat(500)).len(), MAX_NAME);
    }
}
