//! The kinds of channels that a tenant can make.

use actix_web::HttpResponse;
use qudao_core::channel::config::{Field, FieldForm, Manifest};
use qudao_domain::state::ChannelKind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    access::TenantScope,
    extract::{NoQuery, Query},
};

/// A kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelKindBody {
    #[schema(value_type = String, example = "telegram")]
    kind: ChannelKind,
    /// What it is called, in English.
    name: &'static str,
    /// And in Chinese.
    name_zh: &'static str,
    /// Its platform sends messages to the channel's inbound address.
    inbound: bool,
    /// What can be set.
    fields: Vec<FieldBody>,
}

/// One setting of a kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FieldBody {
    name: &'static str,
    label: &'static str,
    label_zh: &'static str,
    /// Where to find it.
    help: &'static str,
    /// It belongs into `secrets`.
    secret: bool,
    required: bool,
    /// `text`, `url`, `number`, `bool`, `list` or `choice`.
    form: &'static str,
    /// What can be chosen.
    choices: &'static [&'static str],
}

impl From<&Field> for FieldBody {
    fn from(field: &Field) -> Self {
        let (form, choices): (_, &[&str]) = match field.form {
            FieldForm::Text(_) | FieldForm::Key(_) => ("text", &[]),
            FieldForm::Url => ("url", &[]),
            FieldForm::Number(..) => ("number", &[]),
            FieldForm::Bool => ("bool", &[]),
            FieldForm::List(_) => ("list", &[]),
            FieldForm::Choice(choices) => ("choice", choices),
        };
        Self {
            name: field.name,
            label: field.label,
            label_zh: field.label_zh,
            help: field.help,
            secret: field.secret,
            required: field.required,
            form,
            choices,
        }
    }
}

/// Every kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelKindList {
    data: Vec<ChannelKindBody>,
}

pub(crate) async fn list(_: TenantScope, _: Query<NoQuery>) -> HttpResponse {
    let body = |manifest: &'static Manifest| ChannelKindBody {
        kind: manifest.kind,
        name: manifest.name,
        name_zh: manifest.name_zh,
        inbound: manifest.webhook,
        fields: manifest.fields.iter().map(FieldBody::from).collect(),
    };
    let data = qudao_channels::manifests().into_iter().map(body).collect();
    HttpResponse::Ok().json(ChannelKindList { data })
}
