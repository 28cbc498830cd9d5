//! A mail as an event.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use mail_parser::{
    Address, HeaderName, HeaderValue, Message as Mail, MessageParser, MessagePart,
    MimeHeaders as _, PartType,
};
use qudao_core::channel::{
    config::ChannelConfig,
    event::{Attribution, Event, EventBody, Person, Thread},
};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::{Value, json};

use super::{message_id, quote};
use crate::lenient;

/// Characters of the longest address that is answered. A conversation's id holds it and the
/// thread's number.
pub(super) const ADDRESS_MAX: usize = 160;
/// Bytes of all files of a mail that are taken over; of the others the name stays.
const FILES_BYTES_MAX: usize = 10 << 20;
/// Files of a mail that are looked at.
const FILES_MAX: usize = 20;
/// Characters of a mail that are read.
const TEXT_MAX: usize = 50_000;
/// So many of our own answers to one thread within [`LOOP_WINDOW_S`] are a loop, not a talk.
const LOOP_ANSWERS: usize = 10;
const LOOP_WINDOW_S: i64 = 3600;
/// What people write who want no more mails, in lower case.
const UNSUBSCRIBE: &[&str] =
    &["unsubscribe", "stop", "退订", "取消订阅", "退訂", "abmelden", "désabonner", "配信停止"];

/// The event that a mail is; `None` if the bytes are no mail at all.
pub(super) fn event(config: &ChannelConfig, bytes: &[u8], now: Timestamp) -> Option<Event> {
    if bytes.len() > super::MAIL_BYTES_MAX {
        return None;
    }
    let mail = MessageParser::default().parse(bytes)?;
    // A mail without a sender is no mail, whatever else it holds.
    let (address, name) = mailbox(mail.from().or_else(|| mail.sender())?)?;
    let own_id = mail.message_id().map_or_else(|| lenient::hash(&[bytes]), lenient::id);
    let references = references(&mail);
    let sender = Person { external_id: lenient::id(&address), name, locale: locale(&mail) };
    let (sender, thread, body) = match bounce(config, &mail) {
        Some((person, thread)) => (person, thread, EventBody::Unreachable),
        None => {
            let root = references.first().map_or(own_id.as_str(), String::as_str);
            let thread = thread(&address, root);
            let body = body(config, &mail, &address, &own_id, &references, now);
            (sender, thread, body)
        }
    };
    Some(Event {
        id: own_id.clone(),
        thread: Thread { external_id: thread, group: false },
        sender,
        attribution: attribution(config, &mail),
        body,
        at: mail.date().and_then(|date| Timestamp::from_second(date.to_timestamp()).ok()),
        raw: raw(&mail, &address, &own_id, &references),
    })
}

/// The conversation's id: to whom an answer goes, and which of their threads it belongs to.
pub(super) fn thread(address: &str, root: &str) -> String {
    let root = root.trim_matches(['<', '>']);
    let number = lenient::hash(&[root.as_bytes(), b"\0", address.as_bytes()]);
    lenient::id(&format!("{address} {}", &number[..24]))
}

/// Whether a text has the form of an address that can be answered.
pub(super) fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |letter: char| !letter.is_whitespace() && !letter.is_control();
    !local.is_empty()
        && !domain.is_empty()
        && text.chars().count() <= ADDRESS_MAX
        && text.chars().all(plain)
        && !text.contains(['<', '>', ',', ';', '"', '(', ')', '\\'])
}

fn body(
    config: &ChannelConfig,
    mail: &Mail<'_>,
    address: &str,
    own_id: &str,
    references: &[String],
    now: Timestamp,
) -> EventBody {
    let unknown = |kind: &str| EventBody::Unknown { kind: kind.to_owned() };
    if !is_address(address) {
        return unknown("address_not_answerable");
    }
    if let Some(why) = machine(config, mail, address) {
        return unknown(why);
    }
    let lately = |id: &String| {
        message_id::read(config, id)
            .is_some_and(|own| lenient::within(own.at, now, LOOP_WINDOW_S, LOOP_WINDOW_S))
    };
    if references.iter().filter(|id| lately(id)).count() >= LOOP_ANSWERS {
        return unknown("loop");
    }
    if !confirmed(config, mail) {
        return unknown("sender_not_confirmed");
    }
    let text = mail.body_text(0).unwrap_or_default();
    let text: String = quote::strip(&text).chars().take(TEXT_MAX).collect();
    let subject = mail.subject().unwrap_or_default().trim();
    let asks = |words: &str| {
        let words = words.trim().trim_end_matches(['.', '!', '。', '！']).to_lowercase();
        UNSUBSCRIBE.contains(&words.as_str())
    };
    if asks(&text) || (asks(subject) && text.chars().count() < 40) {
        return EventBody::Unreachable;
    }
    let mut parts = Vec::new();
    // The first mail of a thread says in its subject what the rest is about.
    let headed = references.is_empty() && !subject.is_empty() && !text.starts_with(subject);
    let words = match (headed, text.is_empty()) {
        (true, true) => subject.to_owned(),
        (true, false) => format!("{subject}\n\n{text}"),
        (false, _) => text,
    };
    if !words.is_empty() {
        parts.push(Part::Text { format: TextFormat::Plain, text: words });
    }
    parts.extend(files(mail));
    if parts.is_empty() {
        return unknown("empty");
    }
    let reply_to = references.last().map(|id| lenient::id(id));
    EventBody::Message { external_id: own_id.to_owned(), message: Message { parts, reply_to } }
}

