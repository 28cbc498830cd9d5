//! Bodies of requests that are made of the platform's own copies of files. An adapter names a file;
//! its bytes are read here, at the last moment and for a few requests at a time.

use http::HeaderValue;
use qudao_core::channel::{
    config::ChannelConfig,
    plan::{FormContent, FormPart, HttpPlan, OwnFile, Upload},
};
use qudao_domain::{MediaId, message::Message};
use qudao_storage::StorageError;
use rand::RngExt as _;
use tokio::sync::SemaphorePermit;

use super::{Host, requests::NoAnswer};

/// Requests with files that a node makes at a time: each holds its files in memory, at most 25 MiB
/// each.
pub(super) const AT_A_TIME: usize = 4;

/// A body, and what it is.
pub(super) struct Body<'a> {
    pub(super) bytes: Option<Vec<u8>>,
    /// In the place of what the plan's header says.
    pub(super) content_type: Option<HeaderValue>,
    /// Held until the request is made.
    pub(super) _permit: Option<SemaphorePermit<'a>>,
}

impl Host {
    /// Puts in what is known of the platform's own copies of a message's files, and takes out those
    /// that are not there: an adapter may rely on the rest.
    pub(super) async fn know_files(
        &self,
        config: &ChannelConfig,
        message: &mut Message,
    ) -> Result<(), StorageError> {
        let named = message.parts.iter().filter_map(|part| part.media()?.upload_id.as_deref());
        let ids: Vec<MediaId> = named.filter_map(|id| id.parse().ok()).collect();
        let mut known = Vec::new();
        if !ids.is_empty() {
            let mut tx = self.core.store.begin(config.tenant_id).await?;
            known = tx.channel_media_facts(config.channel_id, &ids).await?;
            tx.commit().await?;
        }
        for media in message.parts.iter_mut().filter_map(|part| part.media_mut()) {
            let Some(id) = &media.upload_id else { continue };
            let facts = known.iter().find(|facts| facts.id.to_string() == *id);
            let Some(facts) = facts else {
                media.upload_id = None;
                continue;
            };
            media.mime = Some(facts.mime.clone());
            media.size = Some(facts.size);
            media.name = media.name.take().or_else(|| facts.name.clone());
        }
        Ok(())
    }

    /// A plan's body.
    pub(super) async fn body_of(
        &self,
        config: &ChannelConfig,
        plan: &HttpPlan,
    ) -> Result<Body<'_>, NoAnswer> {
        let Some(upload) = &plan.upload else {
            let none = plan.body.is_empty() && matches!(plan.method, "GET" | "HEAD" | "DELETE");
            let bytes = (!none).then(|| plan.body.clone());
            return Ok(Body { bytes, content_type: None, _permit: None });
        };
        let closed = |_| NoAnswer::Failed("the platform is shutting down".to_owned());
        let permit = self.uploads.acquire().await.map_err(closed)?;
        let (bytes, content_type) = match upload {
            Upload::Raw(file) => (self.read_file(config, file).await?, None),
            Upload::Form(parts) => self.form(config, parts).await?,
        };
        Ok(Body { bytes: Some(bytes), content_type, _permit: Some(permit) })
    }

    async fn form(
        &self,
        config: &ChannelConfig,
        parts: &[FormPart],
    ) -> Result<(Vec<u8>, Option<HeaderValue>), NoAnswer> {
        let boundary = format!("qudao-{:032x}", rand::rng().random_range(0..u128::MAX));
        let mut body = Vec::new();
        for part in parts {
            match &part.content {
                FormContent::Text(text) | FormContent::Json(text) => {
                    add(&mut body, part, text.as_bytes(), &boundary);
                }
                FormContent::File(file) => {
                    add(&mut body, part, &self.read_file(config, file).await?, &boundary);
                }
            }
        }
        end(&mut body, &boundary);
        let content_type = format!("multipart/form-data; boundary={boundary}");
        Ok((body, HeaderValue::try_from(content_type).ok()))
    }

    async fn read_file(&self, config: &ChannelConfig, file: &OwnFile) -> Result<Vec<u8>, NoAnswer> {
        let gone = || NoAnswer::Impossible("the file is not kept any more".to_owned());
        let id: MediaId = file.upload_id.parse().map_err(|_| gone())?;
        let read = async {
            let mut tx = self.core.store.begin(config.tenant_id).await?;
            let found = tx.channel_media(config.channel_id, id).await?;
            tx.commit().await?;
            Ok::<_, StorageError>(found)
        };
        let found = read.await.map_err(|error| NoAnswer::Failed(error.to_string()))?;
        found.map(|found| found.bytes).ok_or_else(gone)
    }
}

