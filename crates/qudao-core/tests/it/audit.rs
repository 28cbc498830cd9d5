//! What a chain alone does not tell: rows that were cut off its end, and a chain written anew.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use qudao_core::{
    Vault,
    audit::{Verification, sign_heads, verify},
};
use qudao_domain::{SystemClock, TenantId};
use qudao_storage::{AuditEvent, Once, Store};
use qudao_testkit::TestDb;
use tempfile::TempDir;

struct Log {
    db: TestDb,
    store: Store,
    vault: Vault,
    tenant_id: TenantId,
    folder: TempDir,
}

impl Log {
    /// Five rows of a tenant and three of the platform, signed; then one more of the tenant.
    async fn new() -> Self {
        let db = TestDb::new().await;
        let store = db.store();
        let vault = Vault::unlock(db.store(), qudao_testkit::master_keys()).await.unwrap();
        let (tenant_id, folder) = (TenantId::new(), tempfile::tempdir().unwrap());
        let log = Self { db, store, vault, tenant_id, folder };
        log.record(tenant_id, 5).await;
        log.record(Once::OPERATOR, 3).await;
        assert_eq!(log.sign().await, 2);
        log.record(tenant_id, 1).await;
        log
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("audit-heads.jsonl")
    }

    async fn record(&self, tenant_id: TenantId, acts: u32) {
        let mut tx = self.store.begin(tenant_id).await.unwrap();
        for _ in 0..acts {
            let event = AuditEvent {
                actor: "operator".to_owned(),
                action: "plugin.reload".to_owned(),
                target: "echo".to_owned(),
                detail: serde_json::json!({}),
                request_id: None,
                address: None,
            };
            tx.record_audit(&event).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    async fn sign(&self) -> u64 {
        sign_heads(&self.store, &self.vault, &SystemClock, &self.file()).await.unwrap()
    }

    async fn verify(&self) -> Verification {
        verify(&self.store, Some(&self.vault), None, &[self.file()]).await.unwrap()
    }

    fn tamper(&self, sql: &str) {
        let sql = sql.replace("$t", &format!("'{}'", self.tenant_id.as_uuid()));
        self.db.psql(&format!("SET session_replication_role = replica; {sql}"));
    }

    /// The first bad rows, by chain.
    async fn faults(&self) -> Vec<(String, i64, String)> {
        let found = self.verify().await;
        let faults = found.faults();
        faults.map(|(chain, fault)| (chain.name.clone(), fault.seq, fault.reason.clone())).collect()
    }
}

/// The tenant's chain ends at its fourth row, as if it had never been longer.
const CUT: &str = "DELETE FROM audit_events WHERE tenant_id = $t AND seq > 4; \
                   UPDATE audit_heads SET seq = 4, hash = ( \
                       SELECT hash FROM audit_events WHERE tenant_id = $t AND seq = 4) \
                   WHERE tenant_id = $t";

#[tokio::test]
async fn heads_are_signed_once_and_copied_to_a_file_that_only_its_owner_reads() {
    let log = Log::new().await;
    let found = log.verify().await;
    assert!(found.holds(), "{found:?}");
    assert_eq!(found.signed, 4, "two in the database and two in the file");
    let rows: Vec<_> = found.chains.iter().map(|chain| (&*chain.name, chain.rows)).collect();
    assert_eq!(rows, [("platform", 3), (log.tenant_id.to_string().as_str(), 6)]);
    assert_eq!((log.sign().await, log.sign().await), (1, 0));
    let text = fs::read_to_string(log.file()).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(fs::metadata(log.file()).unwrap().permissions().mode() & 0o777, 0o600);
    // A line that a crash cut off is left behind.
    fs::write(log.file(), &text.as_bytes()[..text.len() - 20]).unwrap();
    log.record(log.tenant_id, 1).await;
    log.sign().await;
    let found = log.verify().await;
    assert!(found.holds() && found.signed == 8, "{found:?}");
}

#[tokio::test]
async fn a_tail_that_was_cut_off_is_missed_whichever_copy_is_left() {
    let log = Log::new().await;
    log.tamper(CUT);
    let missing = log.faults().await;
    assert_eq!(missing.len(), 1);
    assert_eq!((missing[0].0.clone(), missing[0].1), (log.tenant_id.to_string(), 5));
    // The file alone.
    log.tamper("DELETE FROM audit_heads_signed");
    let missing = log.faults().await;
    assert!(
        missing.len() == 1 && missing[0].1 == 5 && missing[0].2.contains("file"),
        "{missing:?}"
    );

    let log = Log::new().await;
    log.tamper(CUT);
    // The database alone.
    fs::remove_file(log.file()).unwrap();
    let missing = log.faults().await;
    assert!(missing.len() == 1 && missing[0].2.contains("database"), "{missing:?}");
}

#[tokio::test]
async fn a_signature_by_another_key_counts_for_nothing_and_is_told() {
    let log = Log::new().await;
    log.tamper(CUT);
    // The intruder signs the shorter chain with a key of their own.
    let own = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    log.tamper(&format!(
        "UPDATE audit_signers SET public_key = '\\x{}', sealed_seed = '\\x00'; \
         UPDATE audit_heads_signed SET seq = 4, hash = ( \
             SELECT hash FROM audit_events WHERE tenant_id = $t AND seq = 4) WHERE tenant_id = $t",
        hex(&own.verifying_key().to_bytes())
    ));
    let found = log.verify().await;
    assert!(!found.holds() && found.signed == 0 && found.forged.len() == 4, "{found:?}");

    let log = Log::new().await;
    log.tamper("UPDATE audit_heads_signed SET seq = 4 WHERE tenant_id = $t");
    let found = log.verify().await;
    assert!(!found.holds() && found.forged.len() == 1 && found.signed == 3, "{found:?}");
}

#[tokio::test]
async fn the_signing_key_survives_a_rotation_of_the_keys_above_it() {
    let log = Log::new().await;
    log.vault.rotate_tenant(Once::OPERATOR).await.unwrap();
    assert_eq!(log.vault.reseal(Once::OPERATOR).await.unwrap(), 1);
    assert!(log.verify().await.holds());
    assert_eq!(log.sign().await, 1);
    assert_eq!(log.db.psql("SELECT count(*) FROM audit_signers").trim(), "1");
}
