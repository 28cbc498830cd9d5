//! Secrets of tenants in a database whose dump opens nothing.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use qudao_core::vault::{MasterKeySource, Place, SealError, Vault, VaultError};
use qudao_domain::TenantId;
use qudao_storage::{SealedColumn, Store, StoreSettings};
use qudao_testkit::{TestDb, TestTenant, connect};
use qudao_vault::{MasterKey, MasterKeys};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const SECRETS: SealedColumn = SealedColumn { table: "secrets", column: "sealed", row: "secret_id" };

fn place(row: u128) -> Place {
    Place { table: SECRETS.table, column: SECRETS.column, row: Uuid::from_u128(row) }
}

fn given(keys: &[&MasterKey]) -> MasterKeySource {
    let older = keys[1..].iter().map(|key| (*key).clone()).collect();
    MasterKeySource::Given(MasterKeys::new(keys[0].clone(), older))
}

/// A table as a feature with secrets would have it.
fn make_table(db: &TestDb) {
    db.psql(
        "CREATE TABLE secrets (tenant_id uuid, secret_id uuid, sealed bytea, \
             PRIMARY KEY (tenant_id, secret_id)); \
         GRANT SELECT, INSERT, UPDATE ON secrets TO qudao_app",
    );
}

fn keep(db: &TestDb, tenant_id: TenantId, row: u128, sealed: &[u8]) {
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    db.psql(&format!(
        "INSERT INTO secrets VALUES ('{}', '{}', '\\x{hex}')",
        tenant_id.as_uuid(),
        Uuid::from_u128(row)
    ));
}

async fn kept(store: &Store, tenant_id: TenantId) -> Vec<(Uuid, Vec<u8>)> {
    let mut tx = store.begin(tenant_id).await.unwrap();
    tx.sealed_values(SECRETS, None, 100).await.unwrap()
}

