//! What a tenant sets of the widget: the chat that a `<script>` puts on the tenant's own pages.

use std::fmt;

use qudao_core::channel::config::{ChannelConfig, Field, FieldForm, Manifest};
use qudao_domain::state::ChannelKind;
use serde::Serialize;
use url::Url;

/// Settings of a web channel. All of them are the widget's; the chat page has `voice` and `uploads` of
/// them.
pub static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Web,
    name: "Web chat",
    name_zh: "网页聊天",
    webhook: false,
    fields: &[
        Field::text("origins", "Sites that may show the widget", "可显示挂件的网站")
            .help("Scheme, host and port of each, such as https://shop.example. None: no widget.")
            .form(FieldForm::List(MAX_ORIGINS))
            .optional(),
        Field::text("title", "Title", "标题")
            .help("The assistant's name if left out.")
            .form(FieldForm::Text(60))
            .optional(),
        Field::text("intro", "Words below the greeting", "问候语下方的文字")
            .form(FieldForm::Text(300))
            .optional(),
        Field::text("launcher", "Words on the button", "按钮文字")
            .help("An icon alone if left out.")
            .form(FieldForm::Text(30))
            .optional(),
        Field::text("color", "Colour", "主题色")
            .help("As #rrggbb. Words on it are black or white, whichever is read better.")
            .form(FieldForm::Text(7))
            .optional(),
        Field::text("theme", "Light or dark", "浅色或深色")
            .form(FieldForm::Choice(THEMES))
            .optional(),
        Field::text("position", "Corner", "位置")
            .help("The corner at the end or at the start of a line, so that it turns with the script.")
            .form(FieldForm::Choice(SIDES))
            .optional(),
        Field::text("language", "Language", "语言")
            .help("A tag such as zh-CN, en or ar; that of the page if left out.")
            .form(FieldForm::Text(35))
            .optional(),
        Field::text("direction", "Direction", "文字方向")
            .help("That of the language if left out.")
            .form(FieldForm::Choice(DIRECTIONS))
            .optional(),
        Field::text("quick_replies", "Quick replies", "快捷回复")
            .help("What a visitor may press instead of writing a first message.")
            .form(FieldForm::List(MAX_REPLIES))
            .optional(),
        Field::text("ai_disclosure", "Say that an AI answers", "告知由 AI 回答")
            .help("On if left out. Where the law asks for it, leave it on.")
            .form(FieldForm::Bool)
            .optional(),
        Field::text("csat", "Ask how it was", "询问满意度")
            .help("On if left out.")
            .form(FieldForm::Bool)
            .optional(),
        Field::text("uploads", "Take files", "接收文件")
            .help("Off if left out: strangers will send them.")
            .form(FieldForm::Bool)
            .optional(),
        Field::text("voice", "Take voice messages", "接收语音消息")
            .help("On if left out, where the assistant has a speech model.")
            .form(FieldForm::Bool)
            .optional(),
        Field::text("transcript", "Let visitors save the conversation", "允许保存对话")
            .help("On if left out.")
            .form(FieldForm::Bool)
            .optional(),
        Field::secret(SITE_SECRET, "Secret for your site's tokens", "网站令牌密钥")
            .help("At least 32 characters. Your server signs with it who is signed in (HS256).")
            .form(FieldForm::Key(32))
            .optional(),
        Field::text(SITE_KEYS, "Public keys for your site's tokens", "网站令牌公钥")
            .help("In the place of a secret: keys of ES256 or EdDSA in PEM, each one entry.")
            .form(FieldForm::List(MAX_SITE_KEYS))
            .optional(),
    ],
};

/// The setting with the secret that a site signs tokens with.
pub(super) const SITE_SECRET: &str = "site_secret";
/// The setting with the public keys of a site that signs with private ones.
pub(super) const SITE_KEYS: &str = "site_keys";

const MAX_SITE_KEYS: usize = 4;
const MAX_ORIGINS: usize = 50;
const MAX_REPLIES: usize = 6;
const MAX_REPLY_CHARS: usize = 80;
const THEMES: &[&str] = &["auto", "light", "dark"];
const SIDES: &[&str] = &["end", "start"];
const DIRECTIONS: &[&str] = &["auto", "ltr", "rtl"];

/// A web site as browsers name it in the header `Origin`: scheme, host, and the port unless it is
/// the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Reads what a tenant wrote or a browser sent. `None` for what is no web site: another scheme,
    /// a path, credentials, `null`, a pattern.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text.trim()).ok()?;
        let web = matches!(url.scheme(), "http" | "https");
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let named = url.host_str().is_some_and(|host| !host.contains('*'));
        (web && bare && nobody && named).then(|| Self(url.origin().ascii_serialization()))
    }

    /// The header's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A corner at the bottom of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where lines begin.
    Start,
    /// Where lines end.
    End,
}

