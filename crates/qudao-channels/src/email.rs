//! A mailbox. Messages come over IMAP ([`imap`]) or from a provider's webhook that posts each one
//! whole; answers go out over SMTP ([`smtp`]).
//!
//! Nothing in a mail proves who wrote it, so a conversation is a thread *of one address*: whoever
//! learns the id of somebody else's message does not get into their conversation.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{ChannelAdapter, Failure, Outcome, Outgoing, Parsed, RawRequest, Reject},
    config::{ChannelConfig, Field, FieldForm, Manifest},
    plan::{Plan, RawResponse},
};
use qudao_domain::{
    capability::{Capabilities, EditCapability, Level, RateCapability, TextCapability},
    state::ChannelKind,
};

mod dial;
pub mod imap;
mod message_id;
mod quote;
mod read;
pub mod smtp;
mod write;

pub use dial::Dialer;
pub(crate) use dial::Wire;

use crate::signature;

/// The header in which a provider's webhook shows the secret.
pub const SECRET_HEADER: &str = "x-inbound-secret";
/// The longest mail that is read, in bytes; providers deliver up to about 25 MB.
pub(crate) const MAIL_BYTES_MAX: usize = 30 << 20;

/// A mailbox as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Email;

const SECURITY: FieldForm = FieldForm::Choice(&["tls", "starttls", "plain"]);

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Email,
    name: "E-mail",
    name_zh: "电子邮件",
    webhook: true,
    fields: &[
        Field::text("address", "Address", "邮箱地址")
            .form(FieldForm::Text(160))
            .help("The mailbox that people write to. Answers come from this address."),
        Field::text("name", "Sender's name", "发件人名称")
            .optional()
            .form(FieldForm::Text(100))
            .help("What mail programs show beside the address, such as your company's name."),
        Field::text("smtp_host", "SMTP server", "SMTP 服务器").form(FieldForm::Text(253)).help(
            "In your mail provider's help under \"outgoing mail\", such as smtp.example.com.",
        ),
        Field::text("smtp_port", "SMTP port", "SMTP 端口")
            .optional()
            .form(FieldForm::Number(1, 65_535))
            .help("465 for TLS and 587 for STARTTLS, unless your provider says otherwise."),
        Field::text("smtp_security", "SMTP protection", "SMTP 加密方式").optional().form(SECURITY),
        Field::text("smtp_user", "SMTP user", "SMTP 用户名")
            .optional()
            .help("The address itself if left empty."),
        Field::secret("smtp_password", "SMTP password", "SMTP 密码")
            .optional()
            .help("Most providers want an app password, made in the account's security settings."),
        Field::text("imap_host", "IMAP server", "IMAP 服务器")
            .optional()
            .form(FieldForm::Text(253))
            .help(
                "In your mail provider's help under \"incoming mail\". Leave empty if your \
                   provider posts mails to this channel's address.",
            ),
        Field::text("imap_port", "IMAP port", "IMAP 端口")
            .optional()
            .form(FieldForm::Number(1, 65_535))
            .help("993 for TLS and 143 for STARTTLS, unless your provider says otherwise."),
        Field::text("imap_security", "IMAP protection", "IMAP 加密方式").optional().form(SECURITY),
        Field::text("imap_user", "IMAP user", "IMAP 用户名")
            .optional()
            .help("The address itself if left empty."),
        Field::secret("imap_password", "IMAP password", "IMAP 密码")
            .optional()
            .help("The SMTP password if left empty."),
        Field::text("imap_folder", "Folder", "文件夹").optional().help("INBOX if left empty."),
        Field::secret("inbound_secret", "Inbound secret", "入站密钥").optional().help(
            "Needed if your provider posts mails here. A long random text that it sends in the \
             header X-Inbound-Secret.",
        ),
        Field::text("authserv_id", "Judge of senders", "发件人验证服务器")
            .optional()
            .form(FieldForm::Text(253))
            .help(
                "The name with which your own mail server begins its Authentication-Results. \
                   If it is set, mails whose sender it could not confirm are stored and not \
                   answered.",
            ),
    ],
};

impl ChannelAdapter for Email {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        let formats = [
            "bold",
            "italic",
            "strike",
            "code",
            "code_block",
            "link",
            "list",
            "quote",
            "heading",
            "table",
        ];
        Capabilities {
            text: TextCapability {
                max: 100_000,
                formats: formats.map(|format| (format.to_owned(), Level::Native)).into(),
                ..TextCapability::default()
            },
            reply_to: Level::Native,
            edit: EditCapability { level: Level::Drop, ..EditCapability::default() },
            rate: RateCapability { per_s: Some(2.0), per_conversation_per_s: Some(0.2) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let address = config.setting("address").unwrap_or_default();
        if !read::is_address(address) {
            return Err(("address", "this is no e-mail address".to_owned()));
        }
        if config.setting("imap_host").is_none() && config.candidates("inbound_secret").is_err() {
            let missing = "set an IMAP server to fetch mails from, or an inbound secret for a \
                           provider that posts them";
            return Err(("imap_host", missing.to_owned()));
        }
        let weak = |secret: &&str| secret.chars().count() < 16;
        if config.candidates("inbound_secret").is_ok_and(|all| all.iter().any(weak)) {
            return Err(("inbound_secret", "use at least 16 random characters".to_owned()));
        }
        Ok(())
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        let secrets = config.candidates("inbound_secret")?;
        if request.method != "POST" {
            return Err(Reject::MethodNotAllowed);
        }
        let shown = request.header(SECRET_HEADER).unwrap_or_default();
        let hashed = |text: &str| signature::sha256(&[text.as_bytes()]).to_vec();
        // Hashes are compared, so that not even the secret's length shows in the time.
        if !signature::any(secrets, &hashed(shown), hashed) {
            return Err(Reject::Unauthorized("the inbound secret is missing or another"));
        }
        if !request.tail.is_empty() {
            return Err(Reject::NotFound);
        }
        let event = read::event(config, &request.body, now);
        event.map(|event| Parsed::events(vec![event])).ok_or(Reject::Malformed("this is no mail"))
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        Ok(vec![Plan::Mail(write::mail(config, out)?)])
    }

    fn classify(&self, _config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        smtp::classify(plan, response)
    }
}

#[cfg(test)]
mod tests;
