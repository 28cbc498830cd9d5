use std::{fs, process::Command};

use qudao_plugin_api::manifest::{MANIFEST_FILE, Manifest, SIGNATURE_FILE, sha256_hex, sign};
use qudao_plugin_host::{
    ModelState, Placement, PluginState, SdkSource, pack, probe, scaffold, signing_key,
};

use crate::stage::{SECRET, Stage, ask, built, root, until};

pub(crate) fn rewrite(stage: &Stage, id: &str, change: impl FnOnce(&mut Manifest)) {
    let folder = stage.plugin(id);
    let text = fs::read_to_string(folder.join(MANIFEST_FILE)).unwrap();
    let mut manifest = Manifest::parse(&text).unwrap();
    change(&mut manifest);
    let text = toml::to_string(&manifest).unwrap();
    fs::write(folder.join(MANIFEST_FILE), &text).unwrap();
    fs::write(folder.join(SIGNATURE_FILE), sign(text.as_bytes(), &SECRET)).unwrap();
}

async fn refusal_of_plugin(stage: &Stage) -> String {
    let host = stage.start().await;
    match host.plugins().remove(0).state {
        PluginState::Refused { reason } => reason,
        state => panic!("{state:?}"),
    }
}

async fn refusal_of_model(stage: Stage, placement: Placement) -> String {
    let stage = stage.instance("echo", placement, |_| ());
    let host = stage.start().await;
    until(&host, "echo", |state| matches!(state, ModelState::Failed { .. })).await;
    match host.model("echo").unwrap().state {
        ModelState::Failed { reason } => reason,
        state => panic!("{state:?}"),
    }
}

#[tokio::test]
async fn echo_answers_in_both_placements_with_its_usage() {
    for placement in [Placement::Process, Placement::Inproc] {
        let stage = Stage::with(&["echo"]).instance("echo", placement, |_| ());
        let host = stage.ready().await;
        let (text, end) = ask(&host, "echo", "你好 dear world").await;
        assert_eq!((text.as_str(), end), ("你好 dear world", Ok(3)), "{placement:?}");
    }
}

#[tokio::test]
async fn an_answer_longer_than_the_window_arrives_whole_in_both_placements() {
    for placement in [Placement::Process, Placement::Inproc] {
        let stage = Stage::with(&["echo"]).instance("echo", placement, |settings| {
            settings.config = serde_json::json!({ "count": 2_000 });
        });
        let host = stage.ready().await;
        let (text, end) = ask(&host, "echo", "a b").await;
        assert_eq!((text.len(), end), (2_000 * 4 - 1, Ok(4_000)), "{placement:?}");
    }
}

#[tokio::test]
async fn the_example_in_c_answers() {
    let stage = Stage::with(&[]);
    let example = root().join("examples/plugin-c");
    let out = stage.folder.path();
    let made = Command::new("make")
        .arg("-s")
        .arg("-C")
        .arg(&example)
        .arg(format!("OUT={}", out.display()))
        .status()
        .unwrap();
    assert!(made.success());
    pack(&example.join("plugin.toml"), out, &out.join("plugins"), &SECRET).unwrap();
    for placement in [Placement::Process, Placement::Inproc] {
        let stage =
            Stage { folder: tempfile::tempdir().unwrap(), settings: stage.settings.clone() }
                .instance("shout", placement, |_| ());
        let host = stage.ready().await;
        assert_eq!(ask(&host, "shout", "hi").await, ("HELLO FROM C".to_owned(), Ok(3)));
    }
}

#[tokio::test]
async fn a_manifest_without_a_signature_or_with_a_wrong_one_is_refused() {
    let stage = Stage::with(&["echo"]);
    let manifest = stage.plugin("echo").join(MANIFEST_FILE);
    let changed = fs::read_to_string(&manifest).unwrap() + "\n";
    fs::write(&manifest, changed).unwrap();
    assert!(refusal_of_plugin(&stage).await.contains("signature does not match"));
    fs::remove_file(stage.plugin("echo").join(SIGNATURE_FILE)).unwrap();
    assert!(refusal_of_plugin(&stage).await.contains("no signature"));
    let mut stranger = Stage::with(&["echo"]);
    stranger.settings.trusted_keys = vec![[1; 32]];
    assert!(refusal_of_plugin(&stranger).await.contains("not a trusted key"));
}

#[tokio::test]
async fn a_changed_library_is_refused_by_its_hash() {
    let stage = Stage::with(&["echo"]);
    let library = stage.plugin("echo").join("lib/libqudao_plugin_echo.so");
    let mut bytes = fs::read(&library).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&library, bytes).unwrap();
    let reason = refusal_of_model(stage, Placement::Process).await;
    assert!(reason.contains("sha256"), "{reason}");
}

