use serde_json::json;

use super::*;

#[test]
fn a_manifest_without_permissions_gets_nothing_and_config_names_the_files() {
    let config = json!({ "path": "/models/a.gguf", "other": "/etc/shadow" });
    let strict = Confinement::new(Sandbox::BestEffort, &Permissions::default(), &config, true);
    assert!(!strict.network && !strict.gpu && strict.files.is_empty());
    let asked = Permissions {
        files: vec!["path".to_owned(), "absent".to_owned()],
        beside: vec!["tokenizer.json".to_owned()],
        network: vec!["api.example.com".to_owned()],
        devices: vec!["nvidia".to_owned()],
        ..Permissions::default()
    };
    let granted = Confinement::new(Sandbox::BestEffort, &asked, &config, false);
    assert!(granted.network && !granted.gpu, "no GPU for an artifact of the processor");
    assert_eq!(
        granted.files,
        [PathBuf::from("/models/tokenizer.json"), PathBuf::from("/models/a.gguf")]
    );
}

#[test]
fn what_the_kernel_offers_is_told_by_name() {
    let (held, missing) = protections();
    assert!(held.contains(&"no_new_privs".to_owned()));
    assert_eq!(held.len() + missing.len(), 5);
}
