//! Shim.
use crate::{Result, Tx};
/// An act.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: String,
    /// More.
    pub detail: serde_json::Value,
    /// Which request.
    pub request_id: String,
    /// Where from.
    pub address: String,
}
impl Tx {
    /// Shim.
    /// # Errors
    /// None.
    pub async fn record_audit(&mut self, _: &AuditEvent) -> Result<()> {
        Ok(())
    }
}
