//! The pages that the binary carries. Their files lie in `web/*/dist` when this crate is compiled;
//! without them the pages say how to build them.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{self, HeaderMap},
    },
    web::{Bytes, Path},
};
use flate2::{Compression, write::GzEncoder};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::{
    code::Code,
    error::ApiError,
    shield::{CLIPBOARD, MICROPHONE, RESOURCE_POLICY, page_headers},
};

#[derive(RustEmbed)]
#[folder = "../../web/chat/dist"]
#[allow_missing = true]
struct ChatFiles;

#[derive(RustEmbed)]
#[folder = "../../web/console/dist"]
#[allow_missing = true]
struct ConsoleFiles;

#[derive(RustEmbed)]
#[folder = "../../web/docs/dist"]
#[allow_missing = true]
struct DocsFiles;

#[derive(RustEmbed)]
#[folder = "../../web/widget/dist"]
#[allow_missing = true]
struct WidgetFiles;

/// What a page may do. In none does anything run but what this server itself sent.
struct Policy {
    content: &'static str,
    /// The same for browsers that do not know `frame-ancestors`.
    framing: &'static str,
    /// What it needs of a device.
    permissions: &'static str,
}

/// No text becomes markup or script in it, not even by a mistake of ours: it makes no trusted types.
/// Pictures of the conversation are fetched with the visitor's token, and drawn from the page's memory.
const CHAT: Policy = Policy {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
        img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; \
        require-trusted-types-for 'script'; trusted-types 'none'",
    framing: "SAMEORIGIN",
    permissions: MICROPHONE,
};

/// As the chat, and in nobody's frame: a press on it gives rights away.
const CONSOLE: Policy = Policy {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
        img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
        require-trusted-types-for 'script'; trusted-types 'none'",
    framing: "DENY",
    permissions: CLIPBOARD,
};

/// The renderer writes markup that its own sanitiser passed, and has its icons in its style sheet.
const DOCS: Policy = Policy {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
        img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    framing: "DENY",
    permissions: CLIPBOARD,
};

/// Text alone.
const TEXT: Policy = Policy {
    content: "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    framing: "DENY",
    permissions: CLIPBOARD,
};

/// The chat page; the same for every channel, which it learns from its address.
pub(crate) async fn chat_page(request: HttpRequest) -> HttpResponse {
    page(&request, &CHAT, ChatFiles::get("index.html"), "web/chat")
}

/// Where members look after people and keys. Which page of it, stands behind the `#`.
pub(crate) async fn console_page(request: HttpRequest) -> HttpResponse {
    page(&request, &CONSOLE, ConsoleFiles::get("index.html"), "web/console")
}

/// The rendered API description.
pub(crate) async fn docs_page(request: HttpRequest) -> HttpResponse {
    page(&request, &DOCS, DocsFiles::get("index.html"), "web/docs")
}

/// The page of error codes, to which the `type` of every problem points.
pub(crate) async fn errors_page() -> HttpResponse {
    let mut response = html(&TEXT);
    response.body(crate::code::reference_html())
}

/// A script, style or image of a page. Its name holds a hash, so it never changes.
pub(crate) async fn asset(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = format!("assets/{path}");
    let file = ChatFiles::get(&name).or_else(|| ConsoleFiles::get(&name));
    let file = file.or_else(|| DocsFiles::get(&name));
    let file = file.ok_or_else(|| ApiError::not_found("file"))?;
    let kind = media_type(&name).ok_or_else(|| ApiError::not_found("file"))?;
    let mut response = HttpResponse::Ok();
    response
        .content_type(kind)
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .insert_header((header::VARY, "Accept-Encoding"));
    if accepts_gzip(request.headers()) {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
        return Ok(response.body(gzipped(&name, &file.data)));
    }
    Ok(response.body(bytes(file.data)))
}

/// The widget's one file, for pages of any site: whether one may speak for a channel is decided
/// where it asks for a token. Its name is in the tenants' pages, so it is asked about often.
pub(crate) async fn widget_script(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let file = WidgetFiles::get("widget.js").ok_or_else(|| {
        ApiError::new(
            Code::NotFound,
            "the widget is not in the binary: run `npm ci && npm run build` in `web/widget`, then \
             build Qudao again",
        )
    })?;
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..8]));
    let seen = request.headers().get(header::IF_NONE_MATCH);
    let unchanged = seen.is_some_and(|seen| seen.as_bytes() == tag.as_bytes());
    let mut response = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .content_type("text/javascript; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "public, max-age=300"))
        .insert_header((header::ETAG, tag.clone()))
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header((RESOURCE_POLICY, "cross-origin"));
    if unchanged {
        return Ok(response.finish());
    }
    if accepts_gzip(request.headers()) {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
        return Ok(response.body(gzipped(&tag, &file.data)));
    }
    Ok(response.body(bytes(file.data)))
}

fn html(policy: &Policy) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, policy.content))
        .insert_header((header::CACHE_CONTROL, "no-cache"));
    for header in page_headers(policy.framing, policy.permissions) {
        response.insert_header(header);
    }
    response
}

fn page(
    request: &HttpRequest,
    policy: &Policy,
    file: Option<EmbeddedFile>,
    folder: &str,
) -> HttpResponse {
    let Some(file) = file else {
        return html(policy).body(format!(
            "<!doctype html><meta charset=\"utf-8\"><title>Qudao</title><p>This page is not in \
             the binary. Run <code>npm ci &amp;&amp; npm run build</code> in <code>{folder}</code>, \
             then build Qudao again; <code>make run</code> does both.</p>\
             <p lang=\"zh\">此页面未包含在程序中。请在 <code>{folder}</code> 中运行 \
             <code>npm ci &amp;&amp; npm run build</code>，然后重新构建；<code>make run</code> \
             会完成这两步。</p>"
        ));
    };
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..8]));
    let seen = request.headers().get(header::IF_NONE_MATCH);
    if seen.is_some_and(|seen| seen.as_bytes() == tag.as_bytes()) {
        // With the page's own headers: a browser puts them in the place of those that it kept.
        let mut unchanged = html(policy);
        return unchanged
            .status(StatusCode::NOT_MODIFIED)
            .insert_header((header::ETAG, tag))
            .finish();
    }
    html(policy).insert_header((header::ETAG, tag)).body(bytes(file.data))
}

/// The type of a file, if it is one that a page of ours may load.
fn media_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|offer| {
        let (name, quality) = offer.split_once(';').unwrap_or((offer, ""));
        name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0")
    })
}

/// The file compressed, once for the life of the process.
fn gzipped(name: &str, data: &[u8]) -> Bytes {
    static DONE: OnceLock<Mutex<HashMap<String, Bytes>>> = OnceLock::new();
    let done = DONE.get_or_init(Mutex::default);
    let known = done.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    known.unwrap_or_else(|| {
        let mut encoder = GzEncoder::new(Vec::with_capacity(data.len() / 3), Compression::new(6));
        // A vector takes every write.
        let packed = encoder.write_all(data).and_then(|()| encoder.finish()).unwrap_or_default();
        let packed = Bytes::from(packed);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(name.to_owned(), packed.clone());
        packed
    })
}

fn bytes(data: Cow<'static, [u8]>) -> Bytes {
    match data {
        Cow::Borrowed(data) => Bytes::from_static(data),
        Cow::Owned(data) => Bytes::from(data),
    }
}
