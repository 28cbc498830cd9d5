//! What the conformance kit found, signed, so that a platform can believe it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{KeyError, PrivateKey, PublicKey};

/// As what the kit acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// As the platform, against an adapter.
    Adapter,
    /// As a partner, against a platform.
    Partner,
}

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As the protocol says.
    Passed,
    /// Otherwise.
    Failed,
    /// The other side declares that it does not have what the case is about.
    Skipped,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseReport {
    /// Its name, such as `S04`.
    pub id: String,
    /// What is expected.
    pub title: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was seen instead, or why it was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// All cases of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kit's name and version.
    pub kit: String,
    /// The dated version of the protocol.
    pub pcp_version: String,
    /// As what the kit acted.
    pub role: Role,
    /// Which channel was tried.
    pub channel: String,
    /// When.
    pub at: Timestamp,
    /// What was found.
    pub cases: Vec<CaseReport>,
}

/// A report and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReport {
    /// The report's JSON, as it was signed.
    pub report: String,
    /// `whpk_…`: who signed.
    pub public_key: String,
    /// ed25519 over the bytes of `report`, in base64.
    pub signature: String,
}

/// Why a report is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is not signed by that key.
    #[error("the signature does not match the report")]
    Signature,
    /// The report cannot be read.
    #[error("the report is not in the form of this version")]
    Form,
}

impl Report {
    /// Whether nothing failed and something passed.
    pub fn is_green(&self) -> bool {
        let count = |wanted| self.cases.iter().filter(|case| case.outcome == wanted).count();
        count(Outcome::Failed) == 0 && count(Outcome::Passed) != 0
    }

    /// Signs.
    pub fn sign(&self, key: &PrivateKey) -> SignedReport {
        let report = serde_json::to_string(self).unwrap_or_default();
        let signature: Signature = key.inner().sign(report.as_bytes());
        SignedReport {
            signature: STANDARD.encode(signature.to_bytes()),
            public_key: key.public().to_string(),
            report,
        }
    }
}

impl SignedReport {
    /// The report, if it is signed by the key that it names, and that key. Whether the key is to be
    /// believed is the caller's to decide.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn verify(&self) -> Result<(Report, PublicKey), ReportError> {
        let key = PublicKey::parse(&self.public_key)?;
        let bytes = STANDARD.decode(&self.signature).map_err(|_| ReportError::Signature)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| ReportError::Signature)?;
        let verified = key.inner().verify_strict(self.report.as_bytes(), &signature);
        verified.map_err(|_| ReportError::Signature)?;
        let report = serde_json::from_str(&self.report).map_err(|_| ReportError::Form)?;
        Ok((report, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_believed_as_it_was_signed_and_not_otherwise() {
        let report = Report {
            kit: "qudao-conform 0.1.0".into(),
            pcp_version: crate::VERSION.into(),
            role: Role::Adapter,
            channel: "chn_1".into(),
            at: Timestamp::UNIX_EPOCH,
            cases: vec![],
        };
        let key = PrivateKey::generate();
        let mut signed = report.sign(&key);
        assert_eq!(signed.verify().unwrap(), (report.clone(), key.public()));
        assert!(!report.is_green());
        signed.report = signed.report.replace("chn_1", "chn_2");
        assert_eq!(signed.verify(), Err(ReportError::Signature));
    }
}