/// Why nobody waits for an answer to a mail, if a machine wrote it (RFC 3834, and what was done
/// before it).
fn machine(config: &ChannelConfig, mail: &Mail<'_>, address: &str) -> Option<&'static str> {
    let own = config.setting("address").unwrap_or_default();
    if address.eq_ignore_ascii_case(own) {
        return Some("own_mail");
    }
    let value =
        |name: &'static str| mail.header_raw(name).unwrap_or_default().trim().to_lowercase();
    let auto = value("Auto-Submitted");
    if !auto.is_empty() && !auto.starts_with("no") {
        return Some("auto_submitted");
    }
    if ["bulk", "junk", "list", "auto_reply"].contains(&value("Precedence").as_str()) {
        return Some("bulk");
    }
    if mail.header("List-Id").is_some() || mail.header("List-Unsubscribe").is_some() {
        return Some("mailing_list");
    }
    if mail.header("X-Autoreply").is_some() || mail.header("X-Autorespond").is_some() {
        return Some("auto_reply");
    }
    let report = mail.content_type().is_some_and(|kind| {
        kind.ctype().eq_ignore_ascii_case("multipart")
            && kind.subtype().is_some_and(|kind| kind.eq_ignore_ascii_case("report"))
    });
    let no_return = mail.header_raw("Return-Path").is_some_and(|path| path.trim() == "<>");
    let local = address.split('@').next().unwrap_or_default().to_lowercase();
    let daemon =
        ["mailer-daemon", "postmaster", "noreply", "no-reply", "donotreply", "do-not-reply"];
    (report || no_return || daemon.contains(&local.as_str())).then_some("report")
}

/// Whether the tenant's own mail server says that the sender is who it seems to be; also if nobody
/// was named to ask.
fn confirmed(config: &ChannelConfig, mail: &Mail<'_>) -> bool {
    let Some(judge) = config.setting("authserv_id") else { return true };
    // The first one is the newest: everything under it may be the sender's own.
    let mut results = mail.headers_raw();
    let found = results.find(|(name, _)| name.eq_ignore_ascii_case("Authentication-Results"));
    let Some((_, result)) = found else { return false };
    let (by, rest) = result.trim().split_once(';').unwrap_or((result, ""));
    let by = by.split_whitespace().next().unwrap_or_default();
    by.eq_ignore_ascii_case(judge)
        && rest.split(';').any(|part| part.trim().to_lowercase().starts_with("dmarc=pass"))
}

/// The person whom a mail of ours could not reach and their conversation, if this is a report of
/// that (RFC 3464) about a mail that we did send.
fn bounce(config: &ChannelConfig, mail: &Mail<'_>) -> Option<(Person, String)> {
    let status =
        mail.parts.iter().find(|part| part.is_content_type("message", "delivery-status"))?;
    let fields = contents(status);
    let field = |name: &str| {
        let mut lines = fields.lines();
        let found = lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        found.unwrap_or_default()
    };
    if !field("Action").eq_ignore_ascii_case("failed") || !field("Status").starts_with('5') {
        return None;
    }
    let recipient = field("Final-Recipient");
    let recipient = recipient.rsplit(';').next().unwrap_or_default().trim();
    let recipient = recipient.trim_matches(['<', '>']).to_lowercase();
    let (ours, root) = mail.parts.iter().find_map(|part| original(part))?;
    if !message_id::proves(config, &ours, &recipient) {
        return None;
    }
    let root = root.unwrap_or(ours);
    let person = Person { external_id: lenient::id(&recipient), ..Person::default() };
    Some((person, thread(&recipient, &root)))
}

/// The id of the mail that a report gives back and of the thread that it belonged to.
fn original(part: &MessagePart<'_>) -> Option<(String, Option<String>)> {
    let read = |mail: &Mail<'_>| {
        let id = mail.message_id()?.to_owned();
        Some((id, references(mail).first().cloned()))
    };
    match &part.body {
        PartType::Message(mail) => read(mail),
        PartType::Text(text) if part.is_content_type("text", "rfc822-headers") => {
            read(&MessageParser::default().parse_headers(text.as_bytes())?)
        }
        _ => None,
    }
}

