//! Forms with files: `multipart/form-data`, read whole.

use actix_web::{
    HttpRequest,
    dev::Payload,
    http::header,
    web::{Bytes, BytesMut},
};

use super::{Text, read_bytes};
use crate::{code::Code, error::ApiError, places::Held};

/// Fields of a form at most.
const FIELDS_MAX: usize = 64;
/// What the heads and bounds of a form's parts may take beside what is in them.
pub(crate) const FORM_OVERHEAD: usize = 64 * 1024;

/// A form, with its part of the memory that bodies may take.
pub(crate) struct Form {
    /// In the order in which they came.
    pub(crate) fields: Vec<FormField>,
    _held: Held,
}

/// A field of a form, or a file.
pub(crate) struct FormField {
    pub(crate) name: String,
    /// Of a file, as the sender calls it.
    pub(crate) file_name: Option<String>,
    /// The media type that the sender claims.
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
}

/// Reads a form of at most `limit` bytes. `how` tells a sender of something else what to send.
///
/// # Errors
/// [`ApiError`] for another media type, a form that is malformed, and as [`read_bytes`].
pub(crate) async fn read_form(
    request: &HttpRequest,
    payload: Payload,
    limit: usize,
    how: &'static str,
) -> Result<Form, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let boundary = kind.and_then(|kind| multer::parse_boundary(kind).ok());
    let boundary = boundary.ok_or_else(|| ApiError::new(Code::UnsupportedMediaType, how))?;
    let Text { bytes, _held } = read_bytes(request, payload, limit).await?;
    let fields = split(bytes, boundary).await?;
    Ok(Form { fields, _held })
}

async fn split(whole: BytesMut, boundary: String) -> Result<Vec<FormField>, ApiError> {
    let malformed = |error: multer::Error| {
        ApiError::new(Code::BadRequest, format!("the form cannot be read: {error}"))
    };
    let stream = futures_util::stream::once(async { Ok::<_, std::io::Error>(whole.freeze()) });
    let mut form = multer::Multipart::new(stream, boundary);
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        if FIELDS_MAX == fields.len() {
            let detail = format!("a form may have {FIELDS_MAX} fields at most");
            return Err(ApiError::new(Code::BadRequest, detail));
        }
        fields.push(FormField {
            name: field.name().unwrap_or_default().to_owned(),
            file_name: field.file_name().map(str::to_owned),
            media_type: field.content_type().map(|kind| kind.essence_str().to_owned()),
            bytes: field.bytes().await.map_err(malformed)?,
        });
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &[u8]) -> Result<Vec<FormField>, ApiError> {
        futures_util::FutureExt::now_or_never(split(BytesMut::from(body), "b".to_owned())).unwrap()
    }

    fn part(head: &str, content: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    }

    #[test]
    fn fields_and_files_come_in_their_order_with_their_bytes() {
        let form = part("name=\"a\"", "one")
            + &part("name=\"file\"; filename=\"x.wav\"\r\nContent-Type: audio/wav", "\0\u{ff}\r\n")
            + &part("name=\"a\"", "")
            + "--b--\r\n";
        let told: Vec<_> = read(form.as_bytes())
            .unwrap()
            .into_iter()
            .map(|field| (field.name, field.file_name, field.media_type, field.bytes.to_vec()))
            .collect();
        let text = |name: &str, words: &str| (name.to_owned(), None, None, words.into());
        let (name, kind) = (Some("x.wav".to_owned()), Some("audio/wav".to_owned()));
        let file = ("file".to_owned(), name, kind, "\0\u{ff}\r\n".into());
        assert_eq!(told, [text("a", "one"), file, text("a", "")]);
    }

    #[test]
    fn a_form_that_breaks_off_or_has_too_many_fields_is_refused() {
        let one = part("name=\"a\"", "one");
        for body in [
            String::new(),
            one.clone(),
            one[..one.len() - 4].to_owned(),
            one.repeat(FIELDS_MAX + 1) + "--b--\r\n",
        ] {
            assert_eq!(read(body.as_bytes()).map(|_| ()).unwrap_err().code(), Code::BadRequest);
        }
        assert_eq!(read((one.repeat(FIELDS_MAX) + "--b--\r\n").as_bytes()).unwrap().len(), 64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&body));
        }
    }
}
