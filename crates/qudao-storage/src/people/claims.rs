//! What people proved of themselves, and codes by which they do.

use std::time::Duration;

use qudao_domain::{ChannelId, ClaimId, ContactId, TenantId, state::ChannelKind};
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, postgres::PgRow};

use super::{Evidence, Merge, Merged, NewMerge};
use crate::{Result, Tx, claim::millis, row};

/// What kind of thing a person proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimKind {
    /// That they are the one whom the tenant itself calls so.
    Customer,
    /// That they read mails to an address.
    Email,
    /// That they read messages to a telephone number.
    Phone,
}

impl ClaimKind {
    /// As the database and the wire write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Email => "email",
            Self::Phone => "phone",
        }
    }

    /// What `text` names.
    pub fn find(text: &str) -> Option<Self> {
        [Self::Customer, Self::Email, Self::Phone].into_iter().find(|one| one.as_str() == text)
    }
}

/// What a person says of themselves: only a hash of it is kept, which is another for each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContactClaim {
    /// What kind of thing.
    pub kind: ClaimKind,
    /// Of the tenant, the kind, and the value.
    pub hash: [u8; 32],
}

impl ContactClaim {
    /// The claim of a value that is written in its one form already.
    pub fn of(tenant_id: TenantId, kind: ClaimKind, value: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"qudao contact claim\n");
        hash.update(tenant_id.as_uuid().as_bytes());
        hash.update(kind.as_str());
        hash.update(b"\n");
        hash.update(value);
        Self { kind, hash: hash.finalize().into() }
    }
}

/// On whose word a contact is who they say.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// What is proven by it.
    pub claims: &'a [ContactClaim],
    /// Who is known on other channels by what is proven.
    pub also: &'a [ContactId],
    /// By what.
    pub evidence: Evidence,
    /// Who says so.
    pub made_by: &'a str,
    /// What the person agreed to.
    pub consent: &'a str,
}

/// What came of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// It stands, and these contacts turned out to be one.
    Done(Vec<Merge>),
    /// The contact is another customer already. Nothing may be kept of this transaction.
    SomebodyElse,
}

/// Whether two contacts are one.
enum One {
    Are,
    Become(Merge),
    MayNot,
    Cannot,
}

/// A code that was sent to an address.
#[derive(Debug, Clone, Copy)]
pub struct NewClaimCode<'a> {
    /// Which.
    pub id: ClaimId,
    /// Where it was asked for.
    pub channel_id: ChannelId,
    /// By whom, as the channel calls them.
    pub thread: &'a str,
    /// What it proves.
    pub claim: ContactClaim,
    /// Of the code.
    pub code_hash: &'a [u8; 32],
    /// Who is known at the address on other channels.
    pub contacts: &'a [ContactId],
    /// For how long.
    pub good_for: Duration,
}

/// What is known of a code that somebody shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriedCode {
    /// What it proves.
    pub claim: ContactClaim,
    /// Of the right code.
    pub code_hash: [u8; 32],
    /// Who was known at the address on other channels.
    pub contacts: Vec<ContactId>,
}

