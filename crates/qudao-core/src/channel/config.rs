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
