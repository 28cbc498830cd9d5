//! What Meta's three are called, ask for, and can show.

use std::collections::BTreeMap;

use qudao_core::channel::{
    config::{ChannelConfig, Field, FieldForm, Manifest},
    plan::HttpPlan,
};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, Level, ListCapability, MediaCapability, RateCapability,
        TextCapability, TypingCapability, Unit,
    },
    state::ChannelKind,
};
use serde_json::json;

use super::{Meta, WINDOW_S};

/// The version of the Graph API that the requests are written for.
const VERSION: &str = "v24.0";

const APP_SECRET: Field = Field::secret("app_secret", "App secret", "应用密钥")
    .help("developers.facebook.com, your app, App settings, Basic.");
const VERIFY_TOKEN: Field = Field::secret("verify_token", "Verify token", "验证令牌")
    .help("Any words of yours; enter the same beside the callback URL under Webhooks.");
const API_URL: Field = Field::text("api_url", "API address", "API 地址")
    .help("Only for a proxy or an emulator; Meta's own if empty.")
    .form(FieldForm::Url)
    .optional();
const API_VERSION: Field = Field::text("api_version", "API version", "API 版本")
    .help("Such as v24.0; leave it empty unless Meta retires that version.")
    .optional();

pub(super) static WHATSAPP: Manifest = Manifest {
    kind: ChannelKind::Whatsapp,
    name: "WhatsApp",
    name_zh: "WhatsApp",
    fields: &[
        Field::text("business_use", "What your business uses it for", "业务用途").help(
            "In a sentence. Meta's terms allow the assistant of a business for its own \
                 customers, and no assistant for everything.",
        ),
        Field::text("phone_number_id", "Phone number ID", "电话号码编号")
            .help("developers.facebook.com, your app, WhatsApp, API Setup; not the number itself."),
        Field::text("waba_id", "WhatsApp Business Account ID", "WhatsApp 商业账户编号")
            .help("On the same page; with it the app is subscribed to the account for you.")
            .optional(),
        Field::secret("access_token", "Access token", "访问令牌")
            .help("business.facebook.com, System users; the one under API Setup ends in a day."),
        APP_SECRET,
        VERIFY_TOKEN,
        Field::text("code_template", "Template for codes", "验证码模板")
            .help("An authentication template of yours: with it codes reach people who did not write.")
            .optional(),
        Field::text("code_language", "Language of that template", "该模板的语言")
            .help("As Meta writes it, such as en_US or zh_CN; en_US if empty.")
            .optional(),
        Field::text("mark_read", "Show messages as read", "显示已读")
            .help("Also shows that an answer is being written.")
            .form(FieldForm::Bool)
            .optional(),
        API_URL,
        API_VERSION,
    ],
    webhook: true,
};

pub(super) static MESSENGER: Manifest = Manifest {
    kind: ChannelKind::Messenger,
    name: "Messenger",
    name_zh: "Messenger",
    fields: &[
        Field::text("page_id", "Page ID", "主页编号")
            .help("facebook.com, your page, About, Page transparency."),
        Field::secret("access_token", "Page access token", "主页访问令牌")
            .help("developers.facebook.com, your app, Messenger, API Setup, Generate token."),
        APP_SECRET,
        VERIFY_TOKEN,
        API_URL,
        API_VERSION,
    ],
    webhook: true,
};

pub(super) static INSTAGRAM: Manifest = Manifest {
    kind: ChannelKind::Instagram,
    name: "Instagram",
    name_zh: "Instagram",
    fields: &[
        Field::text("account_id", "Instagram account ID", "Instagram 账户编号")
            .help("developers.facebook.com, your app, Instagram, API setup; beside the account."),
        Field::secret("access_token", "Access token", "访问令牌")
            .help("On the same page, Generate token."),
        Field { help: "On the same page, Instagram app secret.", ..APP_SECRET },
        VERIFY_TOKEN,
        API_URL,
        API_VERSION,
    ],
    webhook: true,
};

/// Where the Graph API is, with its version.
pub(super) fn graph(kind: Meta, config: &ChannelConfig) -> String {
    let own = match kind {
        Meta::Whatsapp | Meta::Messenger => "https://graph.facebook.com",
        Meta::Instagram => "https://graph.instagram.com",
    };
    let version = config.setting("api_version").unwrap_or(VERSION);
    format!("{}/{version}", config.address("api_url", own))
}

pub(super) fn check(kind: Meta, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
    let account = account(kind);
    let id = config.setting(account).unwrap_or_default();
    if !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((account, "this is a number that Meta gave, of digits alone".to_owned()));
    }
    let version = config.setting("api_version").unwrap_or(VERSION);
    if !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
        return Err(("api_version", "a version is written like v24.0".to_owned()));
    }
    let words = config.setting("business_use").unwrap_or_default().trim().chars().count();
    if kind == Meta::Whatsapp && words < 20 {
        let why = "say in a sentence what your customers write to this number for";
        return Err(("business_use", why.to_owned()));
    }
    Ok(())
}