/// One more field at the end of a form.
fn add(body: &mut Vec<u8>, part: &FormPart, content: &[u8], boundary: &str) {
    body.extend_from_slice(head_of(part, boundary).as_bytes());
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n");
}

fn end(body: &mut Vec<u8>, boundary: &str) {
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
}

/// What stands before a field of a form (RFC 7578), with names as browsers write them.
fn head_of(part: &FormPart, boundary: &str) -> String {
    let name = quoted(&part.name);
    let (file, kind) = match &part.content {
        FormContent::Text(_) => (String::new(), None),
        FormContent::Json(_) => (String::new(), Some("application/json".to_owned())),
        FormContent::File(file) => {
            (format!("; filename=\"{}\"", quoted(&file.name)), Some(plain(&file.mime)))
        }
    };
    let kind = kind.map(|kind| format!("content-type: {kind}\r\n")).unwrap_or_default();
    format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n{kind}\r\n")
}

fn quoted(name: &str) -> String {
    let name = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    name.chars().filter(|letter| !letter.is_control()).collect()
}

/// A media type that cannot end its line.
fn plain(mime: &str) -> String {
    let odd = mime.is_empty() || mime.contains(|letter: char| letter.is_control());
    if odd { "application/octet-stream".to_owned() } else { mime.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a reader of forms that others made reads it.
    #[tokio::test]
    async fn a_form_is_read_as_it_was_meant() {
        let file = OwnFile {
            upload_id: "upl_1".to_owned(),
            name: "猫.jpg".to_owned(),
            mime: "image/jpeg".to_owned(),
            size: 4,
        };
        let json = FormPart {
            name: "payload_json".to_owned(),
            content: FormContent::Json("{}".to_owned()),
        };
        let bytes = b"\0\xff\r\n--b--\r\n";
        let mut body = Vec::new();
        add(&mut body, &FormPart::text("chat_id", "7"), b"7", "qudao-0");
        add(&mut body, &json, b"{}", "qudao-0");
        add(&mut body, &FormPart::file("file0", file), bytes, "qudao-0");
        end(&mut body, "qudao-0");
        let whole = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
        let mut form = multer::Multipart::new(whole, "qudao-0");
        let mut read = Vec::new();
        while let Some(field) = form.next_field().await.unwrap() {
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            let kind = field.content_type().map(ToString::to_string).unwrap_or_default();
            let head = (text(field.name()), text(field.file_name()), kind);
            read.push((head, field.bytes().await.unwrap().to_vec()));
        }
        let said = |name: &str, file: &str, kind: &str, bytes: &[u8]| {
            ((name.to_owned(), file.to_owned(), kind.to_owned()), bytes.to_vec())
        };
        let expected = [
            said("chat_id", "", "", b"7"),
            said("payload_json", "", "application/json", b"{}"),
            said("file0", "猫.jpg", "image/jpeg", bytes),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_files_name_cannot_leave_its_place() {
        let file = OwnFile {
            upload_id: "upl_1".to_owned(),
            name: "a\"\r\nx: y\0.jpg".to_owned(),
            mime: "image/jpeg\r\nx: y".to_owned(),
            size: 1,
        };
        let head = head_of(&FormPart::file("photo", file), "b");
        assert_eq!(
            head,
            "--b\r\ncontent-disposition: form-data; name=\"photo\"; \
             filename=\"a%22%0D%0Ax: y.jpg\"\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let head = head_of(&FormPart::text("chat_id", "7"), "b");
        assert_eq!(head, "--b\r\ncontent-disposition: form-data; name=\"chat_id\"\r\n\r\n");
    }
}
