//! The links of a chain, computed once more beside the database: whoever can change its rows could
//! change its functions as well.

use qudao_domain::TenantId;
use sha2::{Digest as _, Sha256};

/// A row as it is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: i64,
    pub(super) at_micros: i64,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) target: String,
    /// As the database writes it.
    pub(super) detail: String,
    pub(super) request_id: Option<String>,
    pub(super) address: Option<String>,
    pub(super) prev_hash: Vec<u8>,
    pub(super) hash: Vec<u8>,
}

impl Link {
    /// What its hash has to be. Each text has its length before it; -1 stands for none.
    pub(super) fn expected(&self, tenant_id: TenantId) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(&self.prev_hash);
        hash.update(tenant_id.as_uuid().as_bytes());
        hash.update(self.seq.to_be_bytes());
        hash.update(self.at_micros.to_be_bytes());
        let texts = [&self.actor, &self.action, &self.target, &self.detail].map(Some);
        for text in texts.into_iter().chain([self.request_id.as_ref(), self.address.as_ref()]) {
            match text {
                Some(text) => {
                    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
                    hash.update(length.to_be_bytes());
                    hash.update(text.as_bytes());
                }
                None => hash.update((-1_i32).to_be_bytes()),
            }
        }
        hash.finalize().into()
    }
}