fn dump(db: &TestDb) -> String {
    let output = Command::new("pg_dump").args(["--dbname", db.url()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_secret_opens_in_its_place_on_every_node_and_in_no_other() {
    let db = TestDb::new().await;
    let (one, other) = (
        TestTenant::builder().create(&db.store()).await,
        TestTenant::builder().name("Rival").create(&db.store()).await,
    );
    let vault = Vault::unlock(db.store(), qudao_testkit::master_keys()).await.unwrap();
    let sealed = vault.seal(one.id, place(1), b"first").await.unwrap();
    let beside = vault.seal(one.id, place(2), b"second").await.unwrap();
    let theirs = vault.seal(other.id, place(1), b"theirs").await.unwrap();
    let again = Vault::unlock(db.store(), qudao_testkit::master_keys()).await.unwrap();
    assert_eq!(again.open(one.id, place(1), &sealed).await.unwrap().reveal(), b"first");
    let shut = |outcome: Result<_, VaultError>| {
        assert!(matches!(outcome, Err(VaultError::Seal(SealError::DoesNotOpen))), "{outcome:?}");
    };
    shut(vault.open(one.id, place(1), &beside).await);
    shut(vault.open(one.id, place(2), &sealed).await);
    shut(vault.open(one.id, Place { column: "other", ..place(1) }, &sealed).await);
    shut(vault.open(one.id, Place { table: "other", ..place(1) }, &sealed).await);
    shut(vault.open(one.id, place(1), &theirs).await);
    shut(vault.open(other.id, place(1), &sealed).await);
    let own = vault.seal_platform(place(1), b"platform").await.unwrap();
    shut(vault.open_platform(place(1), &sealed).await);
    shut(vault.open(one.id, place(1), &own).await);
    assert_eq!(vault.open_platform(place(1), &own).await.unwrap().reveal(), b"platform");
}

#[tokio::test]
async fn a_dump_holds_neither_secrets_nor_keys() {
    let db = TestDb::new().await;
    make_table(&db);
    let tenant = TestTenant::builder().create(&db.store()).await;
    let master = MasterKey::generate();
    let vault = Vault::unlock(db.store(), given(&[&master])).await.unwrap();
    let secret = b"JBSWY3DPEHPK3PXP";
    keep(&db, tenant.id, 1, &vault.seal(tenant.id, place(1), secret).await.unwrap());
    // The data key itself, as whoever has the master key reads it.
    let mut tx = db.store().begin(tenant.id).await.unwrap();
    let wrapped = tx.data_keys().await.unwrap().remove(0);
    let key = master.unwrap(tenant.id, 1, &wrapped.wrapped).unwrap();
    drop(tx);
    let dump = dump(&db);
    // The dump is one that would show them.
    assert!(dump.contains(&hex(&wrapped.wrapped)) && dump.contains("tenant_keys"));
    let plain = [
        String::from_utf8_lossy(secret).into_owned(),
        hex(secret),
        (*master.reveal()).clone(),
        hex(&master_bytes(&master)),
        hex(&data_key_bytes(&key, &master)),
    ];
    for secret in plain {
        assert!(8 < secret.len() && !dump.contains(&secret), "{secret} is in the dump");
    }
}

fn master_bytes(master: &MasterKey) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(&*master.reveal()).unwrap()
}

/// A data key shows its bytes to nobody; wrapped without a cipher they would be the tail.
fn data_key_bytes(key: &qudao_vault::DataKey, master: &MasterKey) -> Vec<u8> {
    let wrapped = master.wrap(key).unwrap();
    use chacha20poly1305::{
        KeyInit as _, XChaCha20Poly1305, XNonce,
        aead::{Aead as _, Payload},
    };
    let tenant = key.tenant_id();
    let context = [b"qudao data key".as_slice(), tenant.as_uuid().as_bytes()].concat();
    let aad = [&wrapped[..5], &context].concat();
    let nonce: [u8; 24] = wrapped[5..29].try_into().unwrap();
    let bytes: [u8; 32] = master_bytes(master).try_into().unwrap();
    let cipher = XChaCha20Poly1305::new(&bytes.into());
    cipher.decrypt(&XNonce::from(nonce), Payload { msg: &wrapped[29..], aad: &aad }).unwrap()
}

#[tokio::test]
async fn a_node_with_another_master_key_does_not_start() {
    let db = TestDb::new().await;
    let (right, wrong) = (MasterKey::generate(), MasterKey::generate());
    Vault::unlock(db.store(), given(&[&right])).await.unwrap();
    let refused = Vault::unlock(db.store(), given(&[&wrong])).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, VaultError::WrongMasterKey { .. }), "{refused:?}");
    for part in [right.id().as_str(), wrong.id().as_str(), "QUDAO_MASTER_KEY"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains(&*right.reveal()) && !text.contains(&*wrong.reveal()));
    // A check value that somebody exchanged.
    db.psql("UPDATE master_keys SET check_value = '\\x00'");
    let refused = Vault::unlock(db.store(), given(&[&right])).await.unwrap_err();
    assert!(matches!(refused, VaultError::BadCheckValue(_)), "{refused:?}");
}