/// The setting that names whose messages these are.
pub(super) fn account(kind: Meta) -> &'static str {
    match kind {
        Meta::Whatsapp => "phone_number_id",
        Meta::Messenger => "page_id",
        Meta::Instagram => "account_id",
    }
}

pub(super) fn connect(kind: Meta, config: &ChannelConfig) -> Vec<HttpPlan> {
    let Ok(token) = config.secret("access_token") else { return Vec::new() };
    let graph = graph(kind, config);
    let get = |path: &str| HttpPlan::get("connect", format!("{graph}/{path}")).bearer(token);
    let subscribe = |path: &str| {
        let url = format!("{graph}/{path}");
        HttpPlan::post_json("subscribe", url, &json!({})).bearer(token)
    };
    match kind {
        Meta::Whatsapp => {
            let id = config.setting("phone_number_id").unwrap_or_default();
            let known = get(&format!("{id}?fields=display_phone_number,verified_name"));
            let account = config.setting("waba_id");
            let account = account.map(|id| subscribe(&format!("{id}/subscribed_apps")));
            std::iter::once(known).chain(account).collect()
        }
        Meta::Messenger => vec![
            get("me?fields=id,name"),
            subscribe(
                "me/subscribed_apps?subscribed_fields=messages,messaging_postbacks,\
                 message_deliveries,message_reads,message_reactions,message_edits,\
                 messaging_referrals",
            ),
        ],
        Meta::Instagram => vec![
            get("me?fields=user_id,username"),
            subscribe(
                "me/subscribed_apps?subscribed_fields=messages,messaging_postbacks,\
                 messaging_seen,message_reactions,message_edit,messaging_referral",
            ),
        ],
    }
}

fn media(mimes: &[&str], max_bytes: u64, caption_max: Option<usize>) -> MediaCapability {
    let mimes = mimes.iter().map(|mime| (*mime).to_owned()).collect();
    MediaCapability { mimes, max_bytes: Some(max_bytes), caption_max, ..MediaCapability::default() }
}

fn by_kind(kinds: [(&str, MediaCapability); 4]) -> BTreeMap<String, MediaCapability> {
    kinds.into_iter().map(|(kind, media)| (kind.to_owned(), media)).collect()
}

const MB: u64 = 1_000_000;

/// As documented for the Cloud API.
pub(super) fn whatsapp() -> Capabilities {
    let native = ["bold", "italic", "strike", "code", "code_block", "list", "quote", "link"];
    let audio = ["audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"];
    Capabilities {
        text: TextCapability {
            max: 4096,
            unit: Unit::Utf16,
            formats: native.map(|name| (name.to_owned(), Level::Native)).into(),
        },
        media: by_kind([
            ("image", media(&["image/jpeg", "image/png"], 5 * MB, Some(1024))),
            ("audio", media(&audio, 16 * MB, None)),
            ("video", media(&["video/mp4", "video/3gpp"], 16 * MB, Some(1024))),
            ("file", media(&[], 100 * MB, Some(1024))),
        ]),
        buttons: ButtonsCapability { level: Level::Native, max: 3, label_max: 20 },
        list: ListCapability { level: Level::Native, max_rows: 10 },
        card: Level::Native,
        location: Level::Native,
        contact: Level::Native,
        reply_to: Level::Native,
        receipts: ["sent", "delivered", "read", "failed"].map(str::to_owned).to_vec(),
        reply_window_s: Some(WINDOW_S),
        rate: RateCapability { per_s: Some(80.0), per_conversation_per_s: Some(1.0) },
        ..Capabilities::default()
    }
}

/// As documented for the Send API.
pub(super) fn messenger() -> Capabilities {
    Capabilities {
        text: TextCapability { max: 2000, unit: Unit::Utf16, formats: BTreeMap::new() },
        media: by_kind([
            ("image", media(&["image/jpeg", "image/png", "image/gif"], 8 * MB, None)),
            ("audio", media(&[], 25 * MB, None)),
            ("video", media(&[], 25 * MB, None)),
            ("file", media(&[], 25 * MB, None)),
        ]),
        buttons: ButtonsCapability { level: Level::Native, max: 3, label_max: 20 },
        list: ListCapability { level: Level::Native, max_rows: 13 },
        card: Level::Native,
        typing: TypingCapability { level: Level::Native, ttl_s: 20 },
        receipts: ["delivered", "read"].map(str::to_owned).to_vec(),
        reply_window_s: Some(WINDOW_S),
        ..Capabilities::default()
    }
}

/// As Messenger, with shorter words and no files but pictures, sounds and films.
pub(super) fn instagram() -> Capabilities {
    let mut capabilities = messenger();
    capabilities.text.max = 1000;
    capabilities.text.unit = Unit::Bytes;
    capabilities.media.remove("file");
    capabilities.receipts = vec!["read".to_owned()];
    capabilities
}