fn contents(part: &MessagePart<'_>) -> String {
    match &part.body {
        PartType::Message(mail) => String::from_utf8_lossy(mail.raw_message()).into_owned(),
        _ => String::from_utf8_lossy(part.contents()).into_owned(),
    }
}

/// The thread's ids, the root first: `References`, or `In-Reply-To` where it is missing.
fn references(mail: &Mail<'_>) -> Vec<String> {
    let all = |value: &HeaderValue<'_>| match value {
        HeaderValue::Text(id) => vec![id.to_string()],
        HeaderValue::TextList(ids) => ids.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let mut ids = all(mail.references());
    if ids.is_empty() {
        ids = all(mail.in_reply_to());
    }
    // The root and the newest matter; what is between can be as long as somebody likes.
    if ids.len() > 50 {
        ids.drain(1..ids.len() - 49);
    }
    ids.retain(|id| plain_id(id).is_some());
    ids
}

/// An id that may stand in the header of an answer, as it stands in the mail.
fn plain_id(id: &str) -> Option<&str> {
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '<' | '>');
    (!id.is_empty() && id.len() <= 500 && id.chars().all(plain)).then_some(id)
}

/// The files of a mail. Their bytes go along as `data:` addresses: nobody can ask for them again.
fn files(mail: &Mail<'_>) -> Vec<Part> {
    let mut left = FILES_BYTES_MAX;
    let part = |part: &MessagePart<'_>| {
        let bytes = part.contents();
        let mime = part.content_type().map(|kind| {
            let subtype = kind.subtype().unwrap_or("octet-stream");
            format!("{}/{subtype}", kind.ctype()).to_lowercase()
        });
        let mime = mime.unwrap_or_else(|| "application/octet-stream".to_owned());
        let fits = bytes.len() <= left && !bytes.is_empty();
        left -= if fits { bytes.len() } else { 0 };
        let media = Media {
            url: fits.then(|| format!("data:{mime};base64,{}", STANDARD.encode(bytes))),
            size: u64::try_from(bytes.len()).ok(),
            name: part.attachment_name().map(|name| name.chars().take(200).collect()),
            mime: Some(mime.clone()),
            ..Media::default()
        };
        match mime.split('/').next() {
            Some("image") => Part::Image(media),
            Some("audio") => Part::Audio(media),
            Some("video") => Part::Video(media),
            _ => Part::File(media),
        }
    };
    mail.attachments().take(FILES_MAX).map(part).collect()
}

/// `support+spring24@…` says how somebody came here.
fn attribution(config: &ChannelConfig, mail: &Mail<'_>) -> Option<Attribution> {
    let (own, own_domain) = config.setting("address")?.rsplit_once('@')?;
    let to = mail.to()?;
    let reference = to.iter().find_map(|addr| {
        let (local, domain) = addr.address()?.rsplit_once('@')?;
        let (before, tag) = local.split_once('+')?;
        let ours = before.eq_ignore_ascii_case(own) && domain.eq_ignore_ascii_case(own_domain);
        (ours && !tag.is_empty() && tag.len() <= 64).then(|| tag.to_owned())
    });
    reference.map(|tag| Attribution { reference: Some(tag), ..Attribution::default() })
}

fn mailbox(address: &Address<'_>) -> Option<(String, Option<String>)> {
    let first = address.first()?;
    let name = first.name().map(str::trim).filter(|name| !name.is_empty());
    let name = name.map(|name| name.chars().take(200).collect());
    Some((first.address()?.trim().to_lowercase(), name))
}

fn locale(mail: &Mail<'_>) -> Option<String> {
    let language = mail.header_raw(HeaderName::ContentLanguage)?.split(',').next()?.trim();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    (language.len() <= 20 && !language.is_empty() && language.chars().all(plain))
        .then(|| language.to_owned())
}

/// What an answer needs to know. The mail itself is not kept: it may be as large as its files.
fn raw(mail: &Mail<'_>, address: &str, own_id: &str, references: &[String]) -> Value {
    let reply_to = mail.reply_to().and_then(mailbox).map(|(address, _)| address);
    json!({
        "from": address,
        "reply_to": reply_to.filter(|address| is_address(address)),
        "subject": mail.subject().map(|subject| subject.chars().take(500).collect::<String>()),
        "message_id": plain_id(mail.message_id().unwrap_or(own_id)),
        "references": references,
        "auto_submitted": mail.header_raw("Auto-Submitted").map(str::trim),
    })
}