#[tokio::test]
async fn a_library_without_the_symbols_and_a_file_that_is_none_are_refused() {
    for (source, expected) in [
        ("int nothing(void) { return 0; }", "does not export QUDAO_PLUGIN_ABI"),
        ("", "not a shared library"),
    ] {
        let stage = Stage::with(&["echo"]);
        let library = stage.plugin("echo").join("lib/libqudao_plugin_echo.so");
        if source.is_empty() {
            fs::write(&library, "hello").unwrap();
        } else {
            let c = stage.folder.path().join("nothing.c");
            fs::write(&c, source).unwrap();
            let made = Command::new("gcc")
                .args(["-shared", "-fPIC"])
                .arg(&c)
                .arg("-o")
                .arg(&library)
                .status()
                .unwrap();
            assert!(made.success());
        }
        let hash = sha256_hex(&fs::read(&library).unwrap());
        rewrite(&stage, "echo", |manifest| manifest.artifacts[0].sha256 = hash);
        let reason = refusal_of_model(stage, Placement::Inproc).await;
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_library_of_another_abi_is_refused_before_it_is_loaded() {
    let target = built().parent().unwrap().join("wrong-abi");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "qudao-plugin-rogue", "--features", "wrong-abi"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root())
        .status()
        .unwrap();
    assert!(status.success());
    let stage = Stage::with(&["echo"]);
    let library = stage.plugin("echo").join("lib/libqudao_plugin_echo.so");
    let bytes = fs::read(target.join("debug/libqudao_plugin_rogue.so")).unwrap();
    fs::write(&library, &bytes).unwrap();
    rewrite(&stage, "echo", |manifest| manifest.artifacts[0].sha256 = sha256_hex(&bytes));
    let reason = refusal_of_model(stage, Placement::Process).await;
    assert!(reason.contains("another ABI: 2.1"), "{reason}");
}

#[tokio::test]
async fn a_link_out_of_the_folder_is_refused() {
    let stage = Stage::with(&["echo"]);
    let library = stage.plugin("echo").join("lib/libqudao_plugin_echo.so");
    fs::remove_file(&library).unwrap();
    std::os::unix::fs::symlink(built().join("libqudao_plugin_echo.so"), &library).unwrap();
    let reason = refusal_of_model(stage, Placement::Process).await;
    assert!(reason.contains("out of the plugin's folder"), "{reason}");
}

#[tokio::test]
async fn the_best_artifact_that_loads_is_taken_and_a_missing_library_skips_one() {
    let stage = Stage::with(&["echo"]);
    let broken = stage.plugin("echo").join("lib/broken.so");
    let c = stage.folder.path().join("needy.c");
    // Looks like a plugin from outside, and fails in dlopen for want of a symbol.
    fs::write(&c, "#include \"qudao_plugin.h\"\nextern int nowhere(void);\n\
        QD_EXPORT const QdAbiInfo QUDAO_PLUGIN_ABI = {QD_MAGIC, 56, 1, 0, QD_F_BLOCKING, 0, \"C\"};\n\
        QD_EXPORT const QdPluginApi *qudao_plugin_entry(uint32_t a, uint32_t b)\
        { (void)a; (void)b; nowhere(); return 0; }\n").unwrap();
    let made = Command::new("gcc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(root().join("crates/qudao-plugin-api/include"))
        .arg(&c)
        .arg("-o")
        .arg(&broken)
        .status()
        .unwrap();
    assert!(made.success());
    let hash = sha256_hex(&fs::read(&broken).unwrap());
    rewrite(&stage, "echo", |manifest| {
        let mut unresolved = manifest.artifacts[0].clone();
        unresolved.variant = "unresolved".to_owned();
        unresolved.path = "lib/broken.so".to_owned();
        unresolved.sha256 = hash;
        unresolved.score = 50;
        let mut cuda = manifest.artifacts[0].clone();
        cuda.variant = "cuda".to_owned();
        cuda.libs = vec!["libno-such-driver.so.1".to_owned()];
        cuda.score = 100;
        manifest.artifacts.extend([unresolved, cuda]);
    });
    let stage = stage.instance("echo", Placement::Process, |_| ());
    let host = stage.ready().await;
    assert_eq!(host.model("echo").unwrap().variant, "cpu");
    let manifest = stage.plugin("echo").join(MANIFEST_FILE);
    let report = probe(&manifest, &stage.settings);
    let refusals: Vec<_> = report.artifacts.iter().map(|a| a.refusal.as_deref()).collect();
    assert!(refusals[0].unwrap().contains("libno-such-driver.so.1"), "{refusals:?}");
    assert!(refusals[1].unwrap().contains("nowhere"), "{refusals:?}");
    assert!(refusals[2].is_none() && report.is_usable());
}

#[tokio::test]
async fn a_plugin_that_fails_to_start_says_why() {
    let stage = Stage::with(&["rogue"]).instance("rogue", Placement::Process, |settings| {
        settings.config = serde_json::json!({ "create": "fail" });
    });
    let host = stage.start().await;
    until(
        &host,
        "rogue",
        |state| matches!(state, ModelState::Failed { reason } if reason.contains("told to fail")),
    )
    .await;
}

#[test]
fn a_scaffolded_plugin_has_a_template_that_parses_and_a_bad_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sdk = SdkSource::Path(root().join("crates/qudao-plugin-api"));
    let made = scaffold(folder.path(), "my-plugin", &sdk).unwrap();
    let template = fs::read_to_string(made.join("plugin.toml")).unwrap();
    assert_eq!(Manifest::parse_template(&template).unwrap().plugin.id, "my-plugin");
    assert!(scaffold(folder.path(), "my-plugin", &sdk).is_err());
    assert!(scaffold(folder.path(), "../evil", &sdk).is_err());
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline"])
        .arg("--target-dir")
        .arg(built().parent().unwrap().join("scaffold"))
        .current_dir(&made)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

#[test]
fn a_signing_key_is_made_once_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys/plugin.key");
    let key = signing_key(&path).unwrap();
    assert_eq!(signing_key(&path).unwrap(), key);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
