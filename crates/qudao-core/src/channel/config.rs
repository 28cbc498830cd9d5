//! A channel's settings and secrets, as its adapter sees them.

use std::{collections::BTreeMap, fmt};

use qudao_domain::{ChannelId, TenantId, state::ChannelKind};
use serde_json::{Map, Value};

use super::adapter::Reject;

/// What an adapter is called and which settings it has.
#[derive(Debug)]
pub struct Manifest {
    /// Whose messages it carries.
    pub kind: ChannelKind,
    /// What the platform is called, in English.
    pub name: &'static str,
    /// And in Chinese.
    pub name_zh: &'static str,
    /// What can be set.
    pub fields: &'static [Field],
    /// Platforms send messages to the channel's inbound address.
    pub webhook: bool,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it is called, in English.
    pub label: &'static str,
    /// And in Chinese.
    pub label_zh: &'static str,
    /// Where to find it, in English; may be empty.
    pub help: &'static str,
    /// It is sealed, and shown to nobody.
    pub secret: bool,
    /// A channel cannot do without.
    pub required: bool,
    /// What its value is.
    pub form: FieldForm,
}

/// What a setting's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldForm {
    /// A text of at most so many characters.
    Text(usize),
    /// A key of at least so many characters, and at most 4,096.
    Key(usize),
    /// An address that begins with `http://` or `https://`.
    Url,
    /// A whole number within these bounds.
    Number(i64, i64),
    /// Yes or no.
    Bool,
    /// Texts, at most so many.
    List(usize),
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Field {
    /// A text that everybody who may see the channel may see.
    pub const fn text(name: &'static str, label: &'static str, label_zh: &'static str) -> Self {
        let form = FieldForm::Text(500);
        Self { name, label, label_zh, help: "", secret: false, required: true, form }
    }

    /// A text that is sealed.
    pub const fn secret(name: &'static str, label: &'static str, label_zh: &'static str) -> Self {
        Self { secret: true, form: FieldForm::Text(4096), ..Self::text(name, label, label_zh) }
    }

    /// With words on where to find it.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }

    /// One that can be left out.
    #[must_use]
    pub const fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// With another form.
    #[must_use]
    pub const fn form(self, form: FieldForm) -> Self {
        Self { form, ..self }
    }
}

impl Manifest {
    /// What is wrong with settings and secrets: a JSON pointer and words for each fault. `kept` are
    /// the names of the secrets that are set already.
    pub fn faults(
        &self,
        settings: &Map<String, Value>,
        secrets: &BTreeMap<String, String>,
        kept: &[String],
    ) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (name, value) in settings {
            let pointer = format!("/settings/{name}");
            match self.fields.iter().find(|field| field.name == name) {
                Some(field) if field.secret => {
                    faults.push((pointer, "is a secret: it belongs into secrets".to_owned()));
                }
                Some(field) => {
                    faults.extend(field.form.fault(value).map(|fault| (pointer, fault)));
                }
                None => faults.push((pointer, self.unknown())),
            }
        }
        for (name, text) in secrets {
            let pointer = format!("/secrets/{name}");
            match self.fields.iter().find(|field| field.name == name && field.secret) {
                Some(field) => {
                    let value = Value::String(text.clone());
                    faults.extend(field.form.fault(&value).map(|fault| (pointer, fault)));
                }
                None => faults.push((pointer, self.unknown())),
            }
        }
        for field in self.fields.iter().filter(|field| field.required) {
            let is_set = if field.secret {
                match secrets.get(field.name) {
                    Some(text) => !text.trim().is_empty(),
                    None => kept.iter().any(|name| name == field.name),
                }
            } else {
                settings.get(field.name).is_some_and(|value| {
                    !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty())
                })
            };
            if !is_set {
                let part = if field.secret { "secrets" } else { "settings" };
                let fault = format!("is needed: {}. {}", field.label, field.help);
                faults.push((format!("/{part}/{}", field.name), fault.trim_end().to_owned()));
            }
        }
        faults
    }

    fn unknown(&self) -> String {
        let known: Vec<_> = self.fields.iter().map(|field| field.name).collect();
        if known.is_empty() {
            return "is not known: this kind of channel has none".to_owned();
        }
        format!("is not known; there are {}", known.join(", "))
    }
}

