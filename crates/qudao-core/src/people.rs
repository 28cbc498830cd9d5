//! Erasure of people and of tenants, and words that are not kept for longer than a tenant wants.
//!
//! An erasure is a fence, many small steps and a mark at the end. It may break off anywhere: each
//! step can be repeated, and [`Core::resume_erasures`] finishes what a dead node began.

use std::time::Duration;

use qudao_domain::{ContactId, ConversationId, TenantId};
use qudao_storage::{Fence, StorageError};

use crate::Core;

/// How often something was said between the fence and the mark before an erasure is given up; the
/// next resumption goes on.
const TRIES: usize = 8;
/// An erasure that is older is not somebody else's any more.
const ABANDONED: Duration = Duration::from_secs(120);
/// Conversations that one pass of retention looks at.
const PASS: u32 = 200;
/// Tenants that one pass of retention looks at.
const TENANTS: u32 = 50;

/// What became of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// There is no such contact.
    Unknown,
    /// It is done, now or before.
    Done {
        /// How many messages lost their words by this call.
        messages: u64,
    },
}

/// Where a pass of retention left off.
#[derive(Debug, Default)]
pub struct RetentionCursor {
    tenant: Option<TenantId>,
    within: Option<(TenantId, u32, Option<ConversationId>)>,
}

impl Core {
    /// Erases a contact: cancels what is under way for it, forgets how channels call it, and takes
    /// the words out of everything it said and was told. Counts and charges stay. Safe to repeat.
    ///
    /// # Errors
    /// [`StorageError`]; what was done stays done.
    pub async fn erase_contact(
        &self,
        tenant_id: TenantId,
        contact_id: ContactId,
    ) -> Result<Erased, StorageError> {
        let mut messages = 0;
        for _ in 0..TRIES {
            let mut tx = self.store.begin(tenant_id).await?;
            let fence = tx.fence_contact(contact_id).await?;
            tx.commit().await?;
            match fence {
                Fence::Unknown => return Ok(Erased::Unknown),
                Fence::Erased => return Ok(Erased::Done { messages }),
                Fence::Fenced => {}
            }
            messages += self.blank_contact(tenant_id, contact_id).await?;
            let mut tx = self.store.begin(tenant_id).await?;
            let finished = tx.finish_contact(contact_id).await?;
            tx.commit().await?;
            if finished {
                return Ok(Erased::Done { messages });
            }
        }
        Err(StorageError::Inconsistent { detail: format!("{contact_id} cannot be erased") })
    }

    async fn blank_contact(
        &self,
        tenant_id: TenantId,
        contact_id: ContactId,
    ) -> Result<u64, StorageError> {
        let mut messages = 0;
        loop {
            let mut tx = self.store.begin(tenant_id).await?;
            let left = tx.spoken_conversations(contact_id).await?;
            tx.commit().await?;
            let before = messages;
            for conversation in left {
                messages += self.blank(tenant_id, conversation, 0).await?;
            }
            if messages == before {
                return Ok(messages);
            }
        }
    }

    async fn blank(
        &self,
        tenant_id: TenantId,
        conversation: ConversationId,
        age_days: u32,
    ) -> Result<u64, StorageError> {
        let mut messages = 0;
        loop {
            let mut tx = self.store.begin(tenant_id).await?;
            let blanked = tx.blank_messages(conversation, age_days).await?;
            tx.commit().await?;
            messages += blanked;
            if blanked == 0 {
                return Ok(messages);
            }
        }
    }

    /// Erases a tenant: closes its channels and keys, erases every contact, and takes the words out
    /// of what is its own. Its data keys are destroyed. The books, the usage and the audit log stay,
    /// under its id. Safe to repeat.
    ///
    /// # Errors
    /// [`StorageError`]; what was done stays done.
    pub async fn erase_tenant(&self, tenant_id: TenantId) -> Result<Erased, StorageError> {
        let mut tx = self.store.begin(tenant_id).await?;
        if tx.tenant().await?.is_none() {
            return Ok(Erased::Unknown);
        }
        tx.close_tenant().await?;
        tx.commit().await?;
        let mut messages = 0;
        loop {
            let mut tx = self.store.begin(tenant_id).await?;
            let left = tx.contacts_to_erase().await?;
            tx.commit().await?;
            if left.is_empty() {
                break;
            }
            for contact in left {
                if let Erased::Done { messages: more } =
                    self.erase_contact(tenant_id, contact).await?
                {
                    messages += more;
                }
            }
        }
        let mut tx = self.store.begin(tenant_id).await?;
        tx.finish_tenant().await?;
        tx.commit().await?;
        self.vault.forget(tenant_id).await;
        Ok(Erased::Done { messages })
    }

    /// Finishes erasures that nodes which died had begun. Returns how many.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn resume_erasures(&self) -> Result<u64, StorageError> {
        self.resume_erasures_after(ABANDONED).await
    }

    /// The same of erasures that were begun so long ago.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn resume_erasures_after(&self, age: Duration) -> Result<u64, StorageError> {
        let unfinished = self.store.unfinished_erasures(age).await?;
        let mut finished = 0;
        for erasure in unfinished {
            match erasure.contact_id {
                Some(contact) => self.erase_contact(erasure.tenant_id, contact).await?,
                None => self.erase_tenant(erasure.tenant_id).await?,
            };
            finished += 1;
        }
        Ok(finished)
    }

    /// One pass of retention: takes the words out of messages that are older than their tenant
    /// keeps them. Bounded; the next pass goes on where this one left off. Returns how many.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn keep_no_longer(&self, cursor: &mut RetentionCursor) -> Result<u64, StorageError> {
        let mut messages = 0;
        let mut budget = PASS;
        for _ in 0..TENANTS {
            let (tenant_id, days, after) = match cursor.within {
                Some(within) => within,
                None => {
                    let next = self.store.tenants_with_retention(cursor.tenant, 1).await?;
                    let Some((tenant_id, days)) = next.first().copied() else {
                        cursor.tenant = None;
                        return Ok(messages);
                    };
                    (tenant_id, days, None)
                }
            };
            let mut tx = self.store.begin(tenant_id).await?;
            let aged = tx.aged_conversations(days, after, budget).await?;
            tx.commit().await?;
            for conversation in &aged {
                messages += self.blank(tenant_id, *conversation, days).await?;
            }
            let seen = u32::try_from(aged.len()).unwrap_or(u32::MAX);
            if seen < budget {
                budget -= seen;
                cursor.tenant = Some(tenant_id);
                cursor.within = None;
            } else {
                cursor.within = Some((tenant_id, days, aged.last().copied()));
                break;
            }
        }
        Ok(messages)
    }
}