#[tokio::test]
async fn nodes_that_start_together_agree_on_one_master_key() {
    let db = TestDb::new().await;
    let keys: Vec<MasterKey> = (0..4).map(|_| MasterKey::generate()).collect();
    let (mut started, mut refused) = (0, 0);
    let store = db.store();
    let starts = keys.iter().map(|key| Vault::unlock(store.clone(), given(&[key])));
    for outcome in futures_util::future::join_all(starts).await {
        match outcome {
            Ok(_) => started += 1,
            Err(VaultError::WrongMasterKey { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((started, refused), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_of_the_master_key_under_load_loses_nothing() {
    let db = TestDb::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    let (old, new) = (MasterKey::generate(), MasterKey::generate());
    std::fs::write(&file, &*old.reveal()).unwrap();
    let store = || connect(StoreSettings::new(db.url()));
    let first = Vault::unlock(store().await, MasterKeySource::File(file.clone())).await;
    let second = Vault::unlock(store().await, MasterKeySource::File(file.clone())).await;
    let nodes = [first.unwrap(), second.unwrap()];
    let over = Arc::new(AtomicBool::new(false));
    let tasks = TaskTracker::new();
    let load: Vec<_> = (0..8_usize)
        .map(|task| {
            let (seals, opens) = (nodes[task % 2].clone(), nodes[(task + 1) % 2].clone());
            let over = Arc::clone(&over);
            tasks.spawn(async move {
                let mut kept = Vec::new();
                while !over.load(Ordering::Relaxed) || kept.len() < 20 {
                    // A tenant of its own each time: keys are made while the master key changes.
                    let tenant_id = TenantId::new();
                    let text = format!("secret {} of {task}", kept.len());
                    let sealed = seals.seal(tenant_id, place(1), text.as_bytes()).await.unwrap();
                    let opened = opens.open(tenant_id, place(1), &sealed).await.unwrap();
                    assert_eq!(opened.reveal(), text.as_bytes());
                    kept.push((tenant_id, text, sealed));
                }
                kept
            })
        })
        .collect();
    while db.psql("SELECT count(*) FROM tenant_keys").trim().parse::<u32>().unwrap() < 50 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    std::fs::write(&file, format!("{}\n{}\n", *new.reveal(), *old.reveal())).unwrap();
    let done = nodes[0].rotate_master().await.unwrap();
    assert!(50 <= done.keys && done.master_key_id == new.id().as_str(), "{done:?}");
    over.store(true, Ordering::Relaxed);
    let mut kept = Vec::new();
    for task in load {
        kept.extend(task.await.unwrap());
    }
    assert_eq!(
        db.psql("SELECT DISTINCT master_key_id FROM tenant_keys").trim(),
        new.id().as_str(),
        "no key is left with the old one"
    );
    // With the new key alone everything opens; with the old one alone the node does not start.
    let fresh = Vault::unlock(store().await, given(&[&new])).await.unwrap();
    for (tenant_id, text, sealed) in &kept {
        let opened = fresh.open(*tenant_id, place(1), sealed).await.unwrap();
        assert_eq!(opened.reveal(), text.as_bytes());
    }
    assert!(160 <= kept.len());
    let refused = Vault::unlock(store().await, given(&[&old])).await;
    assert!(matches!(refused, Err(VaultError::WrongMasterKey { .. })));
}

#[tokio::test]
async fn a_tenants_new_key_seals_what_comes_and_what_is_there() {
    let db = TestDb::new().await;
    make_table(&db);
    let tenant = TestTenant::builder().create(&db.store()).await;
    let node = Vault::unlock(db.store(), qudao_testkit::master_keys()).await.unwrap();
    let slow = Vault::unlock(db.store(), qudao_testkit::master_keys()).await.unwrap();
    for row in 1..=3 {
        let text = format!("secret {row}");
        keep(
            &db,
            tenant.id,
            row,
            &slow.seal(tenant.id, place(row), text.as_bytes()).await.unwrap(),
        );
    }
    assert_eq!(node.rotate_tenant(tenant.id).await.unwrap(), 2);
    let new = node.seal(tenant.id, place(4), b"secret 4").await.unwrap();
    assert_eq!(new[..5], [1, 0, 0, 0, 2]);
    // A node that has not heard of it opens the new, and goes on with the old for a while.
    assert_eq!(slow.open(tenant.id, place(4), &new).await.unwrap().reveal(), b"secret 4");
    keep(&db, tenant.id, 4, &new);
    assert_eq!(node.reseal_column(tenant.id, SECRETS).await.unwrap(), 3);
    assert_eq!(node.reseal_column(tenant.id, SECRETS).await.unwrap(), 0);
    for (index, (row, sealed)) in kept(&db.store(), tenant.id).await.into_iter().enumerate() {
        assert_eq!(sealed[..5], [1, 0, 0, 0, 2]);
        let opened = slow.open(tenant.id, place(row.as_u128()), &sealed).await.unwrap();
        assert_eq!(opened.reveal(), format!("secret {}", index + 1).as_bytes());
    }
    assert_eq!(
        db.psql("SELECT string_agg((retired_at IS NULL)::text, ',' ORDER BY key_version) FROM tenant_keys").trim(),
        "false,true"
    );
}
