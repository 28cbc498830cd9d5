//! An answer as a mail.

use mail_builder::{
    MessageBuilder,
    headers::{
        address::Address, content_type::ContentType, date::Date, message_id::MessageId, raw::Raw,
    },
    mime::{BodyPart, MimePart},
};
use qudao_core::channel::{
    adapter::{Answered, Failure, FailureReason, Outgoing},
    config::ChannelConfig,
    plan::{MailPlan, MailSecurity},
};
use qudao_domain::{
    message::{Message, Part, TextFormat},
    render::plain_text,
};
use serde_json::Value;

use super::{message_id, read};
use crate::{lenient, markup};

/// The mail that carries a message. The same bytes for each attempt, but for its date.
pub(super) fn mail(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<MailPlan, Failure> {
    let fail = |reason, detail: &str| Failure { reason, detail: detail.to_owned() };
    let to = out.thread.rsplit_once(' ').map_or(out.thread, |(address, _)| address);
    if !read::is_address(to) {
        return Err(fail(FailureReason::RecipientUnknown, "the conversation names no address"));
    }
    let from = config.setting("address").unwrap_or_default();
    if !read::is_address(from) {
        return Err(fail(FailureReason::Auth, "the channel has no address"));
    }
    let at = out.answered.map_or(0, |answered| answered.at.as_second());
    let message_id = message_id::make(config, at, out.id, out.piece, to);
    let message = compose(config, out, from, to, &message_id)
        .map_err(|error| fail(FailureReason::ProviderError, &error.to_string()))?;
    Ok(MailPlan {
        to: vec![to.to_owned()],
        message,
        message_id: format!("<{message_id}>"),
        ..envelope(config)
    })
}

/// A channel's server and sender, and nothing to send yet.
pub(super) fn envelope(config: &ChannelConfig) -> MailPlan {
    let from = config.setting("address").unwrap_or_default();
    let security = security(config, "smtp_security");
    let port = config.number("smtp_port").and_then(|port| u16::try_from(port).ok());
    let password = config.secret("smtp_password").ok();
    MailPlan {
        host: config.setting("smtp_host").unwrap_or_default().to_owned(),
        port: port.unwrap_or(if security == MailSecurity::Tls { 465 } else { 587 }),
        security,
        credentials: password.map(|password| {
            (config.setting("smtp_user").unwrap_or(from).to_owned(), password.to_owned())
        }),
        from: from.to_owned(),
        to: Vec::new(),
        message: Vec::new(),
        message_id: String::new(),
    }
}

/// How a connection is protected: TLS unless a setting says otherwise.
pub(super) fn security(config: &ChannelConfig, setting: &str) -> MailSecurity {
    match config.setting(setting) {
        Some("starttls") => MailSecurity::StartTls,
        Some("plain") => MailSecurity::Plain,
        _ => MailSecurity::Tls,
    }
}

fn compose(
    config: &ChannelConfig,
    out: &Outgoing<'_>,
    from: &str,
    to: &str,
    message_id: &str,
) -> std::io::Result<Vec<u8>> {
    let (plain, html) = bodies(out.message);
    let boundary = format!("=_{}", &lenient::hash(&[message_id.as_bytes()])[..32]);
    let kind = ContentType::new("multipart/alternative").attribute("boundary", boundary);
    let parts = vec![MimePart::new("text/plain", plain), MimePart::new("text/html", html)];
    let mut builder = MessageBuilder::new()
        .from(Address::new_address(config.setting("name"), from))
        .to(Address::new_address(None::<&str>, to))
        .subject(subject(config, out.answered))
        .date(Date::new(out.now.as_second()))
        .message_id(message_id)
        .header("Auto-Submitted", Raw::new("auto-replied"))
        // Exchange answers automatic mails with out-of-office notes unless it is asked not to.
        .header("X-Auto-Response-Suppress", Raw::new("All"))
        .header("List-Unsubscribe", Raw::new(format!("<mailto:{from}?subject=unsubscribe>")));
    if let Some((answered, parent)) = out.answered.and_then(parent) {
        let thread = references(answered, &parent);
        builder = builder.in_reply_to(MessageId::new(parent)).references(MessageId::from(thread));
    }
    builder.body(MimePart::new(kind, BodyPart::Multipart(parts))).write_to_vec()
}

/// The id of the answered mail, where it has one that can be named.
fn parent(answered: Answered<'_>) -> Option<(Answered<'_>, String)> {
    Some((answered, lenient::some_text(answered.raw, "/message_id")?))
}

/// The thread's ids and the answered mail's, each once.
fn references(answered: Answered<'_>, parent: &str) -> Vec<String> {
    let before = lenient::list(answered.raw, "/references").iter().filter_map(Value::as_str);
    let mut ids: Vec<String> = before.map(str::to_owned).filter(|id| id != parent).collect();
    // As many as fit a header that every server takes; the root stays.
    if ids.len() > 20 {
        ids.drain(1..ids.len() - 19);
    }
    ids.push(parent.to_owned());
    ids
}

fn subject(config: &ChannelConfig, answered: Option<Answered<'_>>) -> String {
    let asked = answered.and_then(|answered| lenient::some_text(answered.raw, "/subject"));
    let asked = asked.map(|text| text.replace(['\r', '\n'], " ").trim().to_owned());
    match asked.filter(|text| !text.is_empty()) {
        Some(text) if has_reply_prefix(&text) => text,
        Some(text) => format!("Re: {text}"),
        None => config.setting("name").unwrap_or("Re: your message").to_owned(),
    }
}

fn has_reply_prefix(subject: &str) -> bool {
    let lower = subject.to_lowercase();
    ["re:", "aw:", "sv:", "回复:", "回复：", "回覆:", "答复:", "答复："]
        .iter()
        .any(|known| lower.starts_with(known))
}

/// The message in plain words and as HTML.
fn bodies(message: &Message) -> (String, String) {
    let plain = |part: &Part| match part {
        Part::Text { format: TextFormat::Markdown, text } => plain_text(text),
        other => other.to_text(),
    };
    let html = |part: &Part| match part {
        Part::Text { format: TextFormat::Markdown, text } => markup::html(text),
        other => markup::html_of_plain(&other.to_text()),
    };
    let plain: Vec<_> = message.parts.iter().map(plain).collect();
    let html: String = message.parts.iter().map(html).collect();
    // "auto" lets each paragraph run in its own script's direction.
    (plain.join("\n\n"), format!("<div dir=\"auto\">{html}</div>"))
}