impl FieldForm {
    /// What is wrong with a value.
    fn fault(self, value: &Value) -> Option<String> {
        let text = value.as_str();
        match self {
            Self::Text(most) => match text {
                Some(text) if text.chars().count() <= most => {
                    text.contains('\0').then(|| "must not contain the character U+0000".to_owned())
                }
                Some(_) => Some(format!("is longer than {most} characters")),
                None => Some("has to be a text".to_owned()),
            },
            // An empty one removes it.
            Self::Key(least) => match text {
                Some(text) if text.is_empty() || (least..=4096).contains(&text.chars().count()) => {
                    text.contains('\0').then(|| "must not contain the character U+0000".to_owned())
                }
                _ => Some(format!("has to be a text of {least} to 4096 characters")),
            },
            Self::Url => match text {
                Some("") => None,
                Some(text) if text.len() <= 2048 => url::Url::parse(text)
                    .ok()
                    .filter(|url| matches!(url.scheme(), "http" | "https"))
                    .is_none()
                    .then(|| "has to be an address that begins with https://".to_owned()),
                _ => Some("has to be an address".to_owned()),
            },
            Self::Number(least, most) => match value.as_i64() {
                Some(number) if (least..=most).contains(&number) => None,
                _ => Some(format!("has to be a whole number from {least} to {most}")),
            },
            Self::Bool => (!value.is_boolean()).then(|| "has to be true or false".to_owned()),
            Self::List(most) => {
                let fits = |items: &Vec<Value>| {
                    items.len() <= most
                        && items.iter().all(|item| {
                            item.as_str().is_some_and(|text| {
                                text.chars().count() <= 2048 && !text.contains('\0')
                            })
                        })
                };
                (!value.as_array().is_some_and(fits))
                    .then(|| format!("has to be a list of at most {most} texts"))
            }
            Self::Choice(choices) => (!text.is_some_and(|text| choices.contains(&text)))
                .then(|| format!("has to be one of {}", choices.join(", "))),
        }
    }
}

/// A channel's settings and secrets. Its `Debug` shows no secret.
#[derive(Clone)]
pub struct ChannelConfig {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which.
    pub channel_id: ChannelId,
    /// The language of what the platform itself says there.
    pub locale: String,
    /// What is no secret.
    pub settings: Map<String, Value>,
    /// Each secret's values that are valid, the newest first.
    pub secrets: BTreeMap<String, Vec<String>>,
    /// As whom the platform knows the channel, once it was connected.
    pub account: Option<String>,
    /// Where platforms send messages, as they reach it; empty if this installation does not know
    /// its own public address.
    pub inbound_url: String,
}

impl fmt::Debug for ChannelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelConfig")
            .field("channel_id", &self.channel_id)
            .finish_non_exhaustive()
    }
}

impl ChannelConfig {
    /// A setting's text; `None` if it is absent or empty.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A setting's address without the `/` at its end, or what stands for it.
    pub fn address(&self, name: &str, default: &str) -> String {
        self.setting(name).unwrap_or(default).trim_end_matches('/').to_owned()
    }

    /// Whether a setting is `true`; `default` if it is absent.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.settings.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A setting's number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.as_i64()
    }

    /// A setting's texts.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let listed = self.settings.get(name).and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The newest value of a secret, to be shown to the platform.
    ///
    /// # Errors
    /// [`Reject::NotConfigured`] if it is absent or empty.
    pub fn secret(&self, name: &'static str) -> Result<&str, Reject> {
        self.candidates(name)?.first().copied().ok_or(Reject::NotConfigured(name))
    }

    /// Every value of a secret that is valid, to check what the platform shows. Never empty, and
    /// none of them is.
    ///
    /// # Errors
    /// [`Reject::NotConfigured`] if there is none.
    pub fn candidates(&self, name: &'static str) -> Result<Vec<&str>, Reject> {
        let kept = self.secrets.get(name).map(Vec::as_slice).unwrap_or_default();
        let kept: Vec<_> =
            kept.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if kept.is_empty() { Err(Reject::NotConfigured(name)) } else { Ok(kept) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MANIFEST: Manifest = Manifest {
        kind: ChannelKind::Telegram,
        name: "T",
        name_zh: "T",
        fields: &[
            Field::secret("token", "Bot token", "令牌").help("Ask the bot father."),
            Field::text("receive", "Receive", "接收")
                .form(FieldForm::Choice(&["webhook", "poll"]))
                .optional(),
            Field::text("most", "Most", "最多").form(FieldForm::Number(1, 9)).optional(),
        ],
        webhook: true,
    };

    #[test]
    fn every_fault_is_named_where_it_is() {
        let settings = json!({ "receive": "pigeon", "most": 10, "token": "x", "colour": "red" });
        let faults = MANIFEST.faults(settings.as_object().unwrap(), &BTreeMap::new(), &[]);
        let pointers: Vec<_> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/settings/colour",
                "/settings/most",
                "/settings/receive",
                "/settings/token",
                "/secrets/token"
            ]
        );
        assert_eq!(faults[4].1, "is needed: Bot token. Ask the bot father.");
        let kept = ["token".to_owned()];
        assert!(MANIFEST.faults(&Map::new(), &BTreeMap::new(), &kept).is_empty());
        let emptied = BTreeMap::from([("token".to_owned(), " ".to_owned())]);
        assert_eq!(MANIFEST.faults(&Map::new(), &emptied, &kept).len(), 1);
    }

    #[test]
    fn an_empty_secret_is_none() {
        let config = ChannelConfig {
            tenant_id: TenantId::new(),
            channel_id: ChannelId::new(),
            locale: "en".to_owned(),
            settings: Map::new(),
            secrets: BTreeMap::from([("key".to_owned(), vec![String::new()])]),
            account: None,
            inbound_url: String::new(),
        };
        assert_eq!(config.candidates("key"), Err(Reject::NotConfigured("key")));
        assert_eq!(config.secret("other"), Err(Reject::NotConfigured("other")));
    }
}