/// A widget's settings, with what stands for those that are left out. What no manifest would let
/// through is read as if it were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WidgetSettings {
    /// The sites that may show it.
    pub origins: Vec<Origin>,
    /// What its head says; the assistant's name if empty.
    pub title: String,
    /// Words below the greeting; the widget's own if empty.
    pub intro: String,
    /// Words on the button; an icon alone if empty.
    pub launcher: String,
    /// `#rrggbb`, or empty for the widget's own.
    pub color: String,
    /// `auto`, `light` or `dark`.
    pub theme: &'static str,
    /// In which corner it sits.
    pub position: Side,
    /// A language tag; that of the page if empty.
    pub language: String,
    /// `auto`, `ltr` or `rtl`.
    pub direction: &'static str,
    /// What can be pressed instead of writing.
    pub quick_replies: Vec<String>,
    /// It says that an AI answers.
    pub ai_disclosure: bool,
    /// It asks how it was.
    pub csat: bool,
    /// It takes files.
    pub uploads: bool,
    /// It takes voice messages, if the assistant listens.
    pub voice: bool,
    /// The conversation can be saved.
    pub transcript: bool,
}

impl WidgetSettings {
    /// Reads a channel's settings.
    pub fn read(config: &ChannelConfig) -> Self {
        let text = |name, most: usize| -> String {
            config.setting(name).unwrap_or_default().trim().chars().take(most).collect()
        };
        let choice = |name, among: &'static [&'static str]| -> &'static str {
            let chosen = config.setting(name);
            among.iter().find(|one| Some(**one) == chosen).copied().unwrap_or(among[0])
        };
        let replies = config.list("quick_replies");
        let replies = replies.into_iter().map(str::trim).filter(|reply| !reply.is_empty());
        let short = |reply: &str| reply.chars().take(MAX_REPLY_CHARS).collect();
        let color = text("color", 7);
        Self {
            origins: config.list("origins").into_iter().filter_map(Origin::parse).collect(),
            title: text("title", 60),
            intro: text("intro", 300),
            launcher: text("launcher", 30),
            color: if is_color(&color) { color } else { String::new() },
            theme: choice("theme", THEMES),
            position: if choice("position", SIDES) == "start" { Side::Start } else { Side::End },
            language: text("language", 35),
            direction: choice("direction", DIRECTIONS),
            quick_replies: replies.take(MAX_REPLIES).map(short).collect(),
            ai_disclosure: config.flag("ai_disclosure", true),
            csat: config.flag("csat", true),
            uploads: config.flag("uploads", false),
            voice: config.flag("voice", true),
            transcript: config.flag("transcript", true),
        }
    }

    /// The listed origin that a browser names, exactly.
    pub fn listed(&self, named: &str) -> Option<&Origin> {
        self.origins.iter().find(|origin| origin.as_str() == named)
    }
}

fn is_color(text: &str) -> bool {
    text.strip_prefix('#')
        .is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use qudao_domain::{ChannelId, TenantId};
    use serde_json::{Value, json};

    use super::*;

    fn settings(settings: Value) -> WidgetSettings {
        let Value::Object(settings) = settings else { panic!("an object") };
        WidgetSettings::read(&ChannelConfig {
            tenant_id: TenantId::new(),
            channel_id: ChannelId::new(),
            locale: "en".to_owned(),
            settings,
            secrets: BTreeMap::new(),
            inbound_url: String::new(),
            account: None,
        })
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for (written, read) in [
            ("https://shop.example", Some("https://shop.example")),
            (" https://Shop.Example/ ", Some("https://shop.example")),
            ("https://shop.example:443", Some("https://shop.example")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("http://[::1]:8080", Some("http://[::1]:8080")),
            ("https://bücher.example", Some("https://xn--bcher-kva.example")),
            ("https://*.shop.example", None),
            ("https://shop.example/path", None),
            ("https://shop.example?a", None),
            ("https://me@shop.example", None),
            ("ftp://shop.example", None),
            ("shop.example", None),
            ("null", None),
            ("*", None),
            ("", None),
        ] {
            let origin = Origin::parse(written);
            assert_eq!(origin.as_ref().map(Origin::as_str), read, "{written}");
        }
    }

    #[test]
    fn only_what_is_listed_to_the_letter_is_let_in() {
        let listed =
            settings(json!({ "origins": ["https://shop.example", "http://a.example:81"] }));
        for named in ["https://shop.example", "http://a.example:81"] {
            assert!(listed.listed(named).is_some(), "{named}");
        }
        for named in [
            "http://shop.example",
            "https://shop.example:8443",
            "https://www.shop.example",
            "https://shop.example.evil.example",
            "http://a.example",
            "null",
            "",
        ] {
            assert_eq!(listed.listed(named), None, "{named}");
        }
        assert_eq!(settings(json!({})).listed("https://shop.example"), None);
    }

    #[test]
    fn what_is_left_out_or_wrong_has_something_in_its_place() {
        let plain = settings(json!({}));
        assert_eq!((plain.theme, plain.direction, plain.position), ("auto", "auto", Side::End));
        assert_eq!([plain.ai_disclosure, plain.csat, plain.uploads], [true, true, false]);
        let odd = settings(json!({
            "color": "red; }", "theme": "pink", "quick_replies": ["", " a ", "x".repeat(200)],
            "uploads": "yes", "position": "start",
        }));
        assert_eq!((odd.color.as_str(), odd.theme, odd.position), ("", "auto", Side::Start));
        assert_eq!(odd.quick_replies, ["a".to_owned(), "x".repeat(80)]);
        assert!(!odd.uploads);
    }
}
