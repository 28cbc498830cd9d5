//! What Discord is called, asks for, and can show.

use std::collections::BTreeMap;

use qudao_core::channel::config::{ChannelConfig, Field, FieldForm, Manifest};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, EditCapability, Level, ListCapability, MediaCapability,
        RateCapability, Streaming, TextCapability, TypingCapability, Unit,
    },
    state::ChannelKind,
};

pub(super) static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Discord,
    name: "Discord",
    name_zh: "Discord",
    fields: &[
        Field::text("application_id", "Application ID", "应用编号")
            .help("discord.com/developers/applications, your app, General Information."),
        Field::text("public_key", "Public key", "公钥")
            .help("On the same page; requests are checked with it."),
        Field::secret("bot_token", "Bot token", "机器人令牌")
            .help("discord.com/developers/applications, your app, Bot, Reset Token."),
        Field::text("command", "Command", "命令")
            .help("What people write after the slash to ask in a server; ask if empty.")
            .optional(),
        Field::text("read_all", "Read what is not said to the bot", "读取所有消息")
            .help(
                "Needs the privileged Message Content intent, Bot page; without it the bot reads \
                 direct messages, mentions and replies to it.",
            )
            .form(FieldForm::Bool)
            .optional(),
        Field::text("api_url", "API address", "API 地址")
            .help("Only for a proxy or an emulator; https://discord.com/api/v10 if empty.")
            .form(FieldForm::Url)
            .optional(),
    ],
    webhook: true,
};

pub(super) fn api(config: &ChannelConfig) -> String {
    config.address("api_url", "https://discord.com/api/v10")
}

/// What people write after the slash.
pub(super) fn command(config: &ChannelConfig) -> String {
    config.setting("command").unwrap_or("ask").trim_start_matches('/').to_lowercase()
}

/// The largest file that a bot may upload anywhere, in bytes.
const UPLOAD_MAX: u64 = 10 << 20;

/// As documented for messages and components.
pub(super) fn capabilities() -> Capabilities {
    let native =
        ["bold", "italic", "strike", "code", "code_block", "link", "list", "quote", "heading"];
    let image = MediaCapability {
        mimes: ["image/png", "image/jpeg", "image/gif", "image/webp"].map(str::to_owned).to_vec(),
        upload_max_bytes: Some(UPLOAD_MAX),
        caption_max: Some(2000),
        ..MediaCapability::default()
    };
    let file = MediaCapability::uploads(UPLOAD_MAX, Some(2000));
    Capabilities {
        text: TextCapability {
            max: 2000,
            unit: Unit::Utf16,
            formats: native.map(|name| (name.to_owned(), Level::Native)).into(),
        },
        // Discord takes other files as uploads alone; as words they are links.
        media: BTreeMap::from([
            ("image".to_owned(), image),
            ("audio".to_owned(), file.clone()),
            ("video".to_owned(), file.clone()),
            ("file".to_owned(), file),
        ]),
        buttons: ButtonsCapability { level: Level::Native, max: 25, label_max: 80 },
        list: ListCapability { level: Level::Native, max_rows: 25 },
        card: Level::Native,
        reply_to: Level::Native,
        edit: EditCapability { level: Level::Native, min_interval_ms: 1500, max_age_s: None },
        stream: Streaming::Edit,
        typing: TypingCapability { level: Level::Native, ttl_s: 10 },
        rate: RateCapability { per_s: Some(50.0), per_conversation_per_s: Some(1.0) },
        ..Capabilities::default()
    }
}
