//! What the platform itself writes to people: codes, copies of conversations, notices. Each is sealed
//! in the database until it is sent; `qudao-channels` has the loop that sends.

use std::time::Duration;

use qudao_domain::{ChannelId, ContactId, MailId, TenantId};
use qudao_storage::{NewMail, StorageError, Tx};
use qudao_vault::Place;
use serde::{Deserialize, Serialize};

use crate::{Core, vault::VaultError};

pub mod words;

/// Something to be said to somebody who is not in a conversation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Letter {
    /// By mail, from the operator's address.
    Mail(Mail),
    /// Over a channel of the tenant.
    Channel {
        /// Which.
        channel_id: ChannelId,
        /// To whom, as the channel calls them.
        peer: String,
        /// The code alone, for platforms that take codes in a form of their own.
        code: String,
        /// What is said.
        text: String,
    },
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Letter(…)")
    }
}

/// A mail of the platform.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// To whom.
    pub to: String,
    /// As whom it comes, beside the operator's address: the tenant's channel.
    pub from_name: String,
    /// Its subject, in one line.
    pub subject: String,
    /// In plain words.
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

/// What a letter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To prove an address. Of no use after ten minutes.
    Code,
    /// To have a conversation at hand.
    Transcript,
    /// To know of a fault.
    Notice,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Transcript => "transcript",
            Self::Notice => "notice",
        }
    }

    fn good_for(self) -> Duration {
        match self {
            Self::Code => CODE_GOOD_FOR,
            Self::Transcript | Self::Notice => Duration::from_secs(24 * 3600),
        }
    }
}

/// How long a code opens something.
pub const CODE_GOOD_FOR: Duration = Duration::from_secs(600);

/// A letter that is ready to be put on its way.
#[derive(Clone)]
pub struct SealedLetter {
    id: MailId,
    purpose: Purpose,
    sealed: Vec<u8>,
}

impl Core {
    /// Whether mails can be sent: whether the operator set a mail server.
    pub fn sends_mail(&self) -> bool {
        self.settings.sends_mail
    }

    /// Seals a letter. No transaction may be open.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn seal_letter(
        &self,
        tenant_id: TenantId,
        purpose: Purpose,
        letter: &Letter,
    ) -> Result<SealedLetter, VaultError> {
        let id = MailId::new();
        let plain = serde_json::to_vec(letter).unwrap_or_default();
        let sealed = self.vault.seal(tenant_id, place(id), &plain).await?;
        Ok(SealedLetter { id, purpose, sealed })
    }

    /// Opens a letter to send it; `None` if it is none any more.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn open_letter(
        &self,
        tenant_id: TenantId,
        id: MailId,
        sealed: &[u8],
    ) -> Result<Option<Letter>, VaultError> {
        let plain = self.vault.open(tenant_id, place(id), sealed).await?;
        Ok(serde_json::from_slice(plain.reveal()).ok())
    }
}

impl SealedLetter {
    /// Puts it on its way, with the transaction. Call `wake.letters` when that is committed.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn send(&self, tx: &mut Tx, about: Option<ContactId>) -> Result<(), StorageError> {
        let Self { id, purpose, ref sealed } = *self;
        let (kind, good_for) = (purpose.as_str(), purpose.good_for());
        tx.add_mail(NewMail { id, kind, contact_id: about, sealed, good_for }).await
    }
}

fn place(id: MailId) -> Place {
    Place { table: "mails", column: "sealed", row: id.as_uuid() }
}
