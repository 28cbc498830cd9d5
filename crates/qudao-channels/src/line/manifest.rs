//! What LINE is called, asks for, and can show.

use std::collections::BTreeMap;

use qudao_core::channel::config::{ChannelConfig, Field, FieldForm, Manifest};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, Level, ListCapability, MediaCapability, RateCapability,
        TextCapability, TypingCapability, Unit,
    },
    state::ChannelKind,
};

/// For how many seconds "writes…" is shown; 60 at most.
pub(super) const TYPING_S: u64 = 20;

pub(super) static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Line,
    name: "LINE",
    name_zh: "LINE",
    fields: &[
        Field::secret("channel_secret", "Channel secret", "频道密钥")
            .help("developers.line.biz, your Messaging API channel, Basic settings."),
        Field::secret("access_token", "Channel access token", "频道访问令牌")
            .help("developers.line.biz, your channel, Messaging API, Channel access token."),
        Field::text("api_url", "API address", "API 地址")
            .help("Only for a proxy or an emulator; https://api.line.me if empty.")
            .form(FieldForm::Url)
            .optional(),
        Field::text("data_url", "Address of files", "文件地址")
            .help("Only for a proxy or an emulator; https://api-data.line.me if empty.")
            .form(FieldForm::Url)
            .optional(),
    ],
    webhook: true,
};

pub(super) fn api(config: &ChannelConfig) -> String {
    config.address("api_url", "https://api.line.me")
}

pub(super) fn data(config: &ChannelConfig) -> String {
    config.address("data_url", "https://api-data.line.me")
}

/// As documented for the Messaging API.
pub(super) fn capabilities() -> Capabilities {
    // The picture is its own preview, and a preview has at most a megabyte. Sounds need their
    // length and films a still, which nobody knows here: as words they are links.
    let image = MediaCapability {
        mimes: ["image/jpeg", "image/png"].map(str::to_owned).to_vec(),
        max_bytes: Some(1_000_000),
        caption_max: None,
        ..MediaCapability::default()
    };
    Capabilities {
        text: TextCapability { max: 5000, unit: Unit::Utf16, formats: BTreeMap::new() },
        media: BTreeMap::from([("image".to_owned(), image)]),
        buttons: ButtonsCapability { level: Level::Native, max: 4, label_max: 20 },
        list: ListCapability { level: Level::Native, max_rows: 13 },
        card: Level::Native,
        location: Level::Native,
        typing: TypingCapability { level: Level::Native, ttl_s: TYPING_S },
        rate: RateCapability { per_s: Some(2000.0), per_conversation_per_s: None },
        ..Capabilities::default()
    }
}
