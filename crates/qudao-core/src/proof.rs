//! Who somebody is, on the word of the tenant's site or by a code that was sent to their address.

use qudao_domain::{
    ChannelId, ClaimId, ContactId, TenantId,
    address::{Email, Phone},
    key::SecretHash,
};
use qudao_storage::{
    AuditEvent, ClaimKind, ContactClaim, Evidence, Merge, NewClaimCode, Proof, Proven,
    StorageError, Tx,
};
use rand::RngExt as _;
use serde_json::json;

use crate::{
    Core,
    letter::{CODE_GOOD_FOR, Letter, Purpose, words},
    vault::VaultError,
};

/// Somebody on a channel.
#[derive(Debug, Clone, Copy)]
pub struct Somebody<'a> {
    /// Whose channel it is.
    pub tenant_id: TenantId,
    /// Which.
    pub channel_id: ChannelId,
    /// As whom the channel knows them.
    pub peer: &'a str,
}

/// What the tenant's site says of a visitor.
#[derive(Debug, Clone, Copy)]
pub struct Vouched<'a> {
    /// Who they are.
    pub claims: &'a [ContactClaim],
    /// What they are called.
    pub name: Option<&'a str>,
    /// Which language they read.
    pub locale: Option<&'a str>,
}

/// An address that a code is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// By mail.
    Email(Email),
    /// Over a channel of the tenant.
    Phone {
        /// The number.
        phone: Phone,
        /// Which channel.
        channel_id: ChannelId,
        /// As whom that channel knows the number.
        peer: String,
    },
}

impl Reach {
    /// The address, in its one form.
    pub fn address(&self) -> &str {
        match self {
            Self::Email(email) => email.as_str(),
            Self::Phone { phone, .. } => phone.as_str(),
        }
    }

    fn claim(&self, tenant_id: TenantId) -> ContactClaim {
        let kind = match self {
            Self::Email(_) => ClaimKind::Email,
            Self::Phone { .. } => ClaimKind::Phone,
        };
        ContactClaim::of(tenant_id, kind, self.address())
    }
}

/// Why no code was sent.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The letter could not be sealed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// How often a code may be tried.
const TRIES: u32 = 5;

/// What stands in a merge that a site's token made.
const SITE_TOKEN: &str = "site_token: the tenant's site signed that both are one customer";
/// What stands in a merge that a code made.
const CODE: &str = "code: both showed a code that was sent to the same address";