impl Tx {
    /// The contact behind an identity, who is made if nobody is known there by this name.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn meet_contact(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
    ) -> Result<ContactId> {
        // Acceptance takes this lock where it makes an identity.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text || $2, 0))")
            .bind(channel_id.as_uuid())
            .bind(external_id)
            .execute(self.connection())
            .await?;
        if let Some(known) = self.contact_at(channel_id, external_id).await? {
            return Ok(known);
        }
        let contact_id = ContactId::new();
        sqlx::query("INSERT INTO contacts (tenant_id, contact_id) VALUES ($1, $2)")
            .bind(self.tenant_id().as_uuid())
            .bind(contact_id.as_uuid())
            .execute(self.connection())
            .await?;
        sqlx::query(
            "INSERT INTO identities (tenant_id, channel_id, external_id, contact_id) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .bind(contact_id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(contact_id)
    }

    /// Keeps what a contact proved. Who proved the same before is the same person: the contact goes
    /// over to them, unless the two are different customers, or somebody who works for the tenant
    /// took them apart before.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn prove(&mut self, contact_id: ContactId, proof: Proof<'_>) -> Result<Proven> {
        let mut claims = proof.claims.to_vec();
        // In one order, so that two proofs never wait for each other.
        claims.sort_unstable();
        let mut contact = contact_id;
        let mut merges = Vec::new();
        for claim in claims {
            if claim.kind == ClaimKind::Customer {
                let known = self.customers(contact).await?;
                if !known.is_empty() && !known.contains(&claim.hash) {
                    return Ok(Proven::SomebodyElse);
                }
            }
            let owner = self.claim_contact(claim, contact).await?;
            match self.become_one(owner, contact, proof).await? {
                One::Are | One::MayNot => {}
                One::Become(merge) => {
                    merges.push(merge);
                    contact = owner;
                }
                // Whose it was is being erased: what was theirs is nobody's now.
                One::Cannot => self.take_claim(claim, contact).await?,
            }
        }
        for also in proof.also {
            let also = self.merged_into(*also).await?;
            if let One::Become(merge) = self.become_one(also, contact, proof).await? {
                merges.push(merge);
                contact = also;
            }
        }
        Ok(Proven::Done(merges))
    }

    async fn become_one(
        &mut self,
        into: ContactId,
        from: ContactId,
        Proof { evidence, made_by, consent, .. }: Proof<'_>,
    ) -> Result<One> {
        if into == from {
            return Ok(One::Are);
        }
        if !self.may_be_one(into, from).await? {
            return Ok(One::MayNot);
        }
        let new = NewMerge { into, from, evidence, made_by, consent };
        Ok(match self.merge_contacts(new).await? {
            Merged::Done(merge) => One::Become(merge),
            Merged::Unknown | Merged::NotPossible => One::Cannot,
        })
    }

    /// Who a contact is by now.
    async fn merged_into(&mut self, id: ContactId) -> Result<ContactId> {
        let row = sqlx::query(
            "WITH RECURSIVE way (contact_id, merged_into, step) AS ( \
                 SELECT contact_id, merged_into, 0 FROM contacts \
                 WHERE tenant_id = $1 AND contact_id = $2 \
                 UNION ALL SELECT c.contact_id, c.merged_into, w.step + 1 \
                 FROM way w JOIN contacts c ON c.tenant_id = $1 AND c.contact_id = w.merged_into \
                 WHERE w.step < 100) \
             SELECT contact_id FROM way ORDER BY step DESC LIMIT 1",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let found = row.map(|row| row::id(&row, "contact_id", ContactId::from_uuid)).transpose()?;
        Ok(found.unwrap_or(id))
    }

    /// Who wrote from an address to the tenant's mailboxes, the first twenty. There a thread is named
    /// by the address and the mail that began it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn known_by_mail(&mut self, address: &str) -> Result<Vec<ContactId>> {
        let rows = sqlx::query(
            "SELECT DISTINCT i.contact_id \
             FROM channels c JOIN identities i USING (tenant_id, channel_id) \
             WHERE c.tenant_id = $1 AND c.kind = 'email' \
               AND lower(split_part(i.external_id, ' ', 1)) = $2 \
             ORDER BY i.contact_id LIMIT 20",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(address)
        .fetch_all(self.connection())
        .await?;
        let read = |row| Ok(row::id(row, "contact_id", ContactId::from_uuid)?);
        rows.iter().map(read).collect()
    }

    /// As whom the tenant knows a contact.
    async fn customers(&mut self, id: ContactId) -> Result<Vec<[u8; 32]>> {
        let rows = sqlx::query(
            "SELECT value_hash FROM contact_claims \
             WHERE tenant_id = $1 AND contact_id = $2 AND kind = 'customer'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        rows.iter().map(|row| Ok(hash(row, "value_hash")?)).collect()
    }

    /// Not two customers, and not two that a member took apart.
    async fn may_be_one(&mut self, one: ContactId, other: ContactId) -> Result<bool> {
        let (ours, theirs) = (self.customers(one).await?, self.customers(other).await?);
        if !ours.is_empty() && !theirs.is_empty() && !ours.iter().any(|hash| theirs.contains(hash))
        {
            return Ok(false);
        }
        let apart: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM contact_merges WHERE tenant_id = $1 \
                 AND undone_at IS NOT NULL \
                 AND (into_contact, from_contact) IN (($2, $3), ($3, $2)))",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(one.as_uuid())
        .bind(other.as_uuid())
        .fetch_one(self.connection())
        .await?;
        Ok(!apart)
    }

    /// Writes down that a contact proved something. Returns whose it is: who proved it first.
    async fn claim_contact(
        &mut self,
        claim: ContactClaim,
        contact_id: ContactId,
    ) -> Result<ContactId> {
        let row = sqlx::query(
            "INSERT INTO contact_claims (tenant_id, kind, value_hash, contact_id) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant_id, kind, value_hash) DO UPDATE SET proven_at = now() \
             RETURNING contact_id",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(claim.kind.as_str())
        .bind(claim.hash.as_slice())
        .bind(contact_id.as_uuid())
        .fetch_one(self.connection())
        .await?;
        Ok(row::id(&row, "contact_id", ContactId::from_uuid)?)
    }

    async fn take_claim(&mut self, claim: ContactClaim, contact_id: ContactId) -> Result<()> {
        sqlx::query(
            "UPDATE contact_claims SET contact_id = $4, proven_at = now() \
             WHERE tenant_id = $1 AND kind = $2 AND value_hash = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(claim.kind.as_str())
        .bind(claim.hash.as_slice())
        .bind(contact_id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Whom a channel knows by this id.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn contact_at(
        &mut self,
        channel_id: ChannelId,
        external_id: &str,
    ) -> Result<Option<ContactId>> {
        let row = sqlx::query(
            "SELECT contact_id FROM identities \
             WHERE tenant_id = $1 AND channel_id = $2 AND external_id = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(external_id)
        .fetch_optional(self.connection())
        .await?;
        Ok(row.map(|row| row::id(&row, "contact_id", ContactId::from_uuid)).transpose()?)
    }

    /// The tenant's first channel of a kind that is open.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn open_channel_of(&mut self, kind: ChannelKind) -> Result<Option<ChannelId>> {
        let row = sqlx::query(
            "SELECT channel_id FROM channels WHERE tenant_id = $1 AND kind = $2 AND open \
             ORDER BY channel_id LIMIT 1",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(kind.as_str())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.map(|row| row::id(&row, "channel_id", ChannelId::from_uuid)).transpose()?)
    }

    /// Keeps a code that is about to be sent.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_claim_code(&mut self, new: NewClaimCode<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO claim_codes (tenant_id, claim_id, channel_id, thread, kind, value_hash, \
                 code_hash, good_until, contacts) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8 * interval '1 millisecond', $9)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(new.id.as_uuid())
        .bind(new.channel_id.as_uuid())
        .bind(new.thread)
        .bind(new.claim.kind.as_str())
        .bind(new.claim.hash.as_slice())
        .bind(new.code_hash.as_slice())
        .bind(millis(new.good_for))
        .bind(new.contacts.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Counts a try of a code that is this visitor's, still good, and was not tried `most` times.
    /// `None` if there is no such code. The try counts only if the transaction is committed.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn try_claim_code(
        &mut self,
        id: ClaimId,
        channel_id: ChannelId,
        thread: &str,
        most: u32,
    ) -> Result<Option<TriedCode>> {
        let row = sqlx::query(
            "UPDATE claim_codes SET tries = tries + 1 \
             WHERE tenant_id = $1 AND claim_id = $2 AND channel_id = $3 AND thread = $4 \
               AND used_at IS NULL AND now() < good_until AND tries < $5 \
             RETURNING kind, value_hash, code_hash, contacts",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(thread)
        .bind(i32::try_from(most).unwrap_or(i32::MAX))
        .fetch_optional(self.connection())
        .await?;
        let read = |row: &PgRow| {
            let kind = row::state(row, "kind", ClaimKind::find)?;
            let claim = ContactClaim { kind, hash: hash(row, "value_hash")? };
            let contacts: Vec<sqlx::types::Uuid> = row.try_get("contacts")?;
            Ok::<_, sqlx::Error>(TriedCode {
                claim,
                code_hash: hash(row, "code_hash")?,
                contacts: contacts.into_iter().map(ContactId::from_uuid).collect(),
            })
        };
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Lets a code open nothing more.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn use_claim_code(&mut self, id: ClaimId) -> Result<()> {
        sqlx::query(
            "UPDATE claim_codes SET used_at = now() WHERE tenant_id = $1 AND claim_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

fn hash(row: &PgRow, column: &str) -> Result<[u8; 32], sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash has to have 32 bytes".into()))
}
