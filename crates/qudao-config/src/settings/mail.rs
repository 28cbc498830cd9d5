//! Mails of the platform itself.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::Secret;

/// Mails of the platform itself: codes by which visitors prove an address, copies of conversations,
/// notices to partners. Without a server these say that they are not to be had. The channels of kind
/// `email` have servers of their own.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// The server that takes mails: `smtps://mail.example.com` for TLS from the first byte (port
    /// 465), `smtp://` for STARTTLS, without which nothing is sent (port 587), or `smtp+plain://` for
    /// no protection at all (port 25): on the same machine. `QUDAO_MAIL_URL`.
    pub url: Option<String>,
    /// The name to sign in with; nobody signs in without it.
    pub user: Option<String>,
    /// The password. `QUDAO_MAIL_PASSWORD`.
    pub password: Option<Secret>,
    /// A file with the password in its first line; looked at when `password` is absent.
    pub password_file: Option<PathBuf>,
    /// The address that mails come from, such as `no-reply@example.com`.
    pub from: Option<String>,
}
