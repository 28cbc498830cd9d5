//! API keys: `qk_live_<id>_<43 characters>`, 256 random bits, shown once, kept as SHA-256.
//! A plain hash suffices for 256 bits of entropy (ASVS 5, 6.5.2 asks for at least 112).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use uuid::Uuid;

use crate::ids::{ApiKeyId, TenantId};

const PREFIX: &str = "qk_live_";
const SECRET_CHARS: usize = 43;

/// What is kept of a secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret's text.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The hash as the database keeps it, or `None` if it is not 32 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// 256 random bits in URL-safe base64, 43 characters.
pub fn random_secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a text can be a secret of [`random_secret`].
fn is_secret(text: &str) -> bool {
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == SECRET_CHARS && text.bytes().all(url_safe)
}

/// What a [`Ticket`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketKind {
    /// The cookie of a member who is signed in.
    Session,
    /// The link by which somebody becomes a member.
    Invitation,
}

impl TicketKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Session => "qs_",
            Self::Invitation => "qi_",
        }
    }
}

/// A secret of one row of one tenant: `qs_<tenant><id>_<43 characters>`. It names the tenant, so
/// that looking it up needs no sight of other tenants' rows. Never logged: `Debug` shows ids only.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    kind: TicketKind,
    tenant_id: TenantId,
    id: Uuid,
    secret: String,
}

impl Ticket {
    /// A new one for the row with this id.
    pub fn generate(kind: TicketKind, tenant_id: TenantId, id: Uuid) -> Self {
        Self { kind, tenant_id, id, secret: random_secret() }
    }

    /// Reads what a client sent. `None` for anything that cannot be a ticket of this kind.
    pub fn parse(kind: TicketKind, text: &str) -> Option<Self> {
        let (ids, secret) = text.strip_prefix(kind.prefix())?.split_at_checked(64)?;
        let secret = secret.strip_prefix('_').filter(|secret| is_secret(secret))?;
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if !ids.bytes().all(lower) {
            return None;
        }
        let (tenant, id) = ids.split_at(32);
        let tenant_id = TenantId::from_uuid(Uuid::try_parse(tenant).ok()?);
        let id = Uuid::try_parse(id).ok()?;
        Some(Self { kind, tenant_id, id, secret: secret.to_owned() })
    }

    /// Whose row it is.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }

    /// Which row.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What to keep and to compare.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// A second secret that follows from this one and does not tell it, for one purpose.
    pub fn derive(&self, purpose: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(self.secret.as_bytes());
        URL_SAFE_NO_PAD.encode(hash.finalize())
    }

    /// The whole ticket, for its owner.
    pub fn reveal(&self) -> String {
        let Self { kind, tenant_id, id, secret } = self;
        format!("{}{}{}_{secret}", kind.prefix(), tenant_id.as_uuid().simple(), id.simple())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?}, {}, {}, …)", self.kind, self.tenant_id, self.id)
    }
}

/// A key as its owner holds it. Never logged: `Debug` shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: ApiKeyId,
    secret: String,
}

impl ApiKey {
    /// A new key.
    pub fn generate() -> Self {
        Self { id: ApiKeyId::new(), secret: random_secret() }
    }

    /// Reads what a client sent. `None` for anything that cannot be a key.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (id, secret) = rest.split_once('_')?;
        if !is_secret(secret) {
            return None;
        }
        let id = format!("{}_{id}", ApiKeyId::PREFIX).parse().ok()?;
        Some(Self { id, secret: secret.to_owned() })
    }

    /// Which key it claims to be.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What to keep and to compare.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// The last four characters, by which a person recognises a key in a list.
    pub fn last4(&self) -> &str {
        &self.secret[SECRET_CHARS - 4..]
    }

    /// The whole key, to be shown to its owner once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id.as_uuid().simple(), self.secret)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(&key.reveal()).as_ref(), Some(&key));
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let good = ApiKey::generate().reveal();
        for text in [
            "",
            "qk_live_",
            &good[..good.len() - 1],
            &format!("{good}x"),
            &good.replace("qk_live", "qk_test"),
            &format!("{}é", &good[..good.len() - 2]),
        ] {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
    }

    fn ticket() -> Ticket {
        let session = crate::SessionId::new().as_uuid();
        Ticket::generate(TicketKind::Session, TenantId::new(), session)
    }

    #[test]
    fn a_ticket_survives_its_text_form_and_is_of_one_kind() {
        let ticket = ticket();
        let text = ticket.reveal();
        assert_eq!(Ticket::parse(TicketKind::Session, &text).as_ref(), Some(&ticket));
        assert_eq!(Ticket::parse(TicketKind::Invitation, &text), None);
        assert_eq!(
            Ticket::parse(TicketKind::Invitation, &text.replace("qs_", "qi_")).unwrap().id,
            ticket.id
        );
        assert!(!format!("{ticket:?}").contains(&ticket.secret));
        assert_ne!(ticket.derive("csrf"), ticket.derive("other"));
        assert!(!ticket.derive("csrf").contains(&ticket.secret));
    }

    #[test]
    fn what_is_not_a_ticket_is_refused() {
        let good = ticket().reveal();
        let parse = |text: &str| Ticket::parse(TicketKind::Session, text);
        for text in ["", "qs_", &good[..good.len() - 1], &format!("{good}x"), &good.to_uppercase()]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        for at in 0..good.len() {
            let mut cut = good.clone();
            cut.replace_range(at..=at, "é");
            assert_eq!(parse(&cut), None, "{cut}");
        }
    }

    #[test]
    fn the_secret_does_not_show_in_debug_output() {
        let key = ApiKey::generate();
        let shown = format!("{key:?} {:?}", key.hash());
        assert!(!shown.contains(&key.secret));
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_that_writes_itself_so_or_none(
            text in "(qk_live_)?[0-9a-f]{0,33}_?[A-Za-z0-9_-]{0,45}\\PC{0,3}",
        ) {
            if let Some(key) = ApiKey::parse(&text) {
                prop_assert_eq!(key.reveal(), text);
                prop_assert_eq!(key.last4().len(), 4);
            }
        }
    }
}