impl Core {
    /// Takes the site's word for who a visitor is. `false` if the visitor is another customer
    /// already, who begins anew with another secret; nothing is changed then.
    ///
    /// # Errors
    /// [`StorageError`]; nothing was changed.
    pub async fn vouch(
        &self,
        who: Somebody<'_>,
        vouched: Vouched<'_>,
    ) -> Result<bool, StorageError> {
        let mut tx = self.store.begin(who.tenant_id).await?;
        let known =
            prove(&mut tx, who, (vouched.claims, &[]), (Evidence::Token, SITE_TOKEN)).await?;
        let Some(merges) = known else { return Ok(false) };
        tx.meet_identity(who.channel_id, who.peer, vouched.name, vouched.locale).await?;
        record(&mut tx, who.channel_id, &merges).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Sends a code to an address that somebody says is theirs, in the language of `locale` and the
    /// name of `channel`. Looks the same whether anybody has the address or not.
    ///
    /// # Errors
    /// [`AskError`]; nothing was sent.
    pub async fn ask_code(
        &self,
        who: Somebody<'_>,
        reach: &Reach,
        (locale, channel): (&str, &str),
    ) -> Result<ClaimId, AskError> {
        let id = ClaimId::new();
        let code = format!("{:06}", rand::rng().random_range(0..1_000_000_u32));
        let letter = match reach {
            Reach::Email(email) => {
                Letter::Mail(words::code_mail(locale, channel, email.as_str(), &code))
            }
            Reach::Phone { channel_id, peer, .. } => Letter::Channel {
                channel_id: *channel_id,
                peer: peer.clone(),
                text: words::code_text(locale, channel, &code),
                code: code.clone(),
            },
        };
        let letter = self.seal_letter(who.tenant_id, Purpose::Code, &letter).await?;
        let mut tx = self.store.begin(who.tenant_id).await?;
        let known = match reach {
            Reach::Email(email) => tx.known_by_mail(email.as_str()).await?,
            Reach::Phone { channel_id, peer, .. } => {
                tx.contact_at(*channel_id, peer).await?.into_iter().collect()
            }
        };
        tx.add_claim_code(NewClaimCode {
            id,
            channel_id: who.channel_id,
            thread: who.peer,
            claim: reach.claim(who.tenant_id),
            code_hash: hash_of(id, &code).as_bytes(),
            contacts: &known,
            good_for: CODE_GOOD_FOR,
        })
        .await?;
        letter.send(&mut tx, None).await?;
        tx.commit().await?;
        self.wake.letters.notify_one();
        Ok(id)
    }

    /// Takes a code that somebody shows. `false` if it is not the right one, or not any more: a try
    /// counts, and after five a code is good for nothing.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn confirm_code(
        &self,
        who: Somebody<'_>,
        id: ClaimId,
        code: &str,
    ) -> Result<bool, StorageError> {
        let mut tx = self.store.begin(who.tenant_id).await?;
        let tried = tx.try_claim_code(id, who.channel_id, who.peer, TRIES).await?;
        let right = tried.filter(|tried| {
            let wanted = SecretHash::from_slice(&tried.code_hash);
            wanted.is_some_and(|wanted| wanted.matches(&hash_of(id, code)))
        });
        if let Some(tried) = &right {
            tx.use_claim_code(id).await?;
            prove_address(&mut tx, who, tried.claim, &tried.contacts).await?;
        }
        // A wrong one counts too.
        tx.commit().await?;
        Ok(right.is_some())
    }
}

/// Of a code for one claim, so that no two codes have one hash.
fn hash_of(id: ClaimId, code: &str) -> SecretHash {
    SecretHash::of(&format!("{id} {code}"))
}

/// Keeps that somebody showed a code that was sent to an address.
async fn prove_address(
    tx: &mut Tx,
    who: Somebody<'_>,
    claim: ContactClaim,
    also: &[ContactId],
) -> Result<(), StorageError> {
    // An address makes nobody another customer.
    let merges = prove(tx, who, (&[claim], also), (Evidence::Code, CODE)).await?;
    record(tx, who.channel_id, &merges.unwrap_or_default()).await
}

/// The contacts that turned out to be one; `None` if nothing of it may be kept.
async fn prove(
    tx: &mut Tx,
    who: Somebody<'_>,
    (claims, also): (&[ContactClaim], &[ContactId]),
    (evidence, consent): (Evidence, &str),
) -> Result<Option<Vec<Merge>>, StorageError> {
    let contact = tx.meet_contact(who.channel_id, who.peer).await?;
    let made_by = &who.channel_id.to_string();
    match tx.prove(contact, Proof { claims, also, evidence, made_by, consent }).await? {
        Proven::Done(merges) => Ok(Some(merges)),
        Proven::SomebodyElse => Ok(None),
    }
}

/// Nobody who works for the tenant did it, and it stands in their log all the same.
async fn record(tx: &mut Tx, channel: ChannelId, merges: &[Merge]) -> Result<(), StorageError> {
    for merge in merges {
        tx.record_audit(&AuditEvent {
            actor: channel.to_string(),
            action: "contact.link".to_owned(),
            target: merge.into.to_string(),
            detail: json!({ "merge": merge.id, "evidence": merge.evidence.as_str() }),
            request_id: None,
            address: None,
        })
        .await?;
    }
    Ok(())
}
