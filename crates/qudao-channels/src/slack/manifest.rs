//! What Slack is called, asks for, and can show.

use std::collections::BTreeMap;

use qudao_core::channel::config::{Field, FieldForm, Manifest};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, EditCapability, Level, ListCapability, MediaCapability,
        RateCapability, Streaming, TextCapability, Unit,
    },
    state::ChannelKind,
};

/// Where the Web API is.
pub(super) const API: &str = "https://slack.com/api";

pub(super) static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Slack,
    name: "Slack",
    name_zh: "Slack",
    fields: &[
        Field::secret("bot_token", "Bot user OAuth token", "机器人 OAuth 令牌")
            .help("api.slack.com/apps, your app, OAuth & Permissions; it begins with xoxb-."),
        Field::secret("signing_secret", "Signing secret", "签名密钥")
            .help("api.slack.com/apps, your app, Basic Information, App Credentials."),
        Field::text("api_url", "API address", "API 地址")
            .help("Only for a proxy or an emulator; https://slack.com/api if empty.")
            .form(FieldForm::Url)
            .optional(),
    ],
    webhook: true,
};

/// The largest file that is uploaded, in bytes: no larger copy is kept.
const UPLOAD_MAX: u64 = 25 << 20;

/// As documented for `chat.postMessage` and Block Kit.
pub(super) fn capabilities() -> Capabilities {
    let native = [
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
    let image = MediaCapability {
        mimes: ["image/png", "image/jpeg", "image/gif"].map(str::to_owned).to_vec(),
        caption_max: Some(2000),
        ..MediaCapability::default()
    };
    let file = MediaCapability::uploads(UPLOAD_MAX, Some(2000));
    Capabilities {
        text: TextCapability {
            max: 12_000,
            unit: Unit::Utf16,
            formats: native.map(|name| (name.to_owned(), Level::Native)).into(),
        },
        // Slack takes other files as uploads alone; as words they are links.
        media: BTreeMap::from([
            ("image".to_owned(), image),
            ("audio".to_owned(), file.clone()),
            ("video".to_owned(), file.clone()),
            ("file".to_owned(), file),
        ]),
        buttons: ButtonsCapability { level: Level::Native, max: 25, label_max: 75 },
        list: ListCapability { level: Level::Native, max_rows: 100 },
        card: Level::Native,
        edit: EditCapability { level: Level::Native, min_interval_ms: 1500, max_age_s: None },
        stream: Streaming::Edit,
        rate: RateCapability { per_s: None, per_conversation_per_s: Some(1.0) },
        ..Capabilities::default()
    }
}
