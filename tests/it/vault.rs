//! The master key of a real installation: made, kept out of backups, missed, and exchanged while the
//! platform serves.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use serde_json::Value;

use crate::platform::{Platform, Wanted, open_for_all};

/// Without the key that all other tests are given.
fn alone(settings: String) -> Wanted {
    Wanted { settings, environment: vec![("QUDAO_MASTER_KEY", String::new())], ..Wanted::default() }
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `qudao keys status --json`: each master key with whether it is in use and how many it wraps.
fn master_keys(platform: &Platform) -> Vec<(bool, u64, bool)> {
    let output = platform.qudao(&["keys", "status", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = status["master_keys"].as_array().unwrap().iter();
    keys.map(|key| {
        let flag = |name: &str| key[name].as_bool().unwrap();
        (flag("in_use"), key["wraps"].as_u64().unwrap(), flag("here"))
    })
    .collect()
}

#[tokio::test]
async fn the_master_key_is_made_once_exchanged_while_serving_and_missed_when_it_is_gone() {
    let nil = "00000000-0000-0000-0000-000000000000";
    let backups = tempfile::tempdir().unwrap();
    open_for_all(backups.path());
    let settings = format!("[backup]\ndir = {:?}\n", backups.path().display());
    let mut platform = Platform::start_with(alone(settings)).await;
    let file = platform.home.join("master.key");
    let first = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(platform.log().contains("keep a copy"), "{}", platform.log());
    assert!(!platform.log().contains(first.trim()));

    // What the platform did is verified, and a row that is changed is named.
    assert!(platform.qudao(&["audit", "verify"]).status.success());
    platform.sql(&format!(
        "SET app.tenant_id = '{nil}'; SELECT app.record_audit('operator', 'a', '', '{{}}', NULL, NULL); \
         SELECT app.record_audit('operator', 'b', '', '{{}}', NULL, NULL)"
    ));
    assert!(platform.qudao(&["audit", "verify"]).status.success());
    let change = |actor: &str| {
        platform.sql(&format!(
            "SET session_replication_role = replica; \
             UPDATE audit_events SET actor = '{actor}' WHERE seq = 2 AND tenant_id = '{nil}'"
        ))
    };
    change("mallory");
    let output = platform.qudao(&["audit", "verify"]);
    let named = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && named.contains("platform row 2"), "{named}");
    change("operator");
    let output = platform.qudao(&["audit", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["audit_events"][0]["action"], "b", "{listed}");

    // Two tenants' worth of keys, and then another master key for them.
    for tenant in [platform.text("tenant_id").to_owned(), "platform".to_owned()] {
        let output = platform.qudao(&["keys", "rotate-tenant", &tenant]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let wraps = |keys: &[(bool, u64, bool)]| keys.iter().map(|key| key.1).collect::<Vec<_>>();
    let before = master_keys(&platform);
    assert!(before.len() == 1 && before[0].0 && before[0].2 && 4 <= before[0].1, "{before:?}");
    let output = platform.qudao(&["keys", "rotate-master"]);
    assert!(output.status.success(), "{}", said(&output));
    let after = master_keys(&platform);
    assert_eq!(wraps(&after), [0, before[0].1], "{after:?}");
    let both = fs::read_to_string(&file).unwrap();
    assert!(both.ends_with(&first) && both.lines().count() == 2);

    // No backup holds the key, and says so.
    let output = platform.qudao(&["backup"]);
    assert!(output.status.success() && said(&output).contains("master.key is not in this backup"));
    let found = std::process::Command::new("grep")
        .args(["--recursive", "--files-with-matches", "--fixed-strings", first.trim()])
        .arg(backups.path())
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");

    // Without the file the platform does not start, and does not make another one.
    assert!(platform.terminate().success());
    let heads = fs::read_to_string(platform.home.join("audit-heads.jsonl")).unwrap();
    assert_eq!(heads.lines().count(), 1, "the stop signs: {heads}");
    fs::remove_file(&file).unwrap();
    let output = platform.command(&["serve", "--bind", "127.0.0.1:0"]).output().unwrap();
    let refused = said(&output);
    assert!(!output.status.success() && refused.contains("QUDAO_MASTER_KEY"), "{refused}");
    assert!(!file.exists());
    // With a wrong one neither.
    let mut wrong = platform.command(&["serve", "--bind", "127.0.0.1:0"]);
    let output = wrong.env("QUDAO_MASTER_KEY", crate::platform::MASTER_KEY).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("master key"), "{}", said(&output));
    fs::write(&file, both).unwrap();
    platform.restart().await;
    platform.assert_books_balance();
}
